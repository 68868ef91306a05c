#include "fft_library.h"

#include "common/log.h"
#include "library.h"

#include <stddef.h>
#include <stdio.h>

/* Names, values and prototypes of the "cuFFT" documentation; every call returns 0 if it worked. */
#define CUFFT_C2C     0x29
#define CUFFT_Z2Z     0x69
#define CUFFT_FORWARD (-1)
#define CUFFT_INVERSE 1

typedef int cufftHandle;

static struct {
    int (*version)(int *version);
    int (*create)(cufftHandle *handle);
    int (*destroy)(cufftHandle handle);
    int (*set_auto_allocation)(cufftHandle handle, int automatic);
    int (*make_plan_many)(cufftHandle handle, int rank, int *n, int *inembed, int istride,
                          int idist, int *onembed, int ostride, int odist, int type, int batch,
                          size_t *work_bytes);
    int (*set_work_area)(cufftHandle handle, void *work);
    int (*set_stream)(cufftHandle handle, CUstream stream);
    int (*exec_c2c)(cufftHandle handle, void *in, void *out, int direction);
    int (*exec_z2z)(cufftHandle handle, void *in, void *out, int direction);
} cufft;

static const struct library_call calls[] = {
    {"cufftGetVersion", offsetof(__typeof__(cufft), version)},
    {"cufftCreate", offsetof(__typeof__(cufft), create)},
    {"cufftDestroy", offsetof(__typeof__(cufft), destroy)},
    {"cufftSetAutoAllocation", offsetof(__typeof__(cufft), set_auto_allocation)},
    {"cufftMakePlanMany", offsetof(__typeof__(cufft), make_plan_many)},
    {"cufftSetWorkArea", offsetof(__typeof__(cufft), set_work_area)},
    {"cufftSetStream", offsetof(__typeof__(cufft), set_stream)},
    {"cufftExecC2C", offsetof(__typeof__(cufft), exec_c2c)},
    {"cufftExecZ2Z", offsetof(__typeof__(cufft), exec_z2z)},
};

/* The newest first: one that is newer than the driver does not work with it. CUDA 13 has 12, CUDA
 * 12 has 11. */
static const char *const libraries[] = {"libcufft.so.12", "libcufft.so.11"};

/* The one plan that there is; what a job needs of the device beside it is in its work area. */
static struct {
    bool made, f64;
    uint64_t n, batch;
    cufftHandle handle;
    size_t work_bytes;
} plan;

static bool in_use;
static struct library_name name = {.text = "own kernels"};

static bool use(const char *file)
{
    char why[32];
    int version = 0, status;
    cufftHandle trial;
    if (!library_load(&name, file, calls, sizeof(calls) / sizeof(calls[0]), &cufft))
        return false;
    status = cufft.version(&version);
    if (status == 0)
        status = cufft.create(&trial);
    if (status == 0)
        status = cufft.destroy(trial);
    if (status != 0) {
        snprintf(why, sizeof(why), "error %d at its start", status);
        library_leave_out(&name, file, why);
        return false;
    }
    /* <cufft.h>: 1000 * major + 100 * minor + patch. */
    snprintf(name.text, sizeof(name.text), "cuFFT %d.%d.%d", version / 1000, version / 100 % 10,
             version % 100);
    in_use = true;
    return true;
}

void fft_library_open(void)
{
    if (!library_is_wanted(&name, "cuFFT"))
        return;
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++)
        if (use(libraries[i]))
            return;
}

static void drop_plan(void)
{
    if (plan.made)
        cufft.destroy(plan.handle);
    plan.made = false;
}

void fft_library_close(void)
{
    drop_plan();
    in_use = false;
}

const char *fft_library_name(void)
{
    return name.text;
}

static void leave_out(int status)
{
    char why[32];
    log_warning("%s: error %d: own kernels transform from now on", name.text, status);
    snprintf(why, sizeof(why), "error %d", status);
    library_leave_out(&name, "cuFFT", why);
    fft_library_close();
}

/* make_plan: without embedding, transforms lie one behind the other. 0, or cuFFT's error. */
static int make_plan(bool f64, uint64_t n, uint64_t batch)
{
    int length = (int)n, status;
    drop_plan();
    status = cufft.create(&plan.handle);
    if (status != 0)
        return status;
    plan.made = true;
    plan.f64 = f64;
    plan.n = n;
    plan.batch = batch;
    /* What it took by itself would not count as the job's memory, nor be cleared. */
    status = cufft.set_auto_allocation(plan.handle, 0);
    if (status != 0)
        return status;
    return cufft.make_plan_many(plan.handle, 1, &length, NULL, 1, length, NULL, 1, length,
                                f64 ? CUFFT_Z2Z : CUFFT_C2C, (int)batch, &plan.work_bytes);
}

/* A device address as the library's C prototypes have it. */
static void *pointer(CUdeviceptr address)
{
    return (void *)(uintptr_t)address;
}

int fft_library_prepare(struct job *job, bool f64, uint64_t n, uint64_t batch)
{
    CUdeviceptr work;
    int status = 0, got;
    if (!in_use)
        return 0;
    if (!plan.made || plan.f64 != f64 || plan.n != n || plan.batch != batch) {
        uint64_t start = job_clock_ns();
        status = make_plan(f64, n, batch);
        job->compute_ns += job_clock_ns() - start;
    }
    if (status == 0 && plan.work_bytes > 0) {
        got = device_allocate_if_room(job, plan.work_bytes, &work);
        if (got <= 0)
            return got;
        status = cufft.set_work_area(plan.handle, pointer(work));
    }
    if (status == 0)
        return 1;
    leave_out(status);
    return 0;
}

bool fft_library_run(struct device_lane *lane, CUdeviceptr in, CUdeviceptr out, bool inverse)
{
    int direction = inverse ? CUFFT_INVERSE : CUFFT_FORWARD;
    if (!in_use)
        return false;
    int status = cufft.set_stream(plan.handle, lane->stream);
    if (status == 0)
        status = (plan.f64 ? cufft.exec_z2z : cufft.exec_c2c)(plan.handle, pointer(in),
                                                              pointer(out), direction);
    if (status == 0)
        return true;
    /* The caller waits for each transform: none is at work in the plan that goes. */
    leave_out(status);
    return false;
}
