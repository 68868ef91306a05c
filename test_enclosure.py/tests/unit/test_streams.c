/* The workloads that stream through arrays, as a real vgpu-executor runs them. */
#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Nothing, one, around a part's length and a chunk's. */
static const size_t sizes[] = {0, 1, 7, 63, 64, 65, 16383, 16384, 16385, 1048575, 1048577};
#define SIZES   (sizeof(sizes) / sizeof(sizes[0]))
#define LARGEST 1048577

struct arrays {
    float *f32;
    double *f64;
};

/* arrays_make: the numbers in both types; each test wants its own. */
static struct arrays arrays_make(double (*number)(size_t index))
{
    struct arrays arrays = {malloc(LARGEST * sizeof(float)), malloc(LARGEST * sizeof(double))};
    assert_true(arrays.f32 && arrays.f64);
    for (size_t i = 0; i < LARGEST; i++) {
        arrays.f64[i] = number(i);
        arrays.f32[i] = (float)arrays.f64[i];
    }
    return arrays;
}

static void arrays_free(struct arrays *arrays)
{
    free(arrays->f32);
    free(arrays->f64);
}

static const void *arrays_of(const struct arrays *arrays, bool f64)
{
    return f64 ? (const void *)arrays->f64 : arrays->f32;
}

static double wave(size_t index)
{
    return sin((double)index) * 1000;
}

static double slow_wave(size_t index)
{
    return cos((double)index * 0.37) / 7;
}

static size_t real_size(bool f64)
{
    return f64 ? sizeof(double) : sizeof(float);
}

/* read_back reads an output file, which must have exactly that size. */
static void read_back(int file, void *to, size_t size)
{
    struct stat status;
    assert_int_equal(fstat(file, &status), 0);
    assert_int_equal(status.st_size, size);
    assert_int_equal(pread(file, to, size, 0), (ssize_t)size);
    close(file);
}

static void assert_near(double found, double expected, double limit)
{
    if (!(fabs(found - expected) <= limit))
        fail_msg("%.17g instead of %.17g, off by more than %g", found, expected, limit);
}

static void saxpy_files(struct peer *peer, bool f64, size_t count, const struct arrays *x,
                        const struct arrays *y, const struct arrays *out)
{
    size_t bytes = count * real_size(f64);
    int in_x = make_file(arrays_of(x, f64), bytes), in_y = make_file(arrays_of(y, f64), bytes);
    int file = make_file("", 0);
    job_line(peer, f64 ? "SAXPY dtype=f64 alpha=0.3" : "SAXPY alpha=0.3");
    job_file(peer, "x", in_x);
    job_file(peer, "y", in_y);
    job_file(peer, "out", file);
    job_run(peer, "done", "");
    read_back(file, f64 ? (void *)out->f64 : out->f32, bytes);
    close(in_x);
    close(in_y);
    double sum = 0, worst = 0;
    for (size_t i = 0; i < count; i++) {
        double exact = f64 ? 0.3 * x->f64[i] + y->f64[i]
                           : (double)0.3F * (double)x->f32[i] + (double)y->f32[i];
        double found = f64 ? out->f64[i] : (double)out->f32[i];
        worst = fmax(worst, fabs(found - exact));
        assert_near(found, exact, (f64 ? 0x1p-51 : 0x1p-22) * 301);
        sum += found;
    }
    assert_true(output_number(peer, "n=") == (double)count);
    assert_near(output_number(peer, "sum="), sum, 1e-9 * (1 + (double)count * 300));
    /* The test's own reference for f64 is no better than the result. */
    assert_true(f64 || output_number(peer, "max_abs_error=") == worst);
    assert_true(count < 63 || output_number(peer, "max_abs_error=") > 0);
}

static void test_saxpy(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct arrays x = arrays_make(wave), y = arrays_make(slow_wave), out = arrays_make(wave);
    for (size_t s = 0; s < SIZES; s++)
        for (int f64 = 0; f64 < 2; f64++)
            saxpy_files(&peer, f64, sizes[s], &x, &y, &out);
    arrays_free(&x);
    arrays_free(&y);
    arrays_free(&out);
    peer_finish(&peer, 0);
}

