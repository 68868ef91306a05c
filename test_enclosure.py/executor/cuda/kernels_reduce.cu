/*
 * Kernels that make little of much: sums, extremes, prefix sums, counts. As in kernels.cu. What is
 * verified on the device is computed twice, by other kernels in another order.
 */
#include "executor/cuda/device_code.h"

/* What a sum is of: the elements of an array. */
template <typename T> struct elements {
    const T *x;
    __device__ __forceinline__ double of(u64 i) const
    {
        return x[i];
    }
    __device__ __forceinline__ void add_exactly(struct sum *to, u64 i) const
    {
        sum_add(to, x[i]);
    }
};

/* Or of the products of two. Those of f32 are exact in float64. */
template <typename T> struct products {
    const T *x, *y;
    __device__ __forceinline__ double of(u64 i) const
    {
        return rounded_product((double)x[i], (double)y[i]);
    }
    __device__ __forceinline__ void add_exactly(struct sum *to, u64 i) const
    {
        const struct sum product = exact_product(x[i], y[i]);
        sum_add(to, product.value);
        to->lost += product.lost;
    }
};

/* Accesses of one thread of add_up that are in flight together. */
#define SUM_IN_FLIGHT 16

/* add_up: each part in the lanes and then the order of the cpu (workloads/reduce.c, dot.c). */
template <typename Terms>
static __device__ __forceinline__ void add_up(Terms terms, u64 count, sum_result *results)
{
    const u64 number = thread_number() / SUM_LANES;
    const unsigned lane = threadIdx.x % SUM_LANES;
    if (number * PART_ELEMENTS >= count)
        return;
    const part_range part = range_of_part(number, count);
    u64 i = part.first + lane;
    double sum = 0;
    for (; i + (SUM_IN_FLIGHT - 1) * SUM_LANES < part.end; i += SUM_IN_FLIGHT * SUM_LANES) {
        double some[SUM_IN_FLIGHT];
#pragma unroll
        for (unsigned j = 0; j < SUM_IN_FLIGHT; j++)
            some[j] = terms.of(i + j * SUM_LANES);
#pragma unroll
        for (unsigned j = 0; j < SUM_IN_FLIGHT; j++)
            sum += some[j];
    }
    for (; i < part.end; i += SUM_LANES)
        sum += terms.of(i);
#pragma unroll
    for (unsigned apart = SUM_LANES / 2; apart > 0; apart /= 2)
        sum += __shfl_xor_sync(0xffffu << (threadIdx.x & SUM_LANES), sum, apart);
    if (lane == 0)
        results[number].value = sum;
}

/*
 * sum_*, dot_*: read 4 (8) bytes an element, twice that for a product, with 1 or 2 operations in
 * f64: bound by memory, 838 (419) G elements/s, if there were more than 16 threads a part to read
 * it: 1024 parts have 16 384 threads with 16 accesses each in flight, half of what the memory's
 * 0.6 us at 3.35 TB/s ask for. That is the price of the cpu's digits.
 */
KERNEL(sum_f32, PART_THREADS)(const float *x, u64 count, sum_result *results)
{
    add_up(elements<float>{x}, count, results);
}

KERNEL(sum_f64, PART_THREADS)(const double *x, u64 count, sum_result *results)
{
    add_up(elements<double>{x}, count, results);
}

KERNEL(dot_f32, PART_THREADS)(const float *x, const float *y, u64 count, sum_result *results)
{
    add_up(products<float>{x, y}, count, results);
}

KERNEL(dot_f64, PART_THREADS)(const double *x, const double *y, u64 count, sum_result *results)
{
    add_up(products<double>{x, y}, count, results);
}

/* What all threads of a block have added up, put together by the first. */
struct block_sum {
    double sum, absolute;
    struct sum exact;
};

static __device__ __forceinline__ block_sum sum_of_block(double sum, struct sum exact,
                                                         double absolute)
{
    __shared__ double sums[PART_THREADS], absolutes[PART_THREADS];
    __shared__ struct sum exacts[PART_THREADS];
    sums[threadIdx.x] = sum;
    exacts[threadIdx.x] = exact;
    absolutes[threadIdx.x] = absolute;
    __syncthreads();
    block_sum all = {0, 0, {0, 0}};
    if (threadIdx.x != 0)
        return all;
    for (unsigned i = 0; i < PART_THREADS; i++) {
        all.sum += sums[i];
        all.absolute += absolutes[i];
        sum_add(&all.exact, exacts[i].value);
        all.exact.lost += exacts[i].lost;
    }
    return all;
}

