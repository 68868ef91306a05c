/*
 * Kernels on arrays and matrices. Array arguments are 16-byte aligned (cuMemAlloc aligns by 256),
 * counts are in elements, grids may have any size. What each kernel should reach is said as its
 * roofline, the bytes it must move and the operations it must do; an H100 SXM moves 3.35 TB/s and
 * does 67 Tflop/s in f32 and 34 Tflop/s in f64 outside of its tensor cores (NVIDIA H100 data
 * sheet).
 */
#include "executor/cuda/device_code.h"

/* Independent 16-byte accesses of one thread that are in flight together. */
#define VECTORS_IN_FLIGHT 4

/* clear: 0 operations; writes `bytes`: 3.35 TB/s at most. */
KERNEL(clear, ARRAY_THREADS)(unsigned char *to, u64 bytes)
{
    vector<unsigned> *vectors = (vector<unsigned> *)to;
    const u64 count = bytes / 16, step = threads_of_grid();
    for (u64 i = thread_number(); i < count; i += step)
        vectors[i] = vector<unsigned>{{0, 0, 0, 0}};
    for (u64 i = count * 16 + thread_number(); i < bytes; i += step)
        to[i] = 0;
}

/*
 * The same numbers as generate_real in generate.h: multiples of 2^-bits, where neither the
 * conversion nor the product with a power of two rounds (bits: up to 24 for f32, 53 for f64).
 */
template <typename T>
static __device__ __forceinline__ T made_up(u64 key, u64 index, unsigned bits, T scale)
{
    return (T)(int64_t)(generate_bits(key, index) >> (64 - bits)) * scale;
}

template <typename T>
static __device__ __forceinline__ void fill(T *to, u64 key, u64 first, u64 count, unsigned bits)
{
    const unsigned per = 16 / sizeof(T);
    const T scale = (T)1 / (T)((int64_t)1 << bits);
    const u64 vectors = count / per, step = threads_of_grid();
    for (u64 i = thread_number(); i < vectors; i += step) {
        vector<T> made;
#pragma unroll
        for (unsigned j = 0; j < per; j++)
            made.of[j] = made_up<T>(key, first + i * per + j, bits, scale);
        ((vector<T> *)to)[i] = made;
    }
    for (u64 i = vectors * per + thread_number(); i < count; i += step)
        to[i] = made_up<T>(key, first + i, bits, scale);
}

/* fill_*: writes 4 (8) bytes an element, some 10 64-bit integer operations: about 40 of the
 * multiprocessors' 32-bit ones, which bound it (H100: 33 T/s, 0.8 T elements/s; memory would do
 * 0.84 (0.42) T elements/s). */
KERNEL(fill_f32, ARRAY_THREADS)(float *to, u64 key, u64 first, u64 count, unsigned bits)
{
    fill(to, key, first, count, bits);
}

KERNEL(fill_f64, ARRAY_THREADS)(double *to, u64 key, u64 first, u64 count, unsigned bits)
{
    fill(to, key, first, count, bits);
}

/* combine computes c from a and b, element by element, with as many accesses in flight as pay. */
template <typename T, typename Operation>
static __device__ __forceinline__ void combine(const T *a, const T *b, T *c, u64 count,
                                               Operation operation)
{
    const unsigned per = 16 / sizeof(T);
    const vector<T> *x = (const vector<T> *)a, *y = (const vector<T> *)b;
    vector<T> *z = (vector<T> *)c;
    const u64 vectors = count / per, step = threads_of_grid();
    u64 i = thread_number();
    for (; i + (VECTORS_IN_FLIGHT - 1) * step < vectors; i += VECTORS_IN_FLIGHT * step) {
        vector<T> left[VECTORS_IN_FLIGHT], right[VECTORS_IN_FLIGHT];
#pragma unroll
        for (unsigned u = 0; u < VECTORS_IN_FLIGHT; u++) {
            left[u] = x[i + u * step];
            right[u] = y[i + u * step];
        }
#pragma unroll
        for (unsigned u = 0; u < VECTORS_IN_FLIGHT; u++) {
#pragma unroll
            for (unsigned j = 0; j < per; j++)
                left[u].of[j] = operation(left[u].of[j], right[u].of[j]);
            z[i + u * step] = left[u];
        }
    }
    for (; i < vectors; i += step) {
        vector<T> left = x[i], right = y[i];
#pragma unroll
        for (unsigned j = 0; j < per; j++)
            left.of[j] = operation(left.of[j], right.of[j]);
        z[i] = left;
    }
    for (u64 j = vectors * per + thread_number(); j < count; j += step)
        c[j] = operation(a[j], b[j]);
}

template <typename T> struct addition {
    __device__ __forceinline__ T operator()(T a, T b) const
    {
        return a + b;
    }
};