static void test_saxpy_made_up(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    /* These digits are a promise: other backends, versions and machines print the same. */
    job_line(&peer, "SAXPY n=3000001 alpha=-1.5 seed=7");
    job_run(&peer, "done", "");
    assert_output(&peer, "n=3000001 dtype=f32 alpha=-1.5 sum=-748324.8447265625 max_abs_error=0");
    job_line(&peer, "SAXPY n=5 dtype=f64");
    job_run(&peer, "done", "");
    assert_output(&peer, "n=5 dtype=f64 alpha=2 sum=6.481859028339386 max_abs_error=0");
    peer_finish(&peer, 0);
}

static void test_saxpy_special(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    const float x[] = {INFINITY, NAN, 3e38F, -0.0F, 1e-44F, 1},
                y[] = {-INFINITY, 1, 3e38F, 0, 1, 2};
    float out[6];
    int in_x = make_file(x, sizeof(x)), in_y = make_file(y, sizeof(y)), file = make_file("", 0);
    job_line(&peer, "SAXPY");
    job_file(&peer, "x", in_x);
    job_file(&peer, "y", in_y);
    job_file(&peer, "out", file);
    job_run(&peer, "done", "");
    read_back(file, out, sizeof(out));
    assert_true(isnan(out[0]) && isnan(out[1]) && isinf(out[2]) && out[4] == 1 && out[5] == 4);
    close(in_x);
    close(in_y);
    peer_finish(&peer, 0);
}

static const char *reduce_file(struct peer *peer, const char *line, const void *numbers,
                               size_t bytes)
{
    int file = make_file(numbers, bytes);
    job_line(peer, line);
    job_file(peer, "a", file);
    job_run(peer, "done", "");
    close(file);
    return peer->output;
}

static void reduce_files(struct peer *peer, bool f64, size_t count, const struct arrays *x)
{
    const void *numbers = arrays_of(x, f64);
    size_t bytes = count * real_size(f64);
    long double sum = 0, absolute = 0;
    double least = INFINITY, largest = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        double number = f64 ? x->f64[i] : (double)x->f32[i];
        sum += (long double)number;
        absolute += fabsl((long double)number);
        least = fmin(least, number);
        largest = fmax(largest, number);
    }
    reduce_file(peer, f64 ? "REDUCE dtype=f64" : "REDUCE", numbers, bytes);
    assert_true(output_number(peer, "n=") == (double)count);
    double result = output_number(peer, " result=");
    assert_near(result, (double)sum, 1e-13 * (double)absolute);
    assert_near(output_number(peer, "max_abs_error="), fabs(result - (double)sum),
                1e-15 * (double)absolute);
    if (count == 0)
        return;
    reduce_file(peer, f64 ? "REDUCE dtype=f64 op=min" : "REDUCE op=min", numbers, bytes);
    assert_true(output_number(peer, " result=") == least);
    reduce_file(peer, f64 ? "REDUCE dtype=f64 op=max" : "REDUCE op=max", numbers, bytes);
    assert_true(output_number(peer, " result=") == largest);
}

static void test_reduce(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct arrays x = arrays_make(wave);
    for (size_t s = 0; s < SIZES; s++)
        for (int f64 = 0; f64 < 2; f64++)
            reduce_files(&peer, f64, sizes[s], &x);
    arrays_free(&x);
    peer_finish(&peer, 0);
}

static void test_reduce_made_up(void **state)
{
    (void)state;
    static const struct {
        const char *line, *output;
    } cases[] = {
        {"REDUCE n=1000003 seed=7",
         "n=1000003 dtype=f32 op=sum result=499795.83658748865 max_abs_error=0"},
        {"REDUCE n=1000003 seed=7 op=min",
         "n=1000003 dtype=f32 op=min result=7.748603820800781e-07 max_abs_error=0"},
        {"REDUCE n=1000003 seed=7 op=max",
         "n=1000003 dtype=f32 op=max result=0.9999997615814209 max_abs_error=0"},
        {"REDUCE n=1000003 seed=7 dtype=f64",
         "n=1000003 dtype=f64 op=sum result=499795.8663414053 max_abs_error=0"},
        {"REDUCE n=1", "n=1 dtype=f32 op=sum result=0.25588518381118774 max_abs_error=0"},
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_line(&peer, cases[i].line);
        job_run(&peer, "done", "");
        assert_output(&peer, cases[i].output);
    }
    peer_finish(&peer, 0);
}