/* sum_of_part: a block adds its part up. Complete in its first thread. */
template <typename Terms>
static __device__ __forceinline__ block_sum sum_of_part(Terms terms, u64 count)
{
    const part_range part = range_of_part(blockIdx.x, count);
    struct sum exact = {0, 0};
    double sum = 0, absolute = 0;
#pragma unroll 8
    for (u64 i = part.first + threadIdx.x; i < part.end; i += PART_THREADS) {
        const double term = terms.of(i);
        sum += term;
        absolute += fabs(term);
        terms.add_exactly(&exact, i);
    }
    return sum_of_block(sum, exact, absolute);
}

template <typename Terms>
static __device__ __forceinline__ void reference(Terms terms, u64 count, sum_result *results)
{
    const block_sum all = sum_of_part(terms, count);
    if (threadIdx.x != 0)
        return;
    sum_result *const result = &results[blockIdx.x];
    result->reference = all.exact.value;
    result->lost = all.exact.lost;
    result->absolute = all.absolute;
}

/* *_reference_*: read 4 (8) bytes an element, twice that for a product, some 10 operations in f64:
 * bound by memory, 838 (419) G elements/s. */
KERNEL(sum_reference_f32, PART_THREADS)(const float *x, u64 count, sum_result *results)
{
    reference(elements<float>{x}, count, results);
}

KERNEL(sum_reference_f64, PART_THREADS)(const double *x, u64 count, sum_result *results)
{
    reference(elements<double>{x}, count, results);
}

KERNEL(dot_reference_f32, PART_THREADS)
(const float *x, const float *y, u64 count, sum_result *results)
{
    reference(products<float>{x, y}, count, results);
}

KERNEL(dot_reference_f64, PART_THREADS)
(const double *x, const double *y, u64 count, sum_result *results)
{
    reference(products<double>{x, y}, count, results);
}

/* better: of two numbers the smaller, the first if they are equal; a NaN wins. */
template <typename T> static __device__ __forceinline__ T better(T first, T second)
{
    return second < first || second != second ? second : first;
}

/*
 * extreme: in the lanes of the cpu, whose order tells which of two zeros it is. What is no whole
 * row of lanes comes last. The largest is the smallest with the other sign.
 */
template <typename T>
static __device__ __forceinline__ void extreme(const T *x, u64 count, unsigned least,
                                               sum_result *results)
{
    const u64 number = thread_number() / SUM_LANES;
    const unsigned lane = threadIdx.x % SUM_LANES;
    if (number * PART_ELEMENTS >= count)
        return;
    const part_range part = range_of_part(number, count);
    const u64 rows = part.first + (part.end - part.first) / SUM_LANES * SUM_LANES;
    const T sign = least ? 1 : -1;
    T best = sign * x[part.first];
#pragma unroll 16
    for (u64 i = part.first + lane; i < rows; i += SUM_LANES)
        best = better(best, sign * x[i]);
#pragma unroll
    for (unsigned apart = SUM_LANES / 2; apart > 0; apart /= 2)
        best = better(best, __shfl_xor_sync(0xffffu << (threadIdx.x & SUM_LANES), best, apart));
    if (lane != 0)
        return;
    for (u64 i = rows; i < part.end; i++)
        best = better(best, sign * x[i]);
    results[number].value = sign * best;
}

/* extreme_*: as sum_*, with 2 comparisons an element. */
KERNEL(extreme_f32, PART_THREADS)
(const float *x, u64 count, unsigned least, sum_result *results)
{
    extreme(x, count, least, results);
}

KERNEL(extreme_f64, PART_THREADS)
(const double *x, u64 count, unsigned least, sum_result *results)
{
    extreme(x, count, least, results);
}

