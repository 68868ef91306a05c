/*
 * Whole arrays between data files and the device, through the lanes' staging: what array_load and
 * array_store are on the host. While one piece is copied the next is read, or the last written.
 *
 * For the executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_DEVICE_ARRAY_H
#define VGPUFS_EXECUTOR_CUDA_DEVICE_ARRAY_H

#include "device_stream.h"

/* `data` of the span is not used. Progress goes from `from` to `to`. -1: see job_end. */
int device_array_load(struct job *job, const char *name, const struct array_span *span,
                      CUdeviceptr to, uint64_t key, unsigned bits);
int device_array_store(struct job *job, const char *name, const struct array_span *span,
                       CUdeviceptr from);

/* device_array_checksum adds up as array_checksum does, but in another order. It needs
 * DEVICE_CHECKSUM_BYTES of device memory at `results`. */
#define DEVICE_CHECKSUM_BYTES(count)                                                               \
    (((count) + PART_ELEMENTS - 1) / PART_ELEMENTS * sizeof(double))
int device_array_checksum(struct job *job, const struct array_span *span, CUdeviceptr from,
                          CUdeviceptr results, double *checksum);

#endif