/* The special number stands at each place that the kernels treat in their own way. */
static void test_reduce_special(void **state)
{
    (void)state;
    static const size_t places[] = {0, 1, 15, 16, 100, 16384, 20003, 20004};
    struct peer peer = peer_greeted();
    struct arrays x = arrays_make(wave);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        float *at = &x.f32[places[i]], before = *at;
        size_t bytes = 20005 * sizeof(float);
        *at = NAN;
        assert_non_null(strstr(reduce_file(&peer, "REDUCE", x.f32, bytes), "result=nan "));
        assert_non_null(strstr(reduce_file(&peer, "REDUCE op=min", x.f32, bytes), "result=nan "));
        assert_non_null(strstr(reduce_file(&peer, "REDUCE op=max", x.f32, bytes), "result=nan "));
        *at = -1e30F;
        reduce_file(&peer, "REDUCE op=min", x.f32, bytes);
        assert_true(output_number(&peer, "result=") == (double)*at);
        *at = INFINITY;
        assert_non_null(strstr(reduce_file(&peer, "REDUCE", x.f32, bytes), "result=inf "));
        assert_non_null(strstr(reduce_file(&peer, "REDUCE op=max", x.f32, bytes), "result=inf "));
        *at = before;
    }
    arrays_free(&x);
    peer_finish(&peer, 0);
}

struct known {
    const char *line, *output;
};

/* These digits are a promise: other backends, versions and machines print the same. */
static void test_made_up(void **state)
{
    (void)state;
    static const struct known known[] = {
        {"DOT n=100003 seed=7 dtype=f64",
         "n=100003 dtype=f64 result=25038.7096828911 max_abs_error=0"},
        {"DOT n=100003 seed=7", "n=100003 dtype=f32 result=25038.7096828911 max_abs_error=0"},
        {"SCAN n=100003 seed=7 exclusive=yes dtype=f64",
         "n=100003 dtype=f64 exclusive=yes last=50021.863412456034 max_abs_error=0"},
        {"HISTOGRAM n=100003 seed=7", "n=100003 dtype=f32 bins=64 below=0 above=0 nan=0 "
                                      "fullest_bin=24 fullest_count=1630 max_abs_error=0"},
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        job_line(&peer, known[i].line);
        job_run(&peer, "done", "");
        assert_output(&peer, known[i].output);
    }
    job_line(&peer, "SCAN n=100003 seed=7");
    job_run(&peer, "done", "");
    assert_true(output_number(&peer, " last=") == 50022.81640625);
    peer_finish(&peer, 0);
}

static void dot_files(struct peer *peer, bool f64, size_t count, const struct arrays *x,
                      const struct arrays *y)
{
    size_t bytes = count * real_size(f64);
    long double sum = 0, absolute = 0;
    for (size_t i = 0; i < count; i++) {
        long double product = f64 ? (long double)x->f64[i] * (long double)y->f64[i]
                                  : (long double)x->f32[i] * (long double)y->f32[i];
        sum += product;
        absolute += fabsl(product);
    }
    int a = make_file(arrays_of(x, f64), bytes), b = make_file(arrays_of(y, f64), bytes);
    job_line(peer, f64 ? "DOT dtype=f64" : "DOT");
    job_file(peer, "a", a);
    job_file(peer, "b", b);
    job_run(peer, "done", "");
    close(a);
    close(b);
    double result = output_number(peer, " result=");
    assert_true(output_number(peer, "n=") == (double)count);
    assert_near(result, (double)sum, 1e-13 * (double)absolute);
    assert_near(output_number(peer, "max_abs_error="), fabs(result - (double)sum),
                1e-15 * (double)absolute);
}

