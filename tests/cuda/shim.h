/*
 * Device code as C++, for tests on the CPU. Included by device_code.h where the compiler is not
 * nvcc.
 *
 * Every thread of a block is a fiber; blocks run one after the other, fibers from barrier to
 * barrier in the order that shim_order says. So a missing barrier gives a wrong result in one of
 * the orders, and the sanitizers see every access. It says nothing about speed, about races between
 * blocks, or about what nvcc makes of the code.
 */
#ifndef VGPUFS_TESTS_CUDA_SHIM_H
#define VGPUFS_TESTS_CUDA_SHIM_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

struct shim_index {
    unsigned x, y, z;
};

extern shim_index threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __host__
#define __forceinline__       inline
#define __shared__            static
#define KERNEL(name, threads) extern "C" void name

using std::fabs;
using std::fma;

/* g++ is told not to make one operation of two (-ffp-contract=off). */
inline float __fmul_rn(float a, float b)
{
    return a * b;
}

inline double __dmul_rn(double a, double b)
{
    return a * b;
}

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);

/* shim_exchange gives each of the lanes in `mask` the 8 bytes that lane `from` has brought. */
uint64_t shim_exchange(unsigned mask, uint64_t bits, unsigned from);
unsigned shim_lane();

template <typename T> T __shfl_sync(unsigned mask, T value, int from)
{
    uint64_t bits = 0;
    static_assert(sizeof(T) <= sizeof(bits), "a shuffle moves up to 8 bytes");
    memcpy(&bits, &value, sizeof(T));
    bits = shim_exchange(mask, bits, (unsigned)from % 32);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta)
{
    const unsigned lane = shim_lane();
    return __shfl_sync(mask, value, (int)(lane + delta < 32 ? lane + delta : lane));
}

template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta)
{
    const unsigned lane = shim_lane();
    return __shfl_sync(mask, value, (int)(lane >= delta ? lane - delta : lane));
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, unsigned bits)
{
    return __shfl_sync(mask, value, (int)(shim_lane() ^ bits));
}

/* One fiber runs at a time, so that plain accesses are atomic. */
template <typename T> T atomicAdd(T *at, T value)
{
    const T before = *at;
    *at = before + value;
    return before;
}

template <typename T> T atomicMax(T *at, T value)
{
    const T before = *at;
    *at = before < value ? value : before;
    return before;
}

template <typename T> T atomicMin(T *at, T value)
{
    const T before = *at;
    *at = value < before ? value : before;
    return before;
}

/* SHIM_BY_WARP: a warp runs up to its barrier before the next one does anything. */
enum shim_order { SHIM_FORWARD, SHIM_BACKWARD, SHIM_SHUFFLED, SHIM_BY_WARP, SHIM_ORDERS };
extern shim_order shim_thread_order;

/* shim_launch runs `thread` once for each thread of the grid. Not thread-safe. */
void shim_launch(shim_index grid, shim_index block, const std::function<void()> &thread);

#endif
