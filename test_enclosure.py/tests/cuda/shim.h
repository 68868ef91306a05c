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
#define __forceinline__ inline
#define __shared__      static
#define __constant__
#define KERNEL(name, threads) extern "C" void name

using std::erfc;
using std::exp;
using std::fabs;
using std::fma;
using std::log;
using std::sqrt;

/* g++ is told not to make one operation of two (-ffp-contract=off). */
inline float __fmul_rn(float a, float b)
{
    return a * b;
}

inline double __dmul_rn(double a, double b)
{
    return a * b;
}

inline float rsqrt(float x)
{
    return 1 / sqrt(x);
}

inline double rsqrt(double x)
{
    return 1 / sqrt(x);
}

inline void sincospi(double x, double *s, double *c)
{
    *s = (double)sinl(3.141592653589793238462643383279502884L * x);
    *c = (double)cosl(3.141592653589793238462643383279502884L * x);
}

inline unsigned __popc(unsigned x)
{
    return (unsigned)__builtin_popcount(x);
}

inline unsigned __popcll(unsigned long long x)
{
    return (unsigned)__builtin_popcountll(x);
}

inline unsigned __brev(unsigned x)
{
    unsigned turned = 0;
    for (unsigned bit = 0; bit < 32; bit++)
        turned |= (x >> bit & 1) << (31 - bit);
    return turned;
}

/* Each digit of the selector takes one of the eight bytes of b, a. */
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned chosen = 0;
    for (unsigned i = 0; i < 4; i++)
        chosen |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return chosen;
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

unsigned __ballot_sync(unsigned mask, int vote);

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
