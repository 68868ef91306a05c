/*
 * Streams of stream.h on the device: chunk after chunk is read, or made up there, computed and
 * written. While one lane copies and computes, the host reads or writes the other's chunk. What
 * parts have found is folded on the host, in their order, by the same functions as on the cpu.
 *
 * For the executor's one thread. All device memory is the job's (device_allocate).
 */
#ifndef VGPUFS_EXECUTOR_CUDA_DEVICE_STREAM_H
#define VGPUFS_EXECUTOR_CUDA_DEVICE_STREAM_H

#include "device.h"
#include "executor/stream.h"

/* What a lane is working on. */
struct device_chunk {
    struct device_lane *lane;
    const struct element_type *type;
    uint64_t first, count; /* elements; count 0: nothing */
    unsigned parts;
    /* Each input and output begins at a multiple of 256 bytes; results lie one after the other. */
    CUdeviceptr arrays[STREAM_MAX_ARRAYS], results;
};

/* device_stream_run needs `launch` in each phase, and `keys` for made-up inputs. */
stream_runner device_stream_run;

/* device_launch_vectors launches a kernel that walks over the chunk in steps of 16 bytes. */
int device_launch_vectors(struct job *job, const struct device_chunk *chunk,
                          enum kernel_name kernel, void **arguments);
/* device_launch_parts launches a kernel with `threads` for each part, in blocks of PART_THREADS. */
int device_launch_parts(struct job *job, const struct device_chunk *chunk, enum kernel_name kernel,
                        unsigned threads, void **arguments);

/* device_fill makes numbers up on the device, as array_fill does on the host. */
int device_fill(struct job *job, struct device_lane *lane, const struct element_type *type,
                CUdeviceptr to, uint64_t key, uint64_t first, uint64_t count, unsigned bits);

#endif
