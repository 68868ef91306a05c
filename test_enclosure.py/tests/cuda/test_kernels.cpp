/* The kernels on arrays and matrices: kernels.cu. */
#include "kernel_test.h"

#include "executor/philox.h"

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

static verify_result all_of(const array<verify_result> &results)
{
    verify_result all = {0, 0, 0};
    for (size_t i = 0; i < results.size; i++) {
        all.sum += results.data[i].sum;
        all.max_abs_error = fmax(all.max_abs_error, results.data[i].max_abs_error);
        all.wrong += results.data[i].wrong;
    }
    return all;
}

template <typename T> static verify_result run_verify(array<T> &a, array<T> &b, array<T> &c)
{
    uint64_t count = c.size;
    array<verify_result> results(parts_of(count));
    launch(typed<T>("verify").c_str(), parts_of(count), 1, PART_THREADS,
           {&a.data, &b.data, &c.data, &count, &results.data});
    return all_of(results);
}

/* Around one lane of the threads, and one part. */
static const size_t part_sizes[] = {
    1, 15, 16, 17, 31, 32, 33, 63, 64, 65, PART_ELEMENTS - 1, PART_ELEMENTS, PART_ELEMENTS + 1};

template <typename T> static void test_verify()
{
    for (size_t count : part_sizes) {
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
        CHECK(found.wrong == 0, "%zu of %zu", (size_t)found.wrong, count);
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

template <typename T> static verify_result run_saxpy(array<T> &x, array<T> &y, array<T> &out, T a)
{
    const double roundoff = std::numeric_limits<T>::epsilon() / 2;
    double alpha = a, limit = (2 + 0x1p-8) * roundoff, largest = std::numeric_limits<T>::max();
    double tiny = limit * std::numeric_limits<T>::min();
    uint64_t count = out.size;
    array<verify_result> results(parts_of(count));
    launch(typed<T>("verify_saxpy").c_str(), parts_of(count), 1, PART_THREADS,
           {&x.data, &y.data, &out.data, &alpha, &count, &limit, &tiny, &largest, &results.data});
    return all_of(results);
}

template <typename T> static void test_saxpy()
{
    const T alpha = (T)1 / 3;
    double given = alpha;
    for (uint64_t count : counts) {
        array<T> x(count), y(count), out(count);
        make(x, 1);
        make(y, 2);
        launch(typed<T>("saxpy").c_str(), 2, 1, ARRAY_THREADS,
               {&x.data, &y.data, &out.data, &given, &count});
        for (uint64_t i = 0; i < count; i++) {
            const volatile T product = alpha * x.data[i]; /* rounded */
            CHECK(out.data[i] == product + y.data[i], "element %zu of %zu", (size_t)i,
                  (size_t)count);
        }
    }
}

/* The reference is one of the type with more digits: 64 of them for f64. */
template <typename T> static void test_verify_saxpy()
{
    const T alpha = (T)1 / 3, inf = std::numeric_limits<T>::infinity();
    for (size_t count : part_sizes) {
        array<T> x(count), y(count), out(count);
        make(x, 1);
        make(y, 2);
        long double sum = 0, absolute = 0, worst = 0;
        for (size_t i = 0; i < count; i++) {
            const volatile T product = alpha * x.data[i];
            out.data[i] = product + y.data[i];
            const long double exact = (long double)alpha * x.data[i] + y.data[i];
            sum += out.data[i];
            absolute += fabsl(out.data[i]);
            worst = fmaxl(worst, fabsl(out.data[i] - exact));
        }
        verify_result found = run_saxpy(x, y, out, alpha);
        CHECK(found.wrong == 0, "%zu of %zu", (size_t)found.wrong, count);
        CHECK(fabsl(found.max_abs_error - worst) <= 1e-3 * worst, "%a, not %La",
              found.max_abs_error, worst);
        CHECK(fabsl(found.sum - sum) <= (long double)count * 0x1p-53 * absolute, "%a", found.sum);
        for (size_t at : {(size_t)0, count / 2, count - 1}) {
            const T right = out.data[at], before = x.data[at];
            const double size = fabs((double)alpha * x.data[at]) + fabs((double)y.data[at]);
            out.data[at] = (T)(right + 4 * size * std::numeric_limits<T>::epsilon());
            CHECK(run_saxpy(x, y, out, alpha).wrong == 1, "element %zu of %zu", at, count);
            out.data[at] = inf;
            CHECK(run_saxpy(x, y, out, alpha).wrong == 1, "element %zu of %zu", at, count);
            x.data[at] = inf; /* and then it is right */
            CHECK(run_saxpy(x, y, out, alpha).wrong == 0, "element %zu of %zu", at, count);
            out.data[at] = right;
            x.data[at] = before;
        }
    }
}

static void test_count_points()
{
    for (uint64_t first : {(uint64_t)0, (uint64_t)6, (uint64_t)1 << 33}) {
        for (uint64_t count : {1, 2, 3, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 5001}) {
            array<unsigned long long> inside(1);
            unsigned key0 = 7, key1 = 9;
            unsigned long long wanted = *inside.data = 1000; /* it is added to */
            for (uint64_t i = first; i < first + count; i++) {
                uint32_t words[4] = {(uint32_t)(i / 2), (uint32_t)(i / 2 >> 32), 0, 0};
                philox(words, key0, key1);
                const long double x = words[i % 2 * 2] >> 1, y = words[i % 2 * 2 + 1] >> 1;
                wanted += x * x + y * y < 0x1p62L;
            }
            launch("count_points", 2, 1, ARRAY_THREADS,
                   {&first, &count, &key0, &key1, &inside.data});
            CHECK(*inside.data == wanted, "%llu, not %llu", *inside.data, wanted);
        }
    }
}

template <typename T>
static unsigned run_verify_transpose(array<T> &in, array<T> &out, uint64_t m, uint64_t n,
                                     const char *name)
{
    array<unsigned> wrong(1);
    *wrong.data = 0;
    launch(name, (unsigned)((n + 31) / 32), (unsigned)((m + 31) / 32), TRANSPOSE_THREADS,
           {&in.data, &out.data, &m, &n, &wrong.data});
    return *wrong.data;
}

template <typename T> static void test_transpose(const char *name, const char *verify)
{
    const uint64_t sides[] = {1, 2, 31, 32, 33, 65};
    for (uint64_t m : sides) {
        for (uint64_t n : sides) {
            array<T> in(m * n), out(m * n);
            for (size_t i = 0; i < in.size; i++)
                in.data[i] = (T)generate_bits(5, i);
            launch(name, (unsigned)((n + 31) / 32), (unsigned)((m + 31) / 32), TRANSPOSE_THREADS,
                   {&in.data, &out.data, &m, &n, &in.data});
            for (uint64_t i = 0; i < m * n; i++)
                CHECK(out.data[i % n * m + i / n] == in.data[i], "%zux%zu: element %zu", (size_t)m,
                      (size_t)n, (size_t)i);
            CHECK(run_verify_transpose(in, out, m, n, verify) == 0, "%zux%zu", (size_t)m,
                  (size_t)n);
            for (uint64_t at : {(uint64_t)0, m * n / 2, m * n - 1}) {
                out.data[at] ^= 1;
                CHECK(run_verify_transpose(in, out, m, n, verify) == 1, "%zux%zu: element %zu",
                      (size_t)m, (size_t)n, (size_t)at);
                out.data[at] ^= 1;
            }
        }
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
    test_saxpy<float>();
    test_saxpy<double>();
    test_verify_saxpy<float>();
    test_verify_saxpy<double>();
    test_count_points();
    test_transpose<uint32_t>("transpose_f32", "verify_transpose_f32");
    test_transpose<uint64_t>("transpose_f64", "verify_transpose_f64");
    test_multiply<float>("multiply_f32", MULTIPLY_LARGE_SIDE, 8);
    test_multiply<float>("multiply_f32_small", MULTIPLY_SMALL_SIDE, 16);
    test_multiply<double>("multiply_f64", MULTIPLY_SMALL_SIDE, 16);
}
