/*
 * What NVIDIA's management library tells about a device, where it is installed. It is loaded at the
 * first question and kept. Belongs to the executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_NVML_H
#define VGPUFS_EXECUTOR_CUDA_NVML_H

#include <stdint.h>

/* -1: unknown, as all of them without the library. */
struct nvml_reading {
    char name[96]; /* "": unknown */
    int64_t temperature_c, utilisation_percent, memory_used_bytes, memory_bytes;
    int64_t xid_events; /* errors that the driver has reported since the first reading */
    int64_t last_xid;   /* the code of the last of them */
};

/* nvml_read: `uuid` is the same in every call of a process, GPU- or MIG-. */
struct nvml_reading nvml_read(const char *uuid);

#endif
