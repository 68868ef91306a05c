/*
 * What NVIDIA's management library tells about a device, where it is installed. It is loaded at the
 * first question and kept. Belongs to the executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_NVML_H
#define VGPUFS_EXECUTOR_CUDA_NVML_H

#include <stdint.h>

/* -1: unknown, as all of them without the library. */
struct nvml_reading {
    int64_t temperature_c, utilisation_percent, memory_used_bytes;
};

struct nvml_reading nvml_read(const char *uuid);

#endif
