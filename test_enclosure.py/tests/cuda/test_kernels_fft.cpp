/* The kernels of FFT: kernels_fft.cu, each against its definition in long double. */
#include "kernel_test.h"

#include <complex>

typedef std::complex<long double> wide;

#define PI 3.141592653589793238462643383279502884L

template <typename T> static std::complex<T> *elements(array<T> &a)
{
    return (std::complex<T> *)a.data;
}

template <typename T> static void make_small(array<T> &a, unsigned stream)
{
    for (size_t i = 0; i < a.size; i++)
        a.data[i] = (T)(generate_real(stream, i, 20) - 0.5);
}

static wide root_of(uint64_t k, uint64_t n)
{
    const long double angle = -2 * PI * (long double)k / (long double)n;
    return wide(cosl(angle), sinl(angle));
}

/* one rounding, and what the device's functions are off by */
template <typename T> static long double close_to_one()
{
    return sizeof(T) == 4 ? 0x1p-23L : 0x1p-51L;
}

template <typename T> static void test_roots(uint64_t n)
{
    array<T> roots(2 * n);
    launch(typed<T>("fft_roots").c_str(), 2, 1, ARRAY_THREADS, {&roots.data, &n});
    for (uint64_t k = 0; k < n; k++)
        CHECK(std::abs(wide(elements(roots)[k]) - root_of(k, n)) <= close_to_one<T>(),
              "root %zu of %zu", (size_t)k, (size_t)n);
}

template <typename T> static void test_chirp(uint64_t n, uint64_t size)
{
    array<T> chirp(2 * n), conjugate(2 * size);
    launch(typed<T>("fft_chirp").c_str(), 2, 1, ARRAY_THREADS,
           {&chirp.data, &conjugate.data, &n, &size});
    for (uint64_t i = 0; i < size; i++) {
        const uint64_t j = i < n ? i : size - i;
        const wide root = j < n ? root_of(j * j % (2 * n), 2 * n) : 0;
        CHECK(std::abs(wide(elements(conjugate)[i]) - std::conj(root)) <= close_to_one<T>(),
              "%zu of %zu", (size_t)i, (size_t)size);
        CHECK(i >= n || elements(chirp)[i] == std::conj(elements(conjugate)[i]), "%zu", (size_t)i);
    }
}

/* transform, by its definition, of elements that are `apart` from each other. */
template <typename T>
static std::vector<wide> transform(const std::complex<T> *in, unsigned length, uint64_t apart,
                                   bool exchange)
{
    std::vector<wide> out(length);
    for (unsigned k = 0; k < length; k++)
        for (unsigned j = 0; j < length; j++) {
            const wide x(in[j * apart]);
            out[k] += (exchange ? wide(x.imag(), x.real()) : x) *
                      root_of((uint64_t)j * k % length, length);
        }
    return out;
}

/* One pass over `batch` transforms of n elements. */
template <typename T>
static void test_pass(uint64_t n, unsigned length, uint64_t batch, unsigned apart,
                      unsigned exchange)
{
    const unsigned width = FFT_TILE_BYTES / (2 * sizeof(T)) / length;
    uint64_t columns = batch * n / length, step = n / length;
    array<T> in(2 * n * batch), out(2 * n * batch), roots(2 * n);
    const T scale = (T)0.25;
    unsigned exchange_in = exchange & 1, exchange_out = exchange >> 1;
    make_small(in, 3);
    launch(typed<T>("fft_roots").c_str(), 2, 1, ARRAY_THREADS, {&roots.data, &n});
    launch(typed<T>("fft_pass").c_str(), (unsigned)((columns + width - 1) / width), 1, FFT_THREADS,
           {&in.data, &out.data, &roots.data, &n, &length, &columns, &apart, &exchange_in,
            &exchange_out, (void *)&scale});
    for (uint64_t column = 0; column < columns; column++) {
        const uint64_t row = column % step, first = column / step * n + row;
        const std::vector<wide> wanted =
            apart ? transform(elements(in) + first, length, step, exchange_in)
                  : transform(elements(in) + column * length, length, 1, exchange_in);
        long double norm = 0;
        for (const wide &each : wanted)
            norm += std::norm(each);
        for (unsigned k = 0; k < length; k++) {
            wide right = wanted[k] * (long double)scale * (apart ? root_of(row * k, n) : 1);
            if (exchange_out)
                right = wide(right.imag(), right.real());
            const long double error = std::abs(wide(elements(out)[first + k * step]) - right);
            /* Higham 24.1, as in workloads/fft.c */
            const long double bound = 21 * (log2l(length) + 3) * close_to_one<T>() / 2;
            CHECK(error <= bound * sqrtl(norm) * (long double)scale,
                  "element %u of column %zu of %u, n %zu", k, (size_t)column, length, (size_t)n);
        }
    }
}