/* Both are rounded, as on the cpu. */
template <typename T> struct scaled_addition {
    T alpha;
    __device__ __forceinline__ T operator()(T x, T y) const
    {
        return rounded_product(alpha, x) + y;
    }
};

/* add_*: 12 (24) bytes and 1 operation an element: bound by memory, 279 (140) G elements/s. */
KERNEL(add_f32, ARRAY_THREADS)(const float *a, const float *b, float *c, u64 count)
{
    combine(a, b, c, count, addition<float>{});
}

KERNEL(add_f64, ARRAY_THREADS)(const double *a, const double *b, double *c, u64 count)
{
    combine(a, b, c, count, addition<double>{});
}

/* saxpy_*: 12 (24) bytes and 2 operations an element: bound by memory, 279 (140) G elements/s. */
KERNEL(saxpy_f32, ARRAY_THREADS)
(const float *x, const float *y, float *out, double alpha, u64 count)
{
    combine(x, y, out, count, scaled_addition<float>{(float)alpha});
}

KERNEL(saxpy_f64, ARRAY_THREADS)
(const double *x, const double *y, double *out, double alpha, u64 count)
{
    combine(x, y, out, count, scaled_addition<double>{alpha});
}

static __device__ __forceinline__ bool is_finite(double x)
{
    return x - x == 0;
}

/* put_verified has the first thread put together what all have found, in the order of the cpu. */
static __device__ __forceinline__ void put_verified(double sum, double worst, unsigned wrong,
                                                    verify_result *to)
{
    __shared__ double sums[PART_THREADS], worsts[PART_THREADS];
    __shared__ unsigned wrongs[PART_THREADS];
    sums[threadIdx.x] = sum;
    worsts[threadIdx.x] = worst;
    wrongs[threadIdx.x] = wrong;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    verify_result result = {0, 0, 0};
    for (unsigned lane = 0; lane < PART_THREADS; lane++) {
        result.sum += sums[lane];
        result.max_abs_error =
            worsts[lane] > result.max_abs_error ? worsts[lane] : result.max_abs_error;
        result.wrong += wrongs[lane];
    }
    *to = result;
}

/*
 * verify holds every c against a + b in float64 and adds all c up, as the cpu does
 * (workloads/vector_add.c).
 */
template <typename T>
static __device__ __forceinline__ void verify(const T *a, const T *b, const T *c, u64 count,
                                              double roundoff, verify_result *results)
{
    const part_range part = range_of_part(blockIdx.x, count);
    double sum = 0, worst = 0;
    unsigned wrong = 0;
#pragma unroll 8
    for (u64 i = part.first + threadIdx.x; i < part.end; i += PART_THREADS) {
        const double found = c[i], exact = (double)a[i] + (double)b[i];
        const double rounded = (T)exact, error = fabs(found - exact);
        sum += found;
        if (is_finite(rounded)) {
            worst = error > worst ? error : worst;
            wrong += !(error <= roundoff * fabs(exact));
        } else {
            wrong += !(rounded == found || (rounded != rounded && found != found));
        }
    }
    put_verified(sum, worst, wrong, &results[blockIdx.x]);
}

/* verify_*: reads 12 (24) bytes an element, some 8 operations in f64: bound by memory, 279 (140) G
 * elements/s, once there are blocks for all multiprocessors: 132 * 16 parts. */
KERNEL(verify_f32, PART_THREADS)
(const float *a, const float *b, const float *c, u64 count, verify_result *results)
{
    verify(a, b, c, count, 0x1p-24, results);
}

KERNEL(verify_f64, PART_THREADS)
(const double *a, const double *b, const double *c, u64 count, verify_result *results)
{
    verify(a, b, c, count, 0x1p-53, results);
}

/*
 * verify_saxpy holds every element against alpha * x + y with more digits than its own: `limit`
 * times |alpha * x| + |y| and `tiny` is what it may be off (workloads/saxpy.c). What may have
 * overflowed, or began with an infinity or a NaN, may be anything.
 */
template <typename T>
static __device__ __forceinline__ void verify_saxpy(const T *x, const T *y, const T *out, T alpha,
                                                    u64 count, double limit, double tiny,
                                                    double largest, verify_result *results)
{
    const part_range part = range_of_part(blockIdx.x, count);
    double sum = 0, worst = 0;
    unsigned wrong = 0;
#pragma unroll 4
    for (u64 i = part.first + threadIdx.x; i < part.end; i += PART_THREADS) {
        const double found = out[i], more = y[i];
        struct sum right = exact_product(alpha, x[i]);
        const double size = fabs(right.value) + fabs(more);
        sum_add(&right, more);
        /* Nearly equal numbers have an exact difference; others are wrong by far. */
        const double error = fabs(found - right.value - right.lost);
        sum += found;
        if (size < largest) {
            worst = error > worst ? error : worst;
            wrong += !(error <= limit * size + tiny);
        }
    }
    put_verified(sum, worst, wrong, &results[blockIdx.x]);
}

