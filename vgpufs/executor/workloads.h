/*
 * The executor's workloads. One is one file in workloads/ that defines a struct
 * workload, one declaration here and one line in the table in workloads.c.
 * Read-only; thread-safe.
 */
#ifndef VGPUFS_EXECUTOR_WORKLOADS_H
#define VGPUFS_EXECUTOR_WORKLOADS_H

#include "job.h"

struct workload {
    struct workload_info info;
    /* What the parameters mean together: 0, or -1 after job_fail. NULL: nothing more to check. */
    int (*check)(struct job *job);
    /*
     * What runs the job on each backend, with the same output as far as rounding lets it be.
     * Without a cuda function the host's processors do it on that backend too.
     */
    enum job_status (*cpu)(struct job *job);
    enum job_status (*cuda)(struct job *job);
};

extern const struct workload workload_nop;
extern const struct workload workload_sleep;
extern const struct workload workload_device_info;
extern const struct workload workload_vector_add;
extern const struct workload workload_matrix_mul;

extern const struct workload *const workloads[];
extern const size_t workload_count;

/* workload_find returns the workload of that name, or NULL. */
const struct workload *workload_find(const char *name);

#endif
