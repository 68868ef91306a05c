/*
 * NVIDIA's cuBLAS for products of matrices, where it is installed and works with the driver. It is
 * loaded when the device is opened; the build needs nothing of it. Belongs to the executor's one
 * thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_BLAS_H
#define VGPUFS_EXECUTOR_CUDA_BLAS_H

#include "device.h"

#include <stdbool.h>

/* What cuBLAS may use of the device beside the matrices: what it takes by itself on an sm_90
 * ("cuBLAS", cublasSetWorkspace). */
#define BLAS_WORKSPACE_BYTES ((size_t)32 << 20)

/* blas_open needs the device's context. Without the library nothing is wrong. */
void blas_open(void);
void blas_close(void);
/* blas_name says in words what is in use: the library with its version, or why it is not. */
const char *blas_name(void);

/* C = A * B in rows, as the workload has them: A has m rows of k elements, B k rows of n. */
struct blas_product {
    bool f64;
    int m, n, k;
    CUdeviceptr a, b, c;
};

/*
 * blas_prepare gives cuBLAS a workspace that is the job's, and cleared with it. 1 if blas_multiply
 * can be used, 0 if not, -1 and the job has failed.
 */
int blas_prepare(struct job *job);
/* blas_multiply computes in the lane's order. False if cuBLAS cannot, and never will again: nothing
 * has been done then, and the caller has kernels of its own. */
bool blas_multiply(struct device_lane *lane, const struct blas_product *product);

#endif