/* extreme_reference: no element is beyond the extreme, and one is equal to it. */
template <typename T>
static __device__ __forceinline__ void extreme_reference(const T *x, u64 count, unsigned least,
                                                         sum_result *results)
{
    enum { MET = 1, BEYOND = 2, NOT_A_NUMBER = 4 };
    __shared__ unsigned flags[PART_THREADS];
    const part_range part = range_of_part(blockIdx.x, count);
    const T value = (T)results[blockIdx.x].value;
    unsigned seen = 0;
#pragma unroll 8
    for (u64 i = part.first + threadIdx.x; i < part.end; i += PART_THREADS) {
        const T element = x[i];
        seen |= (element == value ? MET : 0) | (element != element ? NOT_A_NUMBER : 0) |
                ((least ? element < value : element > value) ? BEYOND : 0);
    }
    flags[threadIdx.x] = seen;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (unsigned i = 0; i < PART_THREADS; i++)
        seen |= flags[i];
    results[blockIdx.x].wrong =
        seen & NOT_A_NUMBER ? value == value : (seen & BEYOND) || !(seen & MET);
}

/* extreme_reference_*: reads 4 (8) bytes an element: bound by memory, 838 (419) G elements/s. */
KERNEL(extreme_reference_f32, PART_THREADS)
(const float *x, u64 count, unsigned least, sum_result *results)
{
    extreme_reference(x, count, least, results);
}

KERNEL(extreme_reference_f64, PART_THREADS)
(const double *x, u64 count, unsigned least, sum_result *results)
{
    extreme_reference(x, count, least, results);
}

/* --- prefix sums -------------------------------------------------------------------------------
 */

template <typename T>
static __device__ __forceinline__ void scan_sum(const T *x, u64 count, scan_result *results)
{
    const block_sum all = sum_of_part(elements<T>{x}, count);
    if (threadIdx.x != 0)
        return;
    scan_result *const result = &results[blockIdx.x];
    result->sum = all.sum;
    result->reference = all.exact.value;
    result->lost = all.exact.lost;
    result->absolute = all.absolute;
}

/* scan_sum_*: reads 4 (8) bytes an element: bound by memory, 838 (419) G elements/s. */
KERNEL(scan_sum_f32, PART_THREADS)(const float *x, u64 count, scan_result *results)
{
    scan_sum(x, count, results);
}

KERNEL(scan_sum_f64, PART_THREADS)(const double *x, u64 count, scan_result *results)
{
    scan_sum(x, count, results);
}

/* Consecutive elements of one thread of scan_*. */
#define SCAN_PER_THREAD 8
#define SCAN_WARPS      (SCAN_THREADS / 32)

template <typename T>
static __device__ __forceinline__ void load_some(T *some, const T *x, u64 first, u64 end)
{
    const unsigned per = 16 / sizeof(T);
    if (first + SCAN_PER_THREAD <= end) {
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD / per; i++)
            ((vector<T> *)some)[i] = ((const vector<T> *)(x + first))[i];
    } else {
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD; i++)
            some[i] = first + i < end ? x[first + i] : (T)0;
    }
}

template <typename T>
static __device__ __forceinline__ void store_some(const T *some, T *x, u64 first, u64 end)
{
    const unsigned per = 16 / sizeof(T);
    if (first + SCAN_PER_THREAD <= end) {
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD / per; i++)
            ((vector<T> *)(x + first))[i] = ((const vector<T> *)some)[i];
    } else {
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD; i++)
            if (first + i < end)
                x[first + i] = some[i];
    }
}

/* before_in_warp adds up what the warp's threads before this one have, and *all of them. */
static __device__ __forceinline__ double before_in_warp(double mine, double *all)
{
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned apart = 1; apart < 32; apart *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, mine, apart);
        if (lane >= apart)
            mine += other;
    }
    *all = __shfl_sync(0xffffffffu, mine, 31);
    const double before = __shfl_up_sync(0xffffffffu, mine, 1);
    return lane > 0 ? before : 0;
}

/*
 * scan: a block goes through its part in tiles of 8 elements a thread. The sums of warps lie in two
 * places that take turns: who is late still reads the one while the other is written.
 */
