/*
 * Data files to and from the device, through both lanes' pinned buffers: while one is copied the
 * other is read or written, and the host holds no more than these.
 *
 * For the executor's one thread. Nothing may be under way in a lane.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_TRANSFER_H
#define VGPUFS_EXECUTOR_CUDA_TRANSFER_H

#include "device.h"

/* `bytes` bytes, at `offset` in the file; progress goes from `from` to `to`. */
struct device_span {
    CUdeviceptr address;
    uint64_t bytes, offset;
    double from, to;
};

/* Both: 0, or -1 and see job_end. Room for what is written has been reserved. */
int device_read_file(struct job *job, const char *name, const struct device_span *span);
int device_write_file(struct job *job, const char *name, const struct device_span *span);

/* device_run launches a kernel on lane 0 alone, and waits for it; the time is computing. */
int device_run(struct job *job, enum kernel_name kernel, unsigned blocks_x, unsigned blocks_y,
               unsigned threads, void **arguments);
/* device_run_array: as device_launch_array. */
int device_run_array(struct job *job, enum kernel_name kernel, uint64_t elements, void **arguments);

/* device_fetch copies a little, which fits into a lane's staging, from the device. */
int device_fetch(struct job *job, void *to, CUdeviceptr from, size_t bytes);

#endif
