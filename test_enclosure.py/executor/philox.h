/*
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC
 * 2011): 128 random bits for each counter and key, in any order. Pure functions.
 */
#ifndef VGPUFS_EXECUTOR_PHILOX_H
#define VGPUFS_EXECUTOR_PHILOX_H

#include <stdint.h>

/* The CUDA kernels say `__device__` here. */
#ifndef PHILOX_FUNCTION
#define PHILOX_FUNCTION static inline
#endif

/* One round; the key of the next is the key plus the Weyl constants. */
PHILOX_FUNCTION void philox_round(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    uint64_t first = (uint64_t)counter[0] * 0xd2511f53u,
             second = (uint64_t)counter[2] * 0xcd9e8d57u;
    uint32_t high0 = (uint32_t)(first >> 32), high1 = (uint32_t)(second >> 32);
    counter[0] = high1 ^ counter[1] ^ key0;
    counter[1] = (uint32_t)second;
    counter[2] = high0 ^ counter[3] ^ key1;
    counter[3] = (uint32_t)first;
}

/* philox replaces the counter by its random bits. */
PHILOX_FUNCTION void philox(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    for (uint32_t round = 0; round < 10; round++)
        philox_round(counter, key0 + round * 0x9e3779b9u, key1 + round * 0xbb67ae85u);
}

#endif