static void scan_files(struct peer *peer, bool f64, bool exclusive, size_t count,
                       const struct arrays *x, const struct arrays *out)
{
    size_t bytes = count * real_size(f64);
    int a = make_file(arrays_of(x, f64), bytes), file = make_file("", 0);
    job_line(peer, f64 ? "SCAN dtype=f64" : "SCAN");
    job_argument(peer, "exclusive", exclusive ? "yes" : "no");
    job_file(peer, "a", a);
    job_file(peer, "out", file);
    job_run(peer, "done", "");
    close(a);
    read_back(file, f64 ? (void *)out->f64 : out->f32, bytes);
    long double sum = 0, absolute = 0;
    double worst = 0;
    for (size_t i = 0; i < count; i++) {
        long double number = f64 ? (long double)x->f64[i] : (long double)x->f32[i];
        long double with = sum + number;
        sum = exclusive ? sum : with;
        absolute += fabsl(number);
        double found = f64 ? out->f64[i] : (double)out->f32[i];
        double limit = (f64 ? 1e-13 : 0x1p-24) * (double)fabsl(sum) + 1e-13 * (double)absolute;
        assert_near(found, (double)sum, limit);
        worst = fmax(worst, (double)fabsl((long double)found - sum));
        sum = with;
    }
    assert_near(output_number(peer, "max_abs_error="), worst, 1e-14 * (double)absolute);
    assert_true(count == 0 || output_number(peer, " last=") ==
                                  (f64 ? out->f64[count - 1] : (double)out->f32[count - 1]));
}

static void test_dot_and_scan(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct arrays x = arrays_make(wave), y = arrays_make(slow_wave), out = arrays_make(wave);
    for (size_t s = 0; s < SIZES; s++) {
        for (int f64 = 0; f64 < 2; f64++) {
            dot_files(&peer, f64, sizes[s], &x, &y);
            scan_files(&peer, f64, s % 2, sizes[s], &x, &out);
        }
    }
    arrays_free(&x);
    arrays_free(&y);
    arrays_free(&out);
    peer_finish(&peer, 0);
}

static void histogram_files(struct peer *peer, bool f64, size_t count, const struct arrays *x)
{
    enum { BINS = 100 };
    uint64_t counts[BINS], expected[BINS] = {0}, below = 0, above = 0;
    int a = make_file(arrays_of(x, f64), count * real_size(f64)), file = make_file("", 0);
    job_line(peer, "HISTOGRAM bins=100 low=-700 high=800");
    job_argument(peer, "dtype", f64 ? "f64" : "f32");
    job_file(peer, "a", a);
    job_file(peer, "out", file);
    job_run(peer, "done", "");
    close(a);
    read_back(file, counts, sizeof(counts));
    for (size_t i = 0; i < count; i++) {
        double number = f64 ? x->f64[i] : (double)x->f32[i];
        if (number < -700)
            below++;
        else if (number >= 800)
            above++;
        else
            expected[(size_t)((number + 700) / 15)]++;
    }
    assert_memory_equal(counts, expected, sizeof(counts));
    assert_true(output_number(peer, " below=") == (double)below);
    assert_true(output_number(peer, " above=") == (double)above);
}

static void test_histogram(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct arrays x = arrays_make(wave);
    for (size_t s = 0; s < SIZES; s++)
        for (int f64 = 0; f64 < 2; f64++)
            histogram_files(&peer, f64, sizes[s], &x);
    arrays_free(&x);
    /* Edges, and what is no number. */
    static const double edges[] = {
        0, 0.25, 0.5, 0.75, 1, -0.0, -1e-300, 0.99999999999999989, NAN, INFINITY, -INFINITY};
    static const uint64_t expected[] = {2, 1, 1, 2};
    uint64_t counts[4];
    int a = make_file(edges, sizeof(edges)), file = make_file("", 0);
    job_line(&peer, "HISTOGRAM bins=4 dtype=f64");
    job_file(&peer, "a", a);
    job_file(&peer, "out", file);
    job_run(&peer, "done", "");
    close(a);
    read_back(file, counts, sizeof(counts));
    assert_memory_equal(counts, expected, sizeof(expected));
    assert_non_null(strstr(peer.output, " below=2 above=2 nan=1 fullest_bin=0 fullest_count=2 "));
    peer_finish(&peer, 0);
}

static void test_scan_special(void **state)
{
    (void)state;
    static const float numbers[] = {1, 3e38F, 3e38F, INFINITY, -INFINITY, NAN, 1};
    float out[7];
    struct peer peer = peer_greeted();
    int a = make_file(numbers, sizeof(numbers)), file = make_file("", 0);
    job_line(&peer, "SCAN");
    job_file(&peer, "a", a);
    job_file(&peer, "out", file);
    job_run(&peer, "done", "");
    read_back(file, out, sizeof(out));
    assert_true(out[0] == 1 && out[1] == 3e38F && isinf(out[2]) && isinf(out[3]) && isnan(out[4]));
    job_line(&peer, "DOT");
    job_file(&peer, "a", a);
    job_file(&peer, "b", a);
    job_run(&peer, "done", "");
    assert_non_null(strstr(peer.output, "result=nan "));
    close(a);
    peer_finish(&peer, 0);
}