template <typename T>
static void test_bluesteins_parts(uint32_t n, uint32_t size, uint32_t batch, uint32_t exchange)
{
    array<T> in(2 * n * batch), chirp(2 * n), spread(2 * size * batch), factor(2 * size);
    array<T> out(2 * n * batch);
    const T scale = (T)0.5;
    make_small(in, 4);
    make_small(chirp, 5);
    make_small(factor, 6);
    launch(typed<T>("fft_spread").c_str(), 2, 1, ARRAY_THREADS,
           {&in.data, &chirp.data, &spread.data, &n, &size, &batch, &exchange});
    std::vector<wide> wanted(size * batch);
    for (size_t i = 0; i < size * batch; i++) {
        const size_t t = i / size, j = i % size;
        if (j < n) {
            const wide x(elements(in)[t * n + j]);
            wanted[i] = (exchange ? wide(x.imag(), x.real()) : x) * wide(elements(chirp)[j]);
        }
        CHECK(std::abs(wide(elements(spread)[i]) - wanted[i]) <= 2 * close_to_one<T>(), "%zu", i);
    }
    make_small(spread, 8); /* no zeros, whose product shows nothing */
    for (size_t i = 0; i < size * batch; i++)
        wanted[i] = wide(elements(spread)[i]) * wide(elements(factor)[i % size]);
    launch(typed<T>("fft_multiply").c_str(), 2, 1, ARRAY_THREADS,
           {&spread.data, &factor.data, &size, &batch});
    for (size_t i = 0; i < size * batch; i++)
        CHECK(std::abs(wide(elements(spread)[i]) - wanted[i]) <= 2 * close_to_one<T>(), "%zu", i);
    launch(typed<T>("fft_gather").c_str(), 2, 1, ARRAY_THREADS,
           {&spread.data, &chirp.data, &out.data, &n, &size, &batch, &exchange, (void *)&scale});
    for (size_t i = 0; i < n * batch; i++) {
        wide right = wide(elements(spread)[i / n * size + i % n]) * wide(elements(chirp)[i % n]) *
                     (long double)scale;
        if (exchange)
            right = wide(right.imag(), right.real());
        CHECK(std::abs(wide(elements(out)[i]) - right) <= 2 * close_to_one<T>(), "%zu", i);
    }
}

template <typename T> static void test_divide(uint64_t count)
{
    array<T> x(count);
    make_small(x, 7);
    const std::vector<T> before(x.data, x.data + count);
    const T scale = (T)0.25;
    launch(typed<T>("fft_divide").c_str(), 2, 1, ARRAY_THREADS, {&x.data, &count, (void *)&scale});
    for (size_t i = 0; i < count; i++)
        CHECK(x.data[i] == before[i] * scale, "%zu of %zu", i, (size_t)count);
}

template <typename T> static void test_fft()
{
    const unsigned most = FFT_TILE_BYTES / (2 * sizeof(T));
    for (uint64_t n : {1, 2, 3, 8, 13, 1000, 1024})
        test_roots<T>(n);
    test_roots<T>((1u << 21) - 9);
    test_divide<T>(1);
    test_divide<T>(5 * ARRAY_THREADS + 3);
    test_chirp<T>(3, 8);
    test_chirp<T>(5, 16);
    test_chirp<T>(1000, 2048);
    for (unsigned exchange = 0; exchange < 4; exchange++)
        test_pass<T>(8, 8, 5, 0, exchange);
    test_pass<T>(1, 1, 3, 0, 0);
    test_pass<T>(1, 1, most + 1, 0, 0);
    test_pass<T>(2, 2, 1, 0, 0);
    test_pass<T>(256, 256, 2 * most / 256 + 1, 0, 0);
    test_pass<T>(32, 4, 3, 1, 1); /* apart */
    test_pass<T>(32, 8, 3, 0, 2); /* then together, of the same transforms */
    test_pass<T>(1024, 64, 1, 1, 0);
    for (unsigned exchange = 0; exchange < 2; exchange++) {
        test_bluesteins_parts<T>(3, 8, 5, exchange);
        test_bluesteins_parts<T>(300, 1024, 3, exchange);
    }
}

/* The longest columns that there are, in one order of the threads: it takes a while. */
template <typename T> static void test_longest()
{
    const unsigned most = FFT_TILE_BYTES / (2 * sizeof(T));
    test_pass<T>(most, most, 1, 0, 0);
}

void test_fft_kernels()
{
    test_fft<float>();
    test_fft<double>();
    if (shim_thread_order == SHIM_SHUFFLED)
        test_longest<double>();
}
