/*
 * A bounded histogram of microseconds: 8 buckets to each power of two, so a
 * quantile is at most 12.5 % above the true one, in 2.5 KiB whatever it has
 * seen. Not thread-safe: the owner's lock guards it.
 */
#ifndef VGPUFS_HISTOGRAM_H
#define VGPUFS_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 3
#define HISTOGRAM_MAX_BITS 40 /* 2^40 us = 12.7 days; longer ones count as that */
#define HISTOGRAM_BUCKETS  ((HISTOGRAM_MAX_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

/* All zero is a valid empty histogram. */
struct histogram {
    uint64_t count, sum_us;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t us);
/* histogram_quantile: the upper end of the bucket in which it lies; 0 when empty. 0 < q <= 1. */
uint64_t histogram_quantile(const struct histogram *histogram, double q);
/* histogram_below counts the values less than 2^bits us. */
uint64_t histogram_below(const struct histogram *histogram, unsigned bits);

#endif