/* What all of them refuse in the same words. */
static void test_bad_input(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        const char *files[2];
        size_t bytes[2];
        const char *words;
    } cases[] = {
        {"SAXPY", {"x"}, {8}, "x=, y= go together"},
        {"SAXPY", {"x", "y"}, {8, 12}, "x= has 8 bytes and y= 12"},
        {"SAXPY", {"x", "y"}, {7, 7}, "no whole number of f32"},
        {"SAXPY n=3", {"x", "y"}, {8, 8}, "holds 2 f32 elements"},
        {"SAXPY alpha=1e31", {NULL}, {0}, "alpha= takes a number"},
        {"SAXPY alpha=nan", {NULL}, {0}, "alpha= takes a number"},
        {"SAXPY n=0", {NULL}, {0}, "n= takes a whole number"},
        {"SAXPY n=17179869185", {NULL}, {0}, "n= takes a whole number"},
        {"REDUCE op=mean", {NULL}, {0}, "sum|min|max"},
        {"REDUCE op=min", {"a"}, {0}, "there is no min"},
        {"REDUCE dtype=f64", {"a"}, {12}, "no whole number of f64"},
        {"DOT", {"a"}, {8}, "a=, b= go together"},
        {"DOT", {"a", "b"}, {8, 12}, "a= has 8 bytes and b= 12"},
        {"SCAN exclusive=1", {NULL}, {0}, "no|yes"},
        {"HISTOGRAM bins=4097", {NULL}, {0}, "from 1 to 4096"},
        {"HISTOGRAM bins=0", {NULL}, {0}, "from 1 to 4096"},
        {"HISTOGRAM low=1", {NULL}, {0}, "is not below"},
        {"HISTOGRAM low=0 high=1e-306", {NULL}, {0}, "is not below"},
        {"SAXPY dtype=f16", {NULL}, {0}, "f32|f64"},
    };
    static const char zeros[16];
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int files[2];
        job_line(&peer, cases[i].line);
        for (int f = 0; f < 2 && cases[i].files[f]; f++) {
            files[f] = make_file(zeros, cases[i].bytes[f]);
            job_file(&peer, cases[i].files[f], files[f]);
        }
        job_run(&peer, "failed", cases[i].words);
        for (int f = 0; f < 2 && cases[i].files[f]; f++)
            close(files[f]);
    }
    peer_finish(&peer, 0);
}

static void test_cancel(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "SAXPY n=17179869184",          "REDUCE n=17179869184",    "DOT n=17179869184",
        "SCAN n=17179869184 dtype=f64", "HISTOGRAM n=17179869184",
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        job_line(&peer, lines[i]);
        assert_cancels(&peer);
    }
    peer_finish(&peer, 0);
}

/* The digits do not depend on how many processors the executor may use. */
static void test_processors(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "SAXPY n=1000003 dtype=f64 alpha=0.3",
        "REDUCE n=1000003 dtype=f64",
        "DOT n=1000003",
        "SCAN n=1000003",
        "HISTOGRAM n=1000003 bins=9",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct peer peer = peer_greeted();
        job_line(&peer, lines[i]);
        job_run(&peer, "done", "");
        char *expected = strdup(output_digits(&peer));
        peer_finish(&peer, 0);
        peer = peer_on_one_processor();
        job_line(&peer, lines[i]);
        job_run(&peer, "done", "");
        assert_output(&peer, expected);
        free(expected);
        peer_finish(&peer, 0);
    }
}

int main(int argc, char **argv)
{
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saxpy),          cmocka_unit_test(test_saxpy_made_up),
        cmocka_unit_test(test_saxpy_special),  cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_reduce_made_up), cmocka_unit_test(test_reduce_special),
        cmocka_unit_test(test_made_up),        cmocka_unit_test(test_dot_and_scan),
        cmocka_unit_test(test_histogram),      cmocka_unit_test(test_scan_special),
        cmocka_unit_test(test_bad_input),      cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
