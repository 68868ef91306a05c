#include "executor/workloads.h"

#include <inttypes.h>

static const struct workload_param sleep_params[] = {
    {.name = "ms",
     .type = PARAM_UINT,
     .max = 86400000,
     .default_value = "1000",
     .help = "How long, in milliseconds."},
};

static enum job_status sleep_run(struct job *job)
{
    uint64_t start = job_clock_ns();
    if (job_wait(job, job_uint(job, "ms")) < 0)
        return job_end(job);
    job_printf(job, "slept_ms=%" PRIu64 "\n", (job_clock_ns() - start) / 1000000);
    return JOB_DONE;
}

const struct workload workload_sleep = {
    .info = {.name = "SLEEP",
             .summary = "Occupies the slot and waits: for trying queues, limits and cancelling.",
             .params = sleep_params,
             .param_count = sizeof(sleep_params) / sizeof(sleep_params[0])},
    .cpu = sleep_run,
    .cuda = sleep_run,
};
