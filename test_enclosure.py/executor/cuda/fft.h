/*
 * Batches of complex transforms on the device, of arrays that lie there: by cuFFT where that is in
 * use, else by own kernels. What is allocated belongs to the job and ends with it. For the
 * executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_FFT_H
#define VGPUFS_EXECUTOR_CUDA_FFT_H

#include "device.h"

/* The longest transform, and the most elements of a batch, four times of which are worked on. */
#define DEVICE_FFT_MAX_N        ((uint64_t)1 << 20)
#define DEVICE_FFT_MAX_ELEMENTS ((uint64_t)1 << 28)

struct device_fft {
    bool f64, library; /* library: by cuFFT, and nothing below is made */
    uint64_t n, most;
    uint64_t size; /* of the transforms that are done, a power of two */
    CUdeviceptr roots, chirp, factor, work[2];
};

/* device_fft_prepare makes what transforms of length n need, up to `most` at a time. */
int device_fft_prepare(struct job *job, struct device_fft *fft, bool f64, uint64_t n,
                       uint64_t most);

/*
 * device_fft_run transforms `batch` arrays from `in` to `out`, which are not the same and have room
 * for the most that there may be: cuFFT, whose plans are for one number, transforms what lies
 * there. The inverse divides by n. It returns when all is done; the time is computing.
 */
int device_fft_run(struct job *job, struct device_fft *fft, CUdeviceptr in, CUdeviceptr out,
                   uint64_t batch, bool inverse);

#endif
