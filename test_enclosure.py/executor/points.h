/*
 * The points of MONTE_CARLO_PI: point i is made of 62 bits of Philox4x32-10 with counter i / 2 and
 * the seed as its key. Inside or not is decided in integers, so every backend counts the same.
 * Pure functions.
 */
#ifndef VGPUFS_EXECUTOR_POINTS_H
#define VGPUFS_EXECUTOR_POINTS_H

#include "philox.h"

/* The point's coordinates are x / 2^31 and y / 2^31: outside if x^2 + y^2 has bit 62. */
PHILOX_FUNCTION uint32_t point_is_outside(uint32_t x, uint32_t y)
{
    uint64_t square_x = (uint64_t)(x >> 1) * (x >> 1), square_y = (uint64_t)(y >> 1) * (y >> 1);
    return (uint32_t)((square_x + square_y) >> 62);
}

/* point_pair makes points 2 * pair and 2 * pair + 1: x, y, x, y. */
PHILOX_FUNCTION void point_pair(uint64_t pair, uint32_t key0, uint32_t key1, uint32_t words[4])
{
    words[0] = (uint32_t)pair;
    words[1] = (uint32_t)(pair >> 32);
    words[2] = words[3] = 0;
    philox(words, key0, key1);
}

#endif
