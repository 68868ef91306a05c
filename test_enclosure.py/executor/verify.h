/*
 * The largest error of many elements against a reference that was computed with more digits, and
 * whether one is larger than its rounding can explain. The errors are kept in lanes: so the
 * compiler can make vectors of them. Pure functions.
 */
#ifndef VGPUFS_EXECUTOR_VERIFY_H
#define VGPUFS_EXECUTOR_VERIFY_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#define VERIFY_LANES 64

struct verify_lanes {
    double sum[VERIFY_LANES];    /* not finite if an error was not */
    double worst[VERIFY_LANES];  /* error */
    double excess[VERIFY_LANES]; /* of an error over its limit, the largest */
};

static inline void verify_lane(struct verify_lanes *lanes, size_t lane, double error, double limit)
{
    double over = error - limit, worst = lanes->worst[lane], excess = lanes->excess[lane];
    lanes->sum[lane] += error;
    lanes->worst[lane] = error > worst ? error : worst;
    lanes->excess[lane] = over > excess ? over : excess;
}

/*
 * verify_all: true, and *worst is raised to the largest error, if all were finite and inside their
 * limits. False: the elements must be looked at one by one, since an infinity or a NaN may be
 * right.
 */
static inline bool verify_all(const struct verify_lanes *lanes, double *worst)
{
    double sum = 0, largest = 0, excess = 0;
    for (size_t lane = 0; lane < VERIFY_LANES; lane++) {
        sum += lanes->sum[lane];
        largest = fmax(largest, lanes->worst[lane]);
        excess = fmax(excess, lanes->excess[lane]);
    }
    if (!isfinite(sum) || excess > 0)
        return false;
    *worst = fmax(*worst, largest);
    return true;
}

#endif
