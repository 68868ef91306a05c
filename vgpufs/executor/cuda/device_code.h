/*
 * What every file of kernels begins with. nvcc makes device code of these files, the tests' shim a
 * C++ program (tests/cuda/shim.h). module.cu includes them all: names of functions are of one room.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_DEVICE_CODE_H
#define VGPUFS_EXECUTOR_CUDA_DEVICE_CODE_H

#ifdef __CUDACC__
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
#else
#include "shim.h"
#endif
#define GENERATE_FUNCTION static __device__ __forceinline__
#include "executor/cuda/kernels.h"
#include "executor/generate.h"

typedef uint64_t u64;

/* 16 bytes of T, as one access. */
template <typename T> struct alignas(16) vector {
    T of[16 / sizeof(T)];
};

static __device__ __forceinline__ u64 thread_number()
{
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ u64 threads_of_grid()
{
    return (u64)gridDim.x * blockDim.x;
}

#endif
