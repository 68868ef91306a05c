#include "executor/workloads.h"

static enum job_status nop_run(struct job *job)
{
    (void)job;
    return JOB_DONE;
}

const struct workload workload_nop = {
    .info = {.name = "NOP", .summary = "Does nothing: what a job costs by itself."},
    .cpu = nop_run,
    .cuda = nop_run,
};
