#include "histogram.h"

#include <math.h>
#include <stddef.h>

#define SUB (1u << HISTOGRAM_SUB_BITS)

/*
 * Values below SUB have a bucket each; above, the bucket is the position of the
 * highest bit and the SUB_BITS bits behind it.
 */
static size_t bucket_of(uint64_t us)
{
    if (us < SUB)
        return (size_t)us;
    if (us >> HISTOGRAM_MAX_BITS)
        us = (UINT64_C(1) << HISTOGRAM_MAX_BITS) - 1;
    unsigned top = 63 - (unsigned)__builtin_clzll(us);
    unsigned shift = top - HISTOGRAM_SUB_BITS;
    return ((size_t)(shift + 1) << HISTOGRAM_SUB_BITS) + (size_t)((us >> shift) & (SUB - 1));
}

/* bucket_limit returns the largest value that belongs to the bucket. */
static uint64_t bucket_limit(size_t bucket)
{
    if (bucket < SUB)
        return bucket;
    unsigned shift = (unsigned)(bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t first = (SUB + (bucket & (SUB - 1)));
    return ((first + 1) << shift) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t us)
{
    histogram->count++;
    histogram->sum_us += us;
    histogram->buckets[bucket_of(us)]++;
}

uint64_t histogram_quantile(const struct histogram *histogram, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)histogram->count);
    uint64_t seen = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS && histogram->count; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank && seen)
            return bucket_limit(i);
    }
    return 0;
}

uint64_t histogram_below(const struct histogram *histogram, unsigned bits)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS && bucket_limit(i) < UINT64_C(1) << bits; i++)
        seen += histogram->buckets[i];
    return seen;
}