/* verify_saxpy_*: reads 12 (24) bytes an element, some 20 operations in f64: bound by memory, 279
 * (140) G elements/s. */
KERNEL(verify_saxpy_f32, PART_THREADS)
(const float *x, const float *y, const float *out, double alpha, u64 count, double limit,
 double tiny, double largest, verify_result *results)
{
    verify_saxpy(x, y, out, (float)alpha, count, limit, tiny, largest, results);
}

KERNEL(verify_saxpy_f64, PART_THREADS)
(const double *x, const double *y, const double *out, double alpha, u64 count, double limit,
 double tiny, double largest, verify_result *results)
{
    verify_saxpy(x, y, out, alpha, count, limit, tiny, largest, results);
}

/*
 * count_points adds how many of the points first … first + count - 1 are inside to *inside: two of
 * each thread at a time. `first` is even. No memory to speak of; ten rounds of two 32-bit
 * multiplications to 64 bits and four other operations, and the squares: some 60 operations a
 * point, half of them multiplications at half the rate: 0.3 T points/s.
 */
KERNEL(count_points, ARRAY_THREADS)
(u64 first, u64 count, unsigned key0, unsigned key1, unsigned long long *inside)
{
    const u64 step = threads_of_grid();
    unsigned long long mine = 0;
    for (u64 i = thread_number(); i < (count + 1) / 2; i += step) {
        uint32_t words[4];
        point_pair(first / 2 + i, key0, key1, words);
        mine += 1 - point_is_outside(words[0], words[1]);
        if (2 * i + 1 < count)
            mine += 1 - point_is_outside(words[2], words[3]);
    }
#pragma unroll
    for (unsigned apart = 16; apart > 0; apart /= 2)
        mine += __shfl_xor_sync(0xffffffffu, mine, apart);
    if (threadIdx.x % 32 == 0)
        atomicAdd(inside, mine);
}

/*
 * multiply computes a tile of C = A * B, SIDE by SIDE elements, DEPTH columns of A and rows of B at
 * a time: they are read from memory into registers while those before them are multiplied, then put
 * into shared memory. 16 by 16 threads have PER by PER elements each, in groups of four by four.
 * A's piece lies transposed, in rows that are longer by 4: the 32 threads of a warp then write
 * to 32 banks. Rows `first` up to m are computed; row-major; outside of the matrices are zeros.
 */
