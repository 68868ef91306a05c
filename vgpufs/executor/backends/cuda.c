/* The cuda backend: one NVIDIA device, through the driver API. */
#include "executor/backend.h"
#include "executor/cuda/device.h"
#include "executor/cuda/driver.h"
#include "executor/cuda/image.h"

#ifdef KERNELS_IMAGE

static int cuda_open(const struct backend_options *options, char *error, size_t size)
{
    return device_open(options, error, size);
}

static void cuda_list(FILE *out)
{
    char error[JOB_ERROR_SIZE];
    int count = 0;
    if (driver_load(error, sizeof(error)) < 0) {
        fprintf(out, "  cuda    none: %s\n", error);
        return;
    }
    driver.cuDeviceGetCount(&count);
    for (int i = 0; i < count; i++) {
        char uuid[DEVICE_UUID_SIZE], name[128] = "";
        CUdevice handle;
        if (driver.cuDeviceGet(&handle, i) != CUDA_SUCCESS)
            continue;
        driver.cuDeviceGetName(name, sizeof(name), handle);
        device_uuid(handle, "GPU-", uuid);
        fprintf(out, "  cuda %d  %s  %s\n", i, name, uuid);
    }
    fprintf(out, "  cuda    kernels for %s\n", kernels_architectures);
}

#else

#define LEFT_OUT                                                                                   \
    "this build has no backend cuda: nvcc was not found when it was built: install the CUDA "      \
    "toolkit and build again, or choose --backend=cpu"

static int cuda_open(const struct backend_options *options, char *error, size_t size)
{
    (void)options;
    snprintf(error, size, "%s", LEFT_OUT);
    return -1;
}

static void cuda_list(FILE *out)
{
    fprintf(out, "  cuda    none: %s\n", LEFT_OUT);
}

#endif

static const char *cuda_device_name(void)
{
    return device.name;
}

static enum job_status cuda_run(const struct workload *workload, struct job *job)
{
    if (!workload->cuda) { /* it has no kernels: the host's processors run it, and are named */
        job->backend = backend_cpu.name;
        job->device = backend_cpu.device_name();
        return workload->cpu(job);
    }
    enum job_status status = workload->cuda(job);
    /* What the job has computed cannot be relied upon if its end went wrong. */
    if (device_end_job(job) < 0)
        return JOB_FAILED;
    return status;
}

const struct backend backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = device_close,
    .device_name = cuda_device_name,
    .run = cuda_run,
    .broken = device_broken,
    .list = cuda_list,
};
