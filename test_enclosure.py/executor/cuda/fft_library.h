/*
 * NVIDIA's cuFFT for transforms, where it is installed and works with the driver. It is loaded when
 * the device is opened; the build needs nothing of it. Belongs to the executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_FFT_LIBRARY_H
#define VGPUFS_EXECUTOR_CUDA_FFT_LIBRARY_H

#include "device.h"

#include <stdbool.h>

/* fft_library_open needs the device's context. Without the library nothing is wrong. */
void fft_library_open(void);
void fft_library_close(void);
/* fft_library_name says in words what is in use: the library with its version, or why it is not. */
const char *fft_library_name(void);

/*
 * fft_library_prepare plans `batch` transforms of n elements, and gives them a work area that is
 * the job's, and cleared with it. 1 if fft_library_run can be used in this job, 0 if not, -1 and
 * the job has failed. The plan, which holds nothing of a job's data, stays until another is wanted.
 */
int fft_library_prepare(struct job *job, bool f64, uint64_t n, uint64_t batch);
/*
 * fft_library_run transforms all that was planned, in the lane's order, from `in` to `out`, which
 * are not the same. The inverse is not divided by anything. False if cuFFT cannot, and never will
 * again: nothing has been done then, and the caller has kernels of its own.
 */
bool fft_library_run(struct device_lane *lane, CUdeviceptr in, CUdeviceptr out, bool inverse);

#endif
