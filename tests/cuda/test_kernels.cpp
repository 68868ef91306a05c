/* The kernels on arrays and matrices: kernels.cu. */
#include "kernel_test.h"

#include <cfloat>
#include <limits>

/* Around one vector, one block, and what a grid of two blocks takes in one go. */
static const uint64_t counts[] = {1,    2,    3,    4,     5,     7,    8,    255,
                                  256,  257,  1023, 1024,  1025,  2047, 4096, 8191,
                                  8192, 8193, 8199, 12288, 16384, 16387};

static void test_clear()
{
    for (uint64_t bytes : counts) {
        array<unsigned char> memory(bytes);
        launch("clear", 2, 1, ARRAY_THREADS, {&memory.data, &bytes});
        for (uint64_t i = 0; i < bytes; i++)
            CHECK(memory.data[i] == 0, "byte %zu of %zu", (size_t)i, (size_t)bytes);
    }
}

template <typename T> static void test_fill(unsigned bits)
{
    for (uint64_t count : counts) {
        for (uint64_t first : {(uint64_t)0, (uint64_t)5, (uint64_t)1 << 40}) {
            array<T> to(count);
            uint64_t key = generate_key(7, first);
            launch(typed<T>("fill").c_str(), 2, 1, ARRAY_THREADS,
                   {&to.data, &key, &first, &count, &bits});
            for (uint64_t i = 0; i < count; i++)
                CHECK(to.data[i] == (T)generate_real(key, first + i, bits), "element %zu of %zu",
                      (size_t)i, (size_t)count);
        }
    }
}

template <typename T> static void make(array<T> &a, unsigned stream)
{
    for (size_t i = 0; i < a.size; i++)
        a.data[i] = (T)(generate_real(stream, i, 40) - 0.5) * (T)(1 << (i % 20));
}

template <typename T> static void test_add()
{
    for (uint64_t count : counts) {
        array<T> a(count), b(count), c(count);
        make(a, 1);
        make(b, 2);
        launch(typed<T>("add").c_str(), 2, 1, ARRAY_THREADS, {&a.data, &b.data, &c.data, &count});
        for (uint64_t i = 0; i < count; i++)
            CHECK(c.data[i] == a.data[i] + b.data[i], "element %zu of %zu", (size_t)i,
                  (size_t)count);
    }
}

template <typename T> static verify_result run_verify(array<T> &a, array<T> &b, array<T> &c)
{
    uint64_t count = c.size;
    const unsigned blocks = (unsigned)((count * sizeof(T) + VERIFY_BYTES - 1) / VERIFY_BYTES);
    array<verify_result> results(blocks);
    verify_result all = {0, 0, 0};
    launch(typed<T>("verify").c_str(), blocks, 1, VERIFY_THREADS,
           {&a.data, &b.data, &c.data, &count, &results.data});
    for (unsigned i = 0; i < blocks; i++) {
        all.sum += results.data[i].sum;
        all.max_abs_error = fmax(all.max_abs_error, results.data[i].max_abs_error);
        all.wrong += results.data[i].wrong;
    }
    return all;
}

template <typename T> static void test_verify()
{
    const size_t piece = VERIFY_BYTES / sizeof(T);
    for (size_t count : {(size_t)1, (size_t)63, (size_t)64, (size_t)65, piece, piece + 1}) {
        array<T> a(count), b(count), c(count);
        make(a, 1);
        make(b, 2);
        long double sum = 0, absolute = 0;
        double worst = 0;
        for (size_t i = 0; i < count; i++) {
            c.data[i] = a.data[i] + b.data[i];
            sum += c.data[i];
            absolute += fabsl(c.data[i]);
            worst = fmax(worst, fabs((double)c.data[i] - ((double)a.data[i] + (double)b.data[i])));
        }
        verify_result found = run_verify(a, b, c);
        CHECK(found.wrong == 0, "%llu of %zu", found.wrong, count);
        CHECK(found.max_abs_error == worst, "%a, not %a", found.max_abs_error, worst);
        /* Higham 4.2: off by at most n * u times the sum of the absolute values. */
        CHECK(fabsl(found.sum - sum) <= (long double)count * 0x1p-53 * absolute, "%a", found.sum);
        for (size_t at : {(size_t)0, count / 2, count - 1}) {
            const T right = c.data[at];
            /* Two steps: one may be what rounding to even has taken. */
            c.data[at] = std::nextafter(std::nextafter(right, (T)1e30), (T)1e30);
            CHECK(run_verify(a, b, c).wrong == 1, "element %zu of %zu", at, count);
            c.data[at] = std::numeric_limits<T>::quiet_NaN();
            CHECK(run_verify(a, b, c).wrong == 1, "element %zu of %zu", at, count);
            c.data[at] = right;
        }
    }
}

