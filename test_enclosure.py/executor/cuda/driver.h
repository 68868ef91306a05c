/*
 * NVIDIA's driver library, loaded at run time, and what its errors mean for a job.
 *
 * Everything here belongs to the executor's one thread. Once driver_load has succeeded, `driver`
 * has every needed call; optional ones are NULL where the driver lacks them.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_DRIVER_H
#define VGPUFS_EXECUTOR_CUDA_DRIVER_H

#include "api.h"

#include <stdbool.h>

#define DRIVER_LIBRARY "libcuda.so.1"

/* What an error of the driver says about what comes next. */
enum driver_fault {
    DRIVER_FAULT_JOB,       /* this job asked for what cannot be done; the next may be fine */
    DRIVER_FAULT_RETRYABLE, /* the device or its server is busy now; the same job may work later */
    DRIVER_FAULT_STICKY,    /* the context is gone: every later call fails until a new process */
    DRIVER_FAULT_DEVICE,    /* the device itself is in doubt: a new process must probe it */
};

/* driver_fault_name is the word of vgpufs-executor(7) for it. */
const char *driver_fault_name(enum driver_fault fault);

struct driver {
#define DRIVER_CALL(name, exported, parameters) name##_type *name;
    FOR_EACH_NEEDED_CALL(DRIVER_CALL)
    FOR_EACH_OPTIONAL_CALL(DRIVER_CALL)
#undef DRIVER_CALL
};

extern struct driver driver;

/*
 * driver_load loads the library and initialises it (cuInit), once a process. 0, or -1 and `error`
 * says in words what is missing and what to do.
 */
int driver_load(char *error, size_t size);

/* driver_has: is there such an entry point, in the version of CUDA 12? */
bool driver_has(const char *name, const char *exported);

/* driver_explain writes what went wrong in `call` and returns its fault. */
enum driver_fault driver_explain(CUresult result, const char *call, char *error, size_t size);

/* driver_version is the newest CUDA that the driver knows: 1000 * major + 10 * minor. */
int driver_version(void);

#endif