template <typename T>
static __device__ __forceinline__ void scan(const T *x, T *out, u64 count, unsigned exclusive,
                                            scan_result *results)
{
    __shared__ double totals[2][SCAN_WARPS];
    const part_range part = range_of_part(blockIdx.x, count);
    const double before = results[blockIdx.x].before;
    const unsigned warp = threadIdx.x / 32;
    double carried = 0;
    unsigned turn = 0;
    for (u64 tile = part.first; tile < part.end; tile += SCAN_THREADS * SCAN_PER_THREAD) {
        const u64 first = tile + threadIdx.x * SCAN_PER_THREAD;
        alignas(16) T some[SCAN_PER_THREAD];
        double sums[SCAN_PER_THREAD], sum = 0, all;
        load_some(some, x, first, part.end);
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD; i++) {
            const double with = sum + (double)some[i];
            sums[i] = exclusive ? sum : with;
            sum = with;
        }
        const double in_warp = before_in_warp(sum, &all);
        if (threadIdx.x % 32 == 0)
            totals[turn][warp] = all;
        __syncthreads();
        double offset = carried;
#pragma unroll
        for (unsigned i = 0; i < SCAN_WARPS; i++) {
            offset += i < warp ? totals[turn][i] : 0;
            carried += totals[turn][i];
        }
        offset += in_warp;
#pragma unroll
        for (unsigned i = 0; i < SCAN_PER_THREAD; i++) {
            some[i] = (T)(before + (offset + sums[i]));
            if (first + i + 1 == part.end)
                results[blockIdx.x].last = some[i];
        }
        store_some(some, out, first, part.end);
        turn = 1 - turn;
    }
}

/* scan_*: moves 8 (16) bytes an element, some 5 operations in f64: bound by memory, 419 (209) G
 * elements/s. */
KERNEL(scan_f32, SCAN_THREADS)
(const float *x, float *out, u64 count, unsigned exclusive, scan_result *results)
{
    scan(x, out, count, exclusive, results);
}

KERNEL(scan_f64, SCAN_THREADS)
(const double *x, double *out, u64 count, unsigned exclusive, scan_result *results)
{
    scan(x, out, count, exclusive, results);
}

/* What is before a thread's elements. */
struct scan_before {
    struct sum exact;
    double absolute;
};

/*
 * verify_scan gives each thread a run of consecutive elements of the part: it adds its own up, then
 * all threads' before it, and then holds each element of its run against the sum with more digits.
 * `relative`: what the additions may be off, of the sum of the absolute values (workloads/scan.c).
 * From where the sum may overflow, or is an infinity or a NaN, an element may be anything.
 */
template <typename T>
static __device__ __forceinline__ void
verify_scan(const T *x, const T *out, u64 count, unsigned exclusive, double roundoff,
            double relative, double smallest, double largest, scan_result *results)
{
    __shared__ scan_before shares[PART_THREADS];
    const u64 most = PART_ELEMENTS / PART_THREADS;
    const part_range part = range_of_part(blockIdx.x, count);
    scan_result *const result = &results[blockIdx.x];
    const u64 first = part.first + threadIdx.x * most;
    const u64 last = first + most < part.end ? first + most : part.end;
    scan_before mine = {{0, 0}, 0};
    for (u64 i = first; i < last; i++) {
        sum_add(&mine.exact, x[i]);
        mine.absolute += fabs((double)x[i]);
    }
    shares[threadIdx.x] = mine;
    __syncthreads();
    mine = {{result->reference_before, result->lost_before}, result->absolute_before};
    for (unsigned i = 0; i < threadIdx.x; i++) {
        sum_add(&mine.exact, shares[i].exact.value);
        mine.exact.lost += shares[i].exact.lost;
        mine.absolute += shares[i].absolute;
    }
    double worst = 0;
    unsigned wrong = 0;
    for (u64 i = first; i < last; i++) {
        struct sum sum = mine.exact;
        sum_add(&mine.exact, x[i]);
        mine.absolute += fabs((double)x[i]);
        if (!exclusive)
            sum = mine.exact;
        if (!(mine.absolute < largest))
            break;
        const double error = fabs(out[i] - sum.value - sum.lost);
        const double limit = roundoff * fabs(sum.value) + 2 * relative * mine.absolute;
        wrong += !(error <= limit + roundoff * smallest);
        worst = error > worst ? error : worst;
    }
    /* What comes after the part builds upon the sum that scan_sum has found. */
    if (threadIdx.x == PART_THREADS - 1 && mine.absolute < largest) {
        struct sum rest = {result->reference_before, result->lost_before};
        sum_add(&rest, result->reference);
        sum_add(&rest, -mine.exact.value);
        wrong += !(fabs(rest.value + (rest.lost + result->lost - mine.exact.lost)) <=
                   relative * mine.absolute);
    }
    __shared__ double worsts[PART_THREADS];
    __shared__ unsigned wrongs[PART_THREADS];
    worsts[threadIdx.x] = worst;
    wrongs[threadIdx.x] = wrong;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (unsigned i = 1; i < PART_THREADS; i++) {
        worst = worsts[i] > worst ? worsts[i] : worst;
        wrong += wrongs[i];
    }
    result->max_abs_error = worst;
    result->wrong = wrong;
}

