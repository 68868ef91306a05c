/*
 * A sum of many float64 that keeps what its additions round away (Knuth, "The Art of Computer
 * Programming" 2, 4.2.2, theorem B): to fold the parts of a stream, in whose order it is added.
 * All zero is an empty sum. Pure functions.
 */
#ifndef VGPUFS_EXECUTOR_SUM_H
#define VGPUFS_EXECUTOR_SUM_H

#include <math.h>

/* The CUDA kernels say `__device__` here. */
#ifndef SUM_FUNCTION
#define SUM_FUNCTION static inline
#endif

struct sum {
    double value, lost;
};

SUM_FUNCTION void sum_add(struct sum *sum, double more)
{
    double total = sum->value + more, rounded = total - sum->value;
    sum->lost += (sum->value - (total - rounded)) + (more - rounded);
    sum->value = total;
}

/* sum_total: with an infinity or a NaN, what plain additions give. */
static inline double sum_total(const struct sum *sum)
{
    return isfinite(sum->value) && isfinite(sum->lost) ? sum->value + sum->lost : sum->value;
}

#endif
