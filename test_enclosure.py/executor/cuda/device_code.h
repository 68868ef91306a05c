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
#define PHILOX_FUNCTION   static __device__ __forceinline__
#define SUM_FUNCTION      static __device__ __forceinline__
#include "executor/cuda/kernels.h"
#include "executor/generate.h"
#include "executor/points.h"
#include "executor/sum.h"

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

/* The range of elements of a part of an array. */
struct part_range {
    u64 first, end;
};

static __device__ __forceinline__ part_range range_of_part(u64 part, u64 count)
{
    const u64 first = part * PART_ELEMENTS;
    return {first, count - first < PART_ELEMENTS ? count : first + PART_ELEMENTS};
}

/* Products that the compiler does not make part of a fused multiplication and addition: the cpu
 * rounds both. (CUDA Math API, __fmul_rn) */
static __device__ __forceinline__ float rounded_product(float a, float b)
{
    return __fmul_rn(a, b);
}

static __device__ __forceinline__ double rounded_product(double a, double b)
{
    return __dmul_rn(a, b);
}

/* exact_product: the sum of value and lost is the product of a and b, if neither is too small
 * (Ogita, Rump, Oishi: "Accurate Sum and Dot Product", 2005, algorithm 3.5). */
static __device__ __forceinline__ sum exact_product(double a, double b)
{
    const double product = __dmul_rn(a, b);
    return {product, fma(a, b, -product)};
}

#endif