template <typename T> static void test_verify_special()
{
    const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    const T most = std::numeric_limits<T>::max();
    const struct {
        T a, b, c;
        unsigned wrong;
    } cases[] = {
        {inf, 1, inf, 0}, {inf, -inf, nan, 0}, {nan, 1, nan, 0}, {most, most, inf, 0},
        {inf, 1, 5, 1},   {inf, 1, -inf, 1},   {nan, 1, 1, 1},   {1, 2, inf, 1},
    };
    for (const auto &each : cases) {
        array<T> a(1), b(1), c(1);
        a.data[0] = each.a;
        b.data[0] = each.b;
        c.data[0] = each.c;
        verify_result found = run_verify(a, b, c);
        CHECK(found.wrong == each.wrong, "%g + %g = %g", (double)each.a, (double)each.b,
              (double)each.c);
        CHECK(each.wrong || found.max_abs_error == 0, "%g", found.max_abs_error);
    }
}

template <typename T>
static void test_multiply_size(const char *name, unsigned side, uint64_t m, uint64_t n, uint64_t k,
                               uint64_t first)
{
    array<T> a(m * k), b(k * n), c(m * n);
    make(a, 1);
    make(b, 2);
    launch(name, (unsigned)((n + side - 1) / side), (unsigned)((m - first + side - 1) / side),
           MULTIPLY_THREADS, {&a.data, &b.data, &c.data, &first, &m, &n, &k});
    const double ku = ((double)k + 1) * (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53);
    array<T> untouched(1);
    for (uint64_t i = 0; i < m; i++) {
        for (uint64_t j = 0; j < n; j++) {
            const T found = c.data[i * n + j];
            long double dot = 0, absolute = 0;
            for (uint64_t d = 0; d < k; d++) {
                const long double term = (long double)a.data[i * k + d] * b.data[d * n + j];
                dot += term;
                absolute += fabsl(term);
            }
            if (i < first)
                CHECK(memcmp(&found, untouched.data, sizeof(T)) == 0, "row %zu was written",
                      (size_t)i);
            else /* Higham 3.1 */
                CHECK(fabsl(found - dot) <= ku / (1 - ku) * absolute, "%s %zux%zux%zu: %zu, %zu",
                      name, (size_t)m, (size_t)n, (size_t)k, (size_t)i, (size_t)j);
        }
    }
}

template <typename T> static void test_multiply(const char *name, unsigned side, uint64_t depth)
{
    const uint64_t sizes[][3] = {{1, 1, 1},
                                 {3, 5, 7},
                                 {side, side, depth},
                                 {side, side, 3 * depth},
                                 {side + 1, side - 1, 2 * depth + 1},
                                 {2 * side + 5, side + 3, 2 * depth - 1},
                                 {5, 2 * side + 1, depth + 1}};
    for (const auto &size : sizes)
        test_multiply_size<T>(name, side, size[0], size[1], size[2], 0);
    test_multiply_size<T>(name, side, 3 * side - 3, 20, depth, side);
}

void test_array_kernels()
{
    test_clear();
    test_fill<float>(22);
    test_fill<float>(4);
    test_fill<double>(51);
    test_add<float>();
    test_add<double>();
    test_verify<float>();
    test_verify<double>();
    test_verify_special<float>();
    test_verify_special<double>();
    test_multiply<float>("multiply_f32", MULTIPLY_LARGE_SIDE, 8);
    test_multiply<float>("multiply_f32_small", MULTIPLY_SMALL_SIDE, 16);
    test_multiply<double>("multiply_f64", MULTIPLY_SMALL_SIDE, 16);
}
