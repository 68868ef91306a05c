/* The cuda backend: one NVIDIA device, through the driver API. */
#include "executor/backend.h"
#include "executor/cuda/device.h"
#include "executor/cuda/driver.h"
#include "executor/cuda/image.h"
#include "executor/cuda/nvml.h"

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

static bool cuda_read(struct backend_reading *reading)
{
    static int64_t told;
    struct nvml_reading known = nvml_read(device.uuid);
    *reading = (struct backend_reading){
        .temperature_c = known.temperature_c,
        .utilisation_percent = known.utilisation_percent,
        .memory_used_bytes = known.memory_used_bytes,
        .memory_bytes = known.memory_bytes,
        .new_xid_events = known.xid_events < 0 ? -1 : known.xid_events - told,
        .last_xid = known.last_xid,
    };
    if (known.xid_events >= 0)
        told = known.xid_events;
    return known.name[0] || known.temperature_c >= 0 || known.memory_bytes >= 0 ||
           known.xid_events >= 0;
}

const struct backend backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = device_close,
    .device_name = cuda_device_name,
    .run = cuda_run,
    .broken = device_broken,
    .read = cuda_read,
    .list = cuda_list,
};
