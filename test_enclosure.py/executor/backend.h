/*
 * A backend runs workloads on a kind of device. One is a file in backends/, one
 * declaration here and one line in the table in backend.c.
 *
 * An executor opens one backend, once, and uses it from one thread.
 */
#ifndef VGPUFS_EXECUTOR_BACKEND_H
#define VGPUFS_EXECUTOR_BACKEND_H

#include "workloads.h"

#include <stdio.h>

/* What an executor was started with. */
struct backend_options {
    const char *device; /* number or uuid; NULL: the first */
    /* Of the cuda backend alone. */
    bool keep_memory;          /* the device memory of jobs is not cleared */
    uint64_t job_memory_bytes; /* the most device memory that a job may have; 0: all */
    unsigned mps_percent;      /* of the device's multiprocessors, under MPS; 0: as MPS says */
};

/* What is known of the device now; -1: unknown. */
struct backend_reading {
    int64_t temperature_c, utilisation_percent, memory_used_bytes, memory_bytes;
    int64_t new_xid_events; /* errors that the driver has reported since the last reading */
    int64_t last_xid;
};

struct backend {
    const char *name;
    /* open takes the device. 0, or -1 and `error` says in words why not. */
    int (*open)(const struct backend_options *options, char *error, size_t size);
    void (*close)(void);
    /* device_name is what a person calls the open device. */
    const char *(*device_name)(void);
    enum job_status (*run)(const struct workload *workload, struct job *job);
    /* broken says why no further job can run in this process, or NULL. */
    const char *(*broken)(void);
    /* read: false if nothing is known, now or later. NULL: nothing ever is. */
    bool (*read)(struct backend_reading *reading);
    /* list prints a line for each device of this machine. */
    void (*list)(FILE *out);
};

extern const struct backend backend_cpu;
extern const struct backend backend_cuda;

extern const struct backend *const backends[];
extern const size_t backend_count;

/*
 * backend_open opens the backend of that name, or for "auto" the first that finds
 * its device. NULL, and `error` says in words why not.
 */
const struct backend *backend_open(const char *name, const struct backend_options *options,
                                   char *error, size_t size);

#endif