template <typename T, unsigned SIDE, unsigned DEPTH, unsigned PER>
static __device__ __forceinline__ void multiply(const T *a, const T *b, T *c, u64 first, u64 m,
                                                u64 n, u64 k)
{
    const unsigned loads = SIDE * DEPTH / MULTIPLY_THREADS;
    static_assert(SIDE == 16 * PER && PER % 4 == 0 && 16 * 16 == MULTIPLY_THREADS &&
                      SIDE * DEPTH % MULTIPLY_THREADS == 0,
                  "every thread has as much to do");
    alignas(16) __shared__ T left[DEPTH][SIDE + 4], right[DEPTH][SIDE];
    const unsigned thread = threadIdx.x, across = thread % 16, down = thread / 16;
    const u64 row = first + (u64)blockIdx.y * SIDE, column = (u64)blockIdx.x * SIDE;
    T next_left[loads], next_right[loads], sum[PER][PER] = {};

    for (u64 depth = 0; depth < k + DEPTH; depth += DEPTH) {
        if (depth > 0) {
#pragma unroll
            for (unsigned i = 0; i < loads; i++) {
                const unsigned e = thread + i * MULTIPLY_THREADS;
                left[e % DEPTH][e / DEPTH] = next_left[i];
                right[e / SIDE][e % SIDE] = next_right[i];
            }
            __syncthreads();
        }
        if (depth < k) {
#pragma unroll
            for (unsigned i = 0; i < loads; i++) {
                const unsigned e = thread + i * MULTIPLY_THREADS;
                const u64 ar = row + e / DEPTH, ac = depth + e % DEPTH;
                const u64 br = depth + e / SIDE, bc = column + e % SIDE;
                next_left[i] = ar < m && ac < k ? a[ar * k + ac] : (T)0;
                next_right[i] = br < k && bc < n ? b[br * n + bc] : (T)0;
            }
        }
        if (depth == 0)
            continue;
#pragma unroll
        for (unsigned d = 0; d < DEPTH; d++) {
            T x[PER], y[PER];
#pragma unroll
            for (unsigned i = 0; i < PER; i++) {
                x[i] = left[d][i / 4 * 64 + down * 4 + i % 4];
                y[i] = right[d][i / 4 * 64 + across * 4 + i % 4];
            }
#pragma unroll
            for (unsigned i = 0; i < PER; i++)
#pragma unroll
                for (unsigned j = 0; j < PER; j++)
                    sum[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (unsigned i = 0; i < PER; i++) {
        const u64 r = row + i / 4 * 64 + down * 4 + i % 4;
#pragma unroll
        for (unsigned j = 0; j < PER; j++) {
            const u64 s = column + j / 4 * 64 + across * 4 + j % 4;
            if (r < m && s < n)
                c[r * n + s] = sum[i][j];
        }
    }
}

/*
 * multiply_*: 2mnk operations. Reads (mn/SIDE)k(1 + 1) elements: with SIDE 128 32 operations a
 * byte in f32, above the 20 at which an H100's memory would bound it; of shared memory each thread
 * reads 16 elements (8 with SIDE 64) for 64 (16) fused multiplications and additions. So it is
 * bound by arithmetic: 67 Tflop/s in f32 and 34 in f64, of which such a kernel reaches some 60%.
 */
KERNEL(multiply_f32, MULTIPLY_THREADS)
(const float *a, const float *b, float *c, u64 first, u64 m, u64 n, u64 k)
{
    multiply<float, MULTIPLY_LARGE_SIDE, 8, 8>(a, b, c, first, m, n, k);
}

KERNEL(multiply_f32_small, MULTIPLY_THREADS)
(const float *a, const float *b, float *c, u64 first, u64 m, u64 n, u64 k)
{
    multiply<float, MULTIPLY_SMALL_SIDE, 16, 4>(a, b, c, first, m, n, k);
}

KERNEL(multiply_f64, MULTIPLY_THREADS)
(const double *a, const double *b, double *c, u64 first, u64 m, u64 n, u64 k)
{
    multiply<double, MULTIPLY_SMALL_SIDE, 16, 4>(a, b, c, first, m, n, k);
}

/*
 * transpose moves a tile through shared memory, so that it is read and written in rows. The tile's
 * rows are longer by one: the threads of a warp then find their column in 32 banks.
 */
template <typename T>
static __device__ __forceinline__ void transpose(const T *in, T *out, u64 m, u64 n)
{
    const unsigned side = TRANSPOSE_SIDE, rows = TRANSPOSE_THREADS / TRANSPOSE_SIDE;
    __shared__ T tile[TRANSPOSE_SIDE][TRANSPOSE_SIDE + 1];
    const unsigned across = threadIdx.x % side, down = threadIdx.x / side;
    const u64 row = (u64)blockIdx.y * side, column = (u64)blockIdx.x * side;
#pragma unroll
    for (unsigned i = down; i < side; i += rows)
        if (row + i < m && column + across < n)
            tile[i][across] = in[(row + i) * n + column + across];
    __syncthreads();
#pragma unroll
    for (unsigned i = down; i < side; i += rows)
        if (column + i < n && row + across < m)
            out[(column + i) * m + row + across] = tile[across][i];
}

/* transpose_*: moves 8 (16) bytes an element: bound by memory, 419 (209) G elements/s. */
KERNEL(transpose_f32, TRANSPOSE_THREADS)(const uint32_t *in, uint32_t *out, u64 m, u64 n)
{
    transpose(in, out, m, n);
}

KERNEL(transpose_f64, TRANSPOSE_THREADS)(const uint64_t *in, uint64_t *out, u64 m, u64 n)
{
    transpose(in, out, m, n);
}

/* verify_transpose goes the other way round: the output's rows, element by element. */
template <typename T>
static __device__ __forceinline__ void verify_transpose(const T *in, const T *out, u64 m, u64 n,
                                                        unsigned *wrong)
{
    const unsigned side = TRANSPOSE_SIDE, rows = TRANSPOSE_THREADS / TRANSPOSE_SIDE;
    const u64 i = (u64)blockIdx.y * side + threadIdx.x % side;
    T different = 0;
#pragma unroll
    for (unsigned down = threadIdx.x / side; down < side; down += rows) {
        const u64 j = (u64)blockIdx.x * side + down;
        if (i < m && j < n)
            different |= out[j * m + i] ^ in[i * n + j];
    }
    if (different)
        atomicAdd(wrong, 1u);
}

/* verify_transpose_*: reads 8 (16) bytes an element: bound by memory, 419 (209) G elements/s, if a
 * line of the input stays in the first-level cache for the four accesses of a warp to it. */
KERNEL(verify_transpose_f32, TRANSPOSE_THREADS)
(const uint32_t *in, const uint32_t *out, u64 m, u64 n, unsigned *wrong)
{
    verify_transpose(in, out, m, n, wrong);
}

KERNEL(verify_transpose_f64, TRANSPOSE_THREADS)
(const uint64_t *in, const uint64_t *out, u64 m, u64 n, unsigned *wrong)
{
    verify_transpose(in, out, m, n, wrong);
}