/*
 * verify_scan_*: reads 12 (24) bytes an element, some 25 operations in f64: by memory 279 (140) G
 * elements/s. Neighbours read 256 elements apart, though, and count on the first-level cache to
 * keep a line until its 32 (16) elements have been read.
 */
KERNEL(verify_scan_f32, PART_THREADS)
(const float *x, const float *out, u64 count, unsigned exclusive, double relative, double smallest,
 double largest, scan_result *results)
{
    verify_scan(x, out, count, exclusive, 0x1p-24, relative, smallest, largest, results);
}

KERNEL(verify_scan_f64, PART_THREADS)
(const double *x, const double *out, u64 count, unsigned exclusive, double relative,
 double smallest, double largest, scan_result *results)
{
    verify_scan(x, out, count, exclusive, 0x1p-53, relative, smallest, largest, results);
}

/* --- counts ------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ void set_to_zero(unsigned *counts, unsigned size)
{
    for (unsigned i = threadIdx.x; i < size; i += ARRAY_THREADS)
        counts[i] = 0;
}

/*
 * histogram counts in shared memory, then adds to what other blocks have counted. With few bins
 * each warp has bins of its own: fewer threads wait for each other at the same one.
 */
template <typename T>
static __device__ __forceinline__ void histogram(const T *x, u64 count, double low, double high,
                                                 unsigned bins, unsigned long long *outside,
                                                 unsigned *counts)
{
    const unsigned warps = ARRAY_THREADS / 32;
    __shared__ unsigned here[HISTOGRAM_MAX_BINS];
    __shared__ unsigned missed[HISTOGRAM_OUTSIDE];
    const unsigned fit = HISTOGRAM_MAX_BINS / bins, copies = fit < warps ? fit : warps;
    unsigned *const mine = here + threadIdx.x / 32 % copies * bins;
    const double scale = (double)bins / (high - low);
    const u64 step = threads_of_grid();
    set_to_zero(here, copies * bins);
    set_to_zero(missed, HISTOGRAM_OUTSIDE);
    __syncthreads();
#pragma unroll 4
    for (u64 i = thread_number(); i < count; i += step) {
        const double number = x[i];
        if (number >= low && number < high) {
            const unsigned bin = (unsigned)(int)((number - low) * scale);
            atomicAdd(&mine[bin < bins ? bin : bins - 1], 1u);
        } else {
            atomicAdd(&missed[number < low     ? HISTOGRAM_BELOW
                              : number >= high ? HISTOGRAM_ABOVE
                                               : HISTOGRAM_NAN],
                      1u);
        }
    }
    __syncthreads();
    for (unsigned bin = threadIdx.x; bin < bins; bin += ARRAY_THREADS) {
        unsigned found = 0;
        for (unsigned i = 0; i < copies; i++)
            found += here[i * bins + bin];
        if (found)
            atomicAdd(&counts[bin], found);
    }
    if (threadIdx.x < HISTOGRAM_OUTSIDE && missed[threadIdx.x])
        atomicAdd(&outside[threadIdx.x], (unsigned long long)missed[threadIdx.x]);
}

/*
 * histogram_*: reads 4 (8) bytes an element, 2 operations in f64 and one atomic addition in shared
 * memory: 32 of them a clock and multiprocessor, where no two threads of a warp meet, are 7.4 T/s
 * on an H100. So by memory 838 (419) G elements/s; where all meet, 1/32 of the additions.
 */
KERNEL(histogram_f32, ARRAY_THREADS)
(const float *x, u64 count, double low, double high, unsigned bins, unsigned long long *outside,
 unsigned *counts)
{
    histogram(x, count, low, high, bins, outside, counts);
}

KERNEL(histogram_f64, ARRAY_THREADS)
(const double *x, u64 count, double low, double high, unsigned bins, unsigned long long *outside,
 unsigned *counts)
{
    histogram(x, count, low, high, bins, outside, counts);
}

/* exact_difference: as a sum of value and lost (Knuth, 4.2.2, theorem B). */
static __device__ __forceinline__ struct sum exact_difference(double a, double b)
{
    struct sum difference = {a, 0};
    sum_add(&difference, -b);
    return difference;
}

