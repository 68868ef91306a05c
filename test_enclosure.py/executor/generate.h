/*
 * Made-up input: number `index` of a stream depends on the seed, the stream and
 * the index alone, so every backend makes the same digits, with any number of threads.
 * It is SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
 * Generators", OOPSLA 2014) with the index as its counter. Pure functions.
 */
#ifndef VGPUFS_EXECUTOR_GENERATE_H
#define VGPUFS_EXECUTOR_GENERATE_H

#include <stdint.h>

/* The CUDA kernels say `__device__` here. */
#ifndef GENERATE_FUNCTION
#define GENERATE_FUNCTION static inline
#endif

GENERATE_FUNCTION uint64_t generate_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* generate_key names a stream (0, 1, …: one for each input) of a seed. */
GENERATE_FUNCTION uint64_t generate_key(uint64_t seed, uint64_t stream)
{
    return generate_mix(generate_mix(seed) + stream);
}

GENERATE_FUNCTION uint64_t generate_bits(uint64_t key, uint64_t index)
{
    return generate_mix(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

/* generate_real is a multiple of 2^-bits (bits: 1 to 53), uniform in [0, 1). */
GENERATE_FUNCTION double generate_real(uint64_t key, uint64_t index, unsigned bits)
{
    /* Signed: x86-64 without AVX-512 converts only signed integers in one instruction. */
    return (double)(int64_t)(generate_bits(key, index) >> (64 - bits)) /
           (double)((int64_t)1 << bits);
}

#endif
