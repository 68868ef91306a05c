/*
 * FFT: complex transforms of any length. A power of two N = R * C is done in passes over columns
 * that fit into shared memory: R elements that are C apart, times roots of unity, then C elements
 * that lie together (Bailey, "FFTs in External or Hierarchical Memory", 1990); one pass does where
 * all of it fits. Any other length is a convolution with a chirp, by transforms of the next power
 * of two from twice the length on (Bluestein, "A Linear Filtering Approach to the Computation of
 * the Discrete Fourier Transform", 1970). The inverse is the transform between two exchanges of
 * real and imaginary parts.
 */
#include "executor/cuda/device_code.h"

template <typename T> struct alignas(2 * sizeof(T)) fft_complex {
    T re, im;
};

template <typename T>
static __device__ __forceinline__ fft_complex<T> operator*(fft_complex<T> a, fft_complex<T> b)
{
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <typename T>
static __device__ __forceinline__ fft_complex<T> fft_exchanged(fft_complex<T> a, bool exchange)
{
    return exchange ? fft_complex<T>{a.im, a.re} : a;
}

/*
 * fft_root is exp(-2 pi i k / n), k < n <= 2^22: whole quarters of a turn cost no digit, and what
 * is left is at most an eighth.
 */
template <typename T> static __device__ __forceinline__ fft_complex<T> fft_root(u64 k, u64 n)
{
    const u64 quarter = (8 * k / n + 1) / 2;
    const double rest = (double)((int64_t)(4 * k) - (int64_t)(quarter * n));
    double s, c;
    sincospi(rest / (double)(2 * n), &s, &c);
    if (quarter % 2 == 1) {
        const double turned = c;
        c = -s;
        s = turned;
    }
    return quarter % 4 < 2 ? fft_complex<T>{(T)c, (T)-s} : fft_complex<T>{(T)-c, (T)s};
}

template <typename T> static __device__ __forceinline__ void fft_roots(fft_complex<T> *roots, u64 n)
{
    for (u64 k = thread_number(); k < n; k += threads_of_grid())
        roots[k] = fft_root<T>(k, n);
}

/* fft_roots_*, fft_chirp_*: once a job; some 60 operations in f64 an element: 600 G elements/s,
 * less than the 8 (16) bytes written would allow. */
KERNEL(fft_roots_f32, ARRAY_THREADS)(fft_complex<float> *roots, u64 n)
{
    fft_roots(roots, n);
}

KERNEL(fft_roots_f64, ARRAY_THREADS)(fft_complex<double> *roots, u64 n)
{
    fft_roots(roots, n);
}

/*
 * fft_chirp makes the chirp exp(-pi i j^2 / n), and the conjugate of it for -n < j < n, of which
 * the negative ones stand at the end of `size`.
 */
template <typename T>
static __device__ __forceinline__ void fft_chirp(fft_complex<T> *chirp, fft_complex<T> *conjugate,
                                                 u64 n, u64 size)
{
    for (u64 i = thread_number(); i < size; i += threads_of_grid()) {
        const u64 j = i < n ? i : size - i;
        fft_complex<T> root = {0, 0};
        if (j < n)
            root = fft_root<T>(j * j % (2 * n), 2 * n);
        if (i < n)
            chirp[i] = root;
        conjugate[i] = {root.re, -root.im};
    }
}

KERNEL(fft_chirp_f32, ARRAY_THREADS)
(fft_complex<float> *chirp, fft_complex<float> *conjugate, u64 n, u64 size)
{
    fft_chirp(chirp, conjugate, n, size);
}

KERNEL(fft_chirp_f64, ARRAY_THREADS)
(fft_complex<double> *chirp, fft_complex<double> *conjugate, u64 n, u64 size)
{
    fft_chirp(chirp, conjugate, n, size);
}

/* fft_columns transforms columns of `length` elements, in the order of their bits turned round, in
 * shared memory; roots[k * stride] is root number k of `length`. */
template <typename T, unsigned TILE>
static __device__ __forceinline__ void fft_columns(fft_complex<T> *tile, unsigned length,
                                                   const fft_complex<T> *roots, u64 stride)
{
    for (unsigned half = 1; half < length; half *= 2) {
        for (unsigned i = threadIdx.x; i < TILE / 2; i += FFT_THREADS) {
            const unsigned k = i & (half - 1), at = 2 * i - k;
            const fft_complex<T> a = tile[at];
            const fft_complex<T> b = tile[at + half] * roots[k * (length / 2 / half * stride)];
            tile[at] = {a.re + b.re, a.im + b.im};
            tile[at + half] = {a.re - b.re, a.im - b.im};
        }
        __syncthreads();
    }
}

/*
 * fft_pass: of `columns` columns, as many as fit into a tile. With `apart`, the elements of a
 * column are n / length apart, before and after, and are multiplied by roots; without, they lie
 * together before, and n / length apart after.
 */
template <typename T>
static __device__ __forceinline__ void
fft_pass(const fft_complex<T> *in, fft_complex<T> *out, const fft_complex<T> *roots, u64 n,
         unsigned length, u64 columns, bool apart, bool exchange_in, bool exchange_out, T scale)
{
    const unsigned tile_size = FFT_TILE_BYTES / sizeof(fft_complex<T>);
    __shared__ fft_complex<T> tile[tile_size];
    /* All are powers of two: no divisions. */
    const unsigned width = tile_size / length, width_bits = __popc(width - 1);
    const unsigned length_bits = __popc(length - 1), n_bits = __popcll(n - 1);
    const unsigned step_bits = n_bits - length_bits;
    const u64 step = (u64)1 << step_bits, first = blockIdx.x * (u64)width;
    for (unsigned i = threadIdx.x; i < tile_size; i += FFT_THREADS) {
        const unsigned column = apart ? i & (width - 1) : i >> length_bits;
        const unsigned j = apart ? i >> width_bits : i & (length - 1);
        const unsigned turned = length > 1 ? __brev(j) >> (32 - length_bits) : 0;
        const u64 c = first + column, row = c & (step - 1);
        fft_complex<T> x = {0, 0};
        if (c < columns)
            x = in[apart ? (c >> step_bits << n_bits) + j * step + row : (c << length_bits) + j];
        tile[column * length + turned] = fft_exchanged(x, exchange_in);
    }
    __syncthreads();
    fft_columns<T, tile_size>(tile, length, roots, step);
    for (unsigned i = threadIdx.x; i < tile_size; i += FFT_THREADS) {
        const unsigned column = i & (width - 1), k = i >> width_bits;
        const u64 c = first + column, row = c & (step - 1);
        if (c >= columns)
            continue;
        fft_complex<T> x = tile[column * length + k];
        if (apart)
            x = x * roots[row * k];
        x = {x.re * scale, x.im * scale};
        out[(c >> step_bits << n_bits) + k * step + row] = fft_exchanged(x, exchange_out);
    }
}

/*
 * fft_pass_*: reads and writes 16 (32) bytes an element, and one root where there are two passes:
 * 209 (105) G elements/s a pass. 5 log2(length) operations an element are a third of what an H100
 * does meanwhile; log2(length) exchanges with shared memory of as many bytes, at 33 TB/s, bound it:
 * with columns of 1024 to some 200 (100) G elements/s.
 */
KERNEL(fft_pass_f32, FFT_THREADS)
(const fft_complex<float> *in, fft_complex<float> *out, const fft_complex<float> *roots, u64 n,
 unsigned length, u64 columns, unsigned apart, unsigned exchange_in, unsigned exchange_out,
 float scale)
{
    fft_pass(in, out, roots, n, length, columns, apart != 0, exchange_in != 0, exchange_out != 0,
             scale);
}

KERNEL(fft_pass_f64, FFT_THREADS)
(const fft_complex<double> *in, fft_complex<double> *out, const fft_complex<double> *roots, u64 n,
 unsigned length, u64 columns, unsigned apart, unsigned exchange_in, unsigned exchange_out,
 double scale)
{
    fft_pass(in, out, roots, n, length, columns, apart != 0, exchange_in != 0, exchange_out != 0,
             scale);
}

/* fft_spread: each transform of n elements, times the chirp, at the begin of `size`. Below, size is
 * a power of two, and there are less than 2^32 elements. */
template <typename T>
static __device__ __forceinline__ void
fft_spread(const fft_complex<T> *in, const fft_complex<T> *chirp, fft_complex<T> *out, unsigned n,
           unsigned size, unsigned batch, bool exchange)
{
    for (u64 i = thread_number(); i < (u64)batch * size; i += threads_of_grid()) {
        const unsigned j = (unsigned)i & (size - 1);
        const u64 transform = i >> __popc(size - 1);
        fft_complex<T> x = {0, 0};
        if (j < n)
            x = fft_exchanged(in[transform * n + j], exchange) * chirp[j];
        out[i] = x;
    }
}

/* fft_spread_*, fft_multiply_*, fft_gather_*: up to 24 (48) bytes and 8 operations an element:
 * bound by memory, 140 (70) G elements/s. */
KERNEL(fft_spread_f32, ARRAY_THREADS)
(const fft_complex<float> *in, const fft_complex<float> *chirp, fft_complex<float> *out, unsigned n,
 unsigned size, unsigned batch, unsigned exchange)
{
    fft_spread(in, chirp, out, n, size, batch, exchange != 0);
}

KERNEL(fft_spread_f64, ARRAY_THREADS)
(const fft_complex<double> *in, const fft_complex<double> *chirp, fft_complex<double> *out,
 unsigned n, unsigned size, unsigned batch, unsigned exchange)
{
    fft_spread(in, chirp, out, n, size, batch, exchange != 0);
}

template <typename T>
static __device__ __forceinline__ void fft_multiply(fft_complex<T> *x, const fft_complex<T> *factor,
                                                    unsigned size, unsigned batch)
{
    for (u64 i = thread_number(); i < (u64)batch * size; i += threads_of_grid())
        x[i] = x[i] * factor[i & (size - 1)];
}

KERNEL(fft_multiply_f32, ARRAY_THREADS)
(fft_complex<float> *x, const fft_complex<float> *factor, unsigned size, unsigned batch)
{
    fft_multiply(x, factor, size, batch);
}

KERNEL(fft_multiply_f64, ARRAY_THREADS)
(fft_complex<double> *x, const fft_complex<double> *factor, unsigned size, unsigned batch)
{
    fft_multiply(x, factor, size, batch);
}

/* fft_gather: the first n elements of each `size`, times the chirp and `scale`. */
template <typename T>
static __device__ __forceinline__ void
fft_gather(const fft_complex<T> *in, const fft_complex<T> *chirp, fft_complex<T> *out, unsigned n,
           unsigned size, unsigned batch, bool exchange, T scale)
{
    for (u64 i = thread_number(); i < (u64)batch * n; i += threads_of_grid()) {
        const unsigned transform = (unsigned)i / n, k = (unsigned)i % n;
        const fft_complex<T> x = in[transform * (u64)size + k] * chirp[k];
        out[i] = fft_exchanged(fft_complex<T>{x.re * scale, x.im * scale}, exchange);
    }
}

KERNEL(fft_gather_f32, ARRAY_THREADS)
(const fft_complex<float> *in, const fft_complex<float> *chirp, fft_complex<float> *out, unsigned n,
 unsigned size, unsigned batch, unsigned exchange, float scale)
{
    fft_gather(in, chirp, out, n, size, batch, exchange != 0, scale);
}

KERNEL(fft_gather_f64, ARRAY_THREADS)
(const fft_complex<double> *in, const fft_complex<double> *chirp, fft_complex<double> *out,
 unsigned n, unsigned size, unsigned batch, unsigned exchange, double scale)
{
    fft_gather(in, chirp, out, n, size, batch, exchange != 0, scale);
}

/* fft_divide: what cuFFT leaves to its caller, times `scale`, which is 1 / n. */
template <typename T> static __device__ __forceinline__ void fft_divide(T *x, u64 count, T scale)
{
    for (u64 i = thread_number(); i < count; i += threads_of_grid())
        x[i] *= scale;
}

/* fft_divide_*: 8 (16) bytes and one operation a number: bound by memory, 420 (210) G numbers/s. */
KERNEL(fft_divide_f32, ARRAY_THREADS)(float *x, u64 count, float scale)
{
    fft_divide(x, count, scale);
}

KERNEL(fft_divide_f64, ARRAY_THREADS)(double *x, u64 count, double scale)
{
    fft_divide(x, count, scale);
}