/* position_in finds (number - low) * bins / (high - low), with twice the digits of float64. */
static __device__ __forceinline__ struct sum position_in(double number, double low, double high,
                                                         double bins)
{
    const struct sum offset = exact_difference(number, low), width = exact_difference(high, low);
    struct sum scaled = exact_product(offset.value, bins);
    scaled.lost += offset.lost * bins;
    const double quotient = scaled.value / width.value;
    const double rest = fma(-quotient, width.value, scaled.value);
    return {quotient, (rest + scaled.lost - quotient * width.lost) / width.value};
}

/*
 * histogram_reference counts again, by positions with more digits, and how many are so near an edge
 * that they may be on either side of it: `limit` times the position.
 */
template <typename T>
static __device__ __forceinline__ void histogram_reference(const T *x, u64 count, double low,
                                                           double high, unsigned bins, double limit,
                                                           unsigned *counts, unsigned *near)
{
    __shared__ unsigned here[HISTOGRAM_MAX_BINS], near_here[HISTOGRAM_MAX_BINS];
    const u64 step = threads_of_grid();
    set_to_zero(here, bins);
    set_to_zero(near_here, bins);
    __syncthreads();
    for (u64 i = thread_number(); i < count; i += step) {
        const double number = x[i];
        if (!(number >= low && number < high))
            continue;
        const struct sum position = position_in(number, low, high, (double)bins);
        unsigned bin = (unsigned)(int)position.value;
        if (bin > 0 && (bin == bins || position.value - bin + position.lost < 0))
            bin--;
        const double off = position.value - bin + position.lost, near_by = position.value * limit;
        atomicAdd(&here[bin], 1u);
        if (bin > 0 && off <= near_by) {
            atomicAdd(&near_here[bin], 1u);
            atomicAdd(&near_here[bin - 1], 1u);
        }
        if (bin + 1 < bins && off >= 1 - near_by) {
            atomicAdd(&near_here[bin], 1u);
            atomicAdd(&near_here[bin + 1], 1u);
        }
    }
    __syncthreads();
    for (unsigned bin = threadIdx.x; bin < bins; bin += ARRAY_THREADS) {
        if (here[bin])
            atomicAdd(&counts[bin], here[bin]);
        if (near_here[bin])
            atomicAdd(&near[bin], near_here[bin]);
    }
}

/* histogram_reference_*: reads 4 (8) bytes an element, two divisions and some 25 other operations
 * in f64, together like 50: 0.34 T elements/s, above which memory is with 0.84 (0.42). */
KERNEL(histogram_reference_f32, ARRAY_THREADS)
(const float *x, u64 count, double low, double high, unsigned bins, double limit, unsigned *counts,
 unsigned *near)
{
    histogram_reference(x, count, low, high, bins, limit, counts, near);
}

KERNEL(histogram_reference_f64, ARRAY_THREADS)
(const double *x, u64 count, double low, double high, unsigned bins, double limit, unsigned *counts,
 unsigned *near)
{
    histogram_reference(x, count, low, high, bins, limit, counts, near);
}

/* checksum: of a part, each element times 1 to 7 by its index, as array_checksum (array.c). */
template <typename T>
static __device__ __forceinline__ void checksum(const T *x, u64 count, double *results)
{
    const part_range part = range_of_part(blockIdx.x, count);
    unsigned factor = (unsigned)((part.first + threadIdx.x) % 7);
    double sum = 0;
    static_assert(PART_THREADS % 7 == 1, "each step is one factor further");
    for (u64 i = part.first + threadIdx.x; i < part.end; i += PART_THREADS) {
        sum += rounded_product((double)x[i], (double)(factor + 1));
        factor = factor == 6 ? 0 : factor + 1;
    }
    const block_sum all = sum_of_block(sum, {0, 0}, 0);
    if (threadIdx.x == 0)
        results[blockIdx.x] = all.sum;
}

/* checksum_*: reads 4 (8) bytes an element, 2 operations in f64: bound by memory, 838 (419) G
 * elements/s. */
KERNEL(checksum_f32, PART_THREADS)(const float *x, u64 count, double *results)
{
    checksum(x, count, results);
}

KERNEL(checksum_f64, PART_THREADS)(const double *x, u64 count, double *results)
{
    checksum(x, count, results);
}
