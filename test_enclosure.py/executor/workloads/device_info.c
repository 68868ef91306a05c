#include "executor/backend.h"
#include "executor/cuda/blas.h"
#include "executor/cuda/device.h"
#include "executor/cuda/driver.h"
#include "executor/cuda/fft_library.h"
#include "executor/cuda/nvml.h"

#include <cblas.h>
#include <fftw3.h>
#include <inttypes.h>
#include <nettle/version.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

/* The affinity mask is what the process may use; it can be wider than CPU_SETSIZE. */
static long usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return CPU_COUNT(&set);
    return sysconf(_SC_NPROCESSORS_ONLN);
}

static void print_quoted(struct job *job, const char *key, const char *value)
{
    struct text quoted = {0};
    text_quote(&quoted, value);
    job_printf(job, "%s=%s\n", key, quoted.failed ? "\"\"" : quoted.data);
    text_finish(&quoted);
}

static void print_end(struct job *job)
{
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    print_quoted(job, "host", host);
    job_printf(job, "version=%s\n", VGPUFS_VERSION);
}

/* print_host_libraries: a workload with kernels for the device does not use these. */
static void print_host_libraries(struct job *job, const char *backend)
{
    char text[320];
    bool cuda = strcmp(backend, backend_cuda.name) == 0;
    snprintf(text, sizeof(text), "%s, core %s", openblas_get_config(), openblas_get_corename());
    if (!cuda) {
        print_quoted(job, "blas", text);
        print_quoted(job, "fft", fftw_version);
    }
    snprintf(text, sizeof(text), "Nettle %d.%d", nettle_version_major(), nettle_version_minor());
    if (!cuda || !workload_sha256.cuda)
        print_quoted(job, "sha256", text);
}

static enum job_status device_info_run(struct job *job)
{
    job_printf(job, "backend=%s\n", backend_cpu.name);
    print_quoted(job, "device", backend_cpu.device_name());
    job_printf(job, "cores=%ld\n", usable_cores());
    job_printf(job, "memory_bytes=%" PRIu64 "\n",
               (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    print_host_libraries(job, backend_cpu.name);
    print_end(job);
    return JOB_DONE;
}

/* print_reading prints "-" for what is unknown. */
static void print_reading(struct job *job, const char *key, int64_t value)
{
    if (value < 0)
        job_printf(job, "%s=-\n", key);
    else
        job_printf(job, "%s=%" PRId64 "\n", key, value);
}

static enum job_status device_info_cuda(struct job *job)
{
    struct nvml_reading reading = nvml_read(device.uuid);
    int version = driver_version();
    size_t available, total;
    bool known = driver.cuMemGetInfo && driver.cuMemGetInfo(&available, &total) == CUDA_SUCCESS;
    job_printf(job, "backend=%s\n", backend_cuda.name);
    print_quoted(job, "device", device.name);
    print_quoted(job, "product", reading.name[0] ? reading.name : "-");
    job_printf(job, "uuid=%s\n", device.uuid);
    job_printf(job, "compute_capability=%d.%d\n", device.major, device.minor);
    job_printf(job, "multiprocessors=%u\n", device.multiprocessors);
    job_printf(job, "memory_bytes=%zu\n", device.memory_bytes);
    print_reading(job, "job_memory_bytes",
                  device.job_memory_bytes == UINT64_MAX ? -1 : (int64_t)device.job_memory_bytes);
    print_reading(job, "memory_free_bytes", known ? (int64_t)available : -1);
    print_reading(job, "memory_used_bytes", reading.memory_used_bytes);
    print_reading(job, "temperature_c", reading.temperature_c);
    print_reading(job, "utilisation_percent", reading.utilisation_percent);
    print_reading(job, "xid_events", reading.xid_events);
    print_reading(job, "last_xid", reading.last_xid);
    print_quoted(job, "blas", blas_name());
    print_quoted(job, "fft", fft_library_name());
    if (workload_sha256.cuda)
        print_quoted(job, "sha256", "own kernels");
    print_host_libraries(job, backend_cuda.name);
    job_printf(job, "driver_cuda=%d.%d\n", version / 1000, version % 1000 / 10);
    print_end(job);
    return JOB_DONE;
}

const struct workload workload_device_info = {
    .info = {.name = "DEVICE_INFO", .summary = "Says which device runs this pool's jobs."},
    .cpu = device_info_run,
    .cuda = device_info_cuda,
};
