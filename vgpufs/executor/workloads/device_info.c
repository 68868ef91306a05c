#include "executor/backend.h"

#include <cblas.h>
#include <inttypes.h>
#include <sched.h>
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

static enum job_status device_info_run(struct job *job)
{
    char host[256] = "localhost", blas[320];
    gethostname(host, sizeof(host) - 1);
    snprintf(blas, sizeof(blas), "%s, core %s", openblas_get_config(), openblas_get_corename());
    job_printf(job, "backend=%s\n", backend_cpu.name);
    print_quoted(job, "device", backend_cpu.device_name());
    job_printf(job, "cores=%ld\n", usable_cores());
    job_printf(job, "memory_bytes=%" PRIu64 "\n",
               (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    print_quoted(job, "blas", blas);
    print_quoted(job, "host", host);
    job_printf(job, "version=%s\n", VGPUFS_VERSION);
    return JOB_DONE;
}

const struct workload workload_device_info = {
    .info = {.name = "DEVICE_INFO", .summary = "Says which device runs this pool's jobs."},
    .cpu = device_info_run,
};
