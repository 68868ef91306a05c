/*
 * The executor's workloads. One is one file in workloads/ that defines a struct
 * workload, and one line in the table here: workloads/README.md shows how.
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

/* The table, in the order in which people see it: each is workload_NAME in workloads/NAME.c. */
/* clang-format off */
#define WORKLOADS(WORKLOAD) \
    WORKLOAD(nop) \
    WORKLOAD(sleep) \
    WORKLOAD(device_info) \
    WORKLOAD(vector_add) \
    WORKLOAD(matrix_mul) \
    WORKLOAD(saxpy) \
    WORKLOAD(reduce) \
    WORKLOAD(sort) \
    WORKLOAD(monte_carlo_pi) \
    WORKLOAD(fft) \
    WORKLOAD(sanity) \
    WORKLOAD(dot) \
    WORKLOAD(scan) \
    WORKLOAD(histogram) \
    WORKLOAD(transpose) \
    WORKLOAD(sha256) \
    WORKLOAD(conv2d) \
    WORKLOAD(black_scholes) \
    WORKLOAD(nbody) \
    /* the end */
/* clang-format on */

#define WORKLOAD_DECLARE(name) extern const struct workload workload_##name;
WORKLOADS(WORKLOAD_DECLARE)

extern const struct workload *const workloads[];
extern const size_t workload_count;

/* workload_find returns the workload of that name, or NULL. */
const struct workload *workload_find(const char *name);

#endif
