/* SORT, MONTE_CARLO_PI, FFT and SANITY, as a real vgpu-executor runs them. */
#include "executor/philox.h"
#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t random_state = 1;

/* xorshift64 (Marsaglia, "Xorshift RNGs", 2003). */
static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* IEEE 754's totalOrder, as a comparison of signed magnitudes. */
static int compare_f32(const void *left, const void *right)
{
    int32_t a, b;
    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    a = a < 0 ? -1 - (a & INT32_MAX) : a;
    b = b < 0 ? -1 - (b & INT32_MAX) : b;
    return (a > b) - (a < b);
}

static int compare_f64(const void *left, const void *right)
{
    int64_t a, b;
    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    a = a < 0 ? -1 - (a & INT64_MAX) : a;
    b = b < 0 ? -1 - (b & INT64_MAX) : b;
    return (a > b) - (a < b);
}

/* sort_file sorts `size` bytes in place, with SORT and with qsort(3), and holds one to the other.
 */
static void sort_file(struct peer *peer, bool f64, void *numbers, size_t count)
{
    size_t each = f64 ? sizeof(double) : sizeof(float), size = count * each;
    int in = make_file(numbers, size), out = make_file("", 0);
    struct stat status;
    job_line(peer, f64 ? "SORT dtype=f64" : "SORT");
    job_file(peer, "a", in);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    assert_true(output_number(peer, "n=") == (double)count);
    qsort(numbers, count, each, f64 ? compare_f64 : compare_f32);
    char *found = malloc(size + 1);
    assert_non_null(found);
    assert_int_equal(fstat(out, &status), 0);
    assert_int_equal(status.st_size, size);
    assert_int_equal(pread(out, found, size, 0), (ssize_t)size);
    assert_memory_equal(found, numbers, size);
    free(found);
    close(in);
    close(out);
}

/* Any bits at all, NaNs with payloads and both zeros included. */
static void test_sort(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 3, 255, 65535, 65536, 65537, 200001};
    struct peer peer = peer_greeted();
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        for (int f64 = 0; f64 < 2; f64++) {
            uint64_t *numbers = malloc(sizes[s] * sizeof(uint64_t) + 1);
            assert_non_null(numbers);
            for (size_t i = 0; i < sizes[s]; i++)
                numbers[i] = random_bits();
            sort_file(&peer, f64, numbers, sizes[s]);
            free(numbers);
        }
    }
    peer_finish(&peer, 0);
}

static void test_sort_special(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    float numbers[] = {1,         NAN,  -0.0F,  INFINITY, 0, -1, 1,
                       -INFINITY, -NAN, 1e-45F, -1e-45F,  1, 0,  2};
    double doubles[] = {3, -NAN, 0, -0.0, INFINITY, 3, -3, NAN, 1e-320, -INFINITY};
    sort_file(&peer, false, numbers, sizeof(numbers) / sizeof(numbers[0]));
    assert_true(isnan(numbers[0]) && numbers[1] < -1e38F && isnan(numbers[13]));
    assert_true(signbit(numbers[4]) && !signbit(numbers[5]));
    sort_file(&peer, true, doubles, sizeof(doubles) / sizeof(doubles[0]));
    peer_finish(&peer, 0);
}

struct known {
    const char *line, *output;
};

static void run_known(const struct known *known, size_t count)
{
    struct peer peer = peer_greeted(), single = peer_on_one_processor();
    for (size_t i = 0; i < count; i++) {
        job_line(&peer, known[i].line);
        job_run(&peer, "done", "");
        assert_output(&peer, known[i].output);
        job_line(&single, known[i].line);
        job_run(&single, "done", "");
        assert_output(&single, known[i].output);
    }
    peer_finish(&peer, 0);
    peer_finish(&single, 0);
}

/* These digits are a promise: other backends, versions and machines print the same. */
static void test_sort_made_up(void **state)
{
    (void)state;
    static const struct known known[] = {
        {"SORT n=70001 seed=7",
         "n=70001 dtype=f32 first=1.728534698486328e-05 last=0.9999968409538269 "
         "checksum=dcdd1322964d140c"},
        {"SORT n=3 seed=7 dtype=f64",
         "n=3 dtype=f64 first=0.4368036241616128 last=0.8588763440557796 "
         "checksum=9c027ba675db2efd"},
    };
    run_known(known, sizeof(known) / sizeof(known[0]));
}

/* The known answers of Random123 (kat_vectors, philox4x32 10). */
static void test_philox(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], random[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint32_t words[4];
        memcpy(words, known[i].counter, sizeof(words));
        philox(words, known[i].key[0], known[i].key[1]);
        assert_memory_equal(words, known[i].random, sizeof(words));
    }
}

/* count_inside is MONTE_CARLO_PI's definition, word for word. */
static uint64_t count_inside(uint64_t count, uint64_t seed)
{
    uint64_t inside = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t words[4] = {(uint32_t)(i / 2), (uint32_t)(i / 2 >> 32), 0, 0};
        philox(words, (uint32_t)seed, (uint32_t)(seed >> 32));
        uint64_t x = words[i % 2 * 2] >> 1, y = words[i % 2 * 2 + 1] >> 1;
        inside += x * x + y * y < (uint64_t)1 << 62;
    }
    return inside;
}

static void test_monte_carlo_pi(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1, 2, 3, 65535, 65536, 65537, 4194305, 5000000};
    static const char *const seeds[] = {"0", "1", "81985529216486895", "18446744073709551615"};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        const char *seed = seeds[i % 4];
        char n[32];
        snprintf(n, sizeof(n), "%llu", (unsigned long long)counts[i]);
        job_begin(&peer, "MONTE_CARLO_PI");
        job_argument(&peer, "n", n);
        job_argument(&peer, "seed", seed);
        job_run(&peer, "done", "");
        double inside = (double)count_inside(counts[i], strtoull(seed, NULL, 10));
        assert_true(output_number(&peer, "inside=") == inside);
        assert_true(output_number(&peer, "pi=") == 4 * (inside / (double)counts[i]));
        double error = output_number(&peer, " error=");
        assert_true(error == fabs(4 * (inside / (double)counts[i]) - M_PI));
        assert_true(error < 5 * output_number(&peer, "standard_deviation="));
    }
    peer_finish(&peer, 0);
    static const struct known known[] = {
        {"MONTE_CARLO_PI n=100001 seed=81985529216486895",
         "n=100001 inside=78494 pi=3.139728602713973 error=0.0018640508758203111 "
         "standard_deviation=0.0051930138126885005"},
    };
    run_known(known, sizeof(known) / sizeof(known[0]));
}

/* element is the sum that defines element k of a transform of n. */
static void element(const double *x, size_t n, size_t k, bool inverse, double found[2])
{
    const long double turn = (inverse ? 2 : -2) * 3.141592653589793238462643383279502884L;
    long double real = 0, imaginary = 0;
    for (size_t j = 0; j < n; j++) {
        long double angle = turn * (long double)(j * k % n) / (long double)n;
        real += (long double)x[2 * j] * cosl(angle) - (long double)x[2 * j + 1] * sinl(angle);
        imaginary += (long double)x[2 * j] * sinl(angle) + (long double)x[2 * j + 1] * cosl(angle);
    }
    found[0] = (double)(inverse ? real / (long double)n : real);
    found[1] = (double)(inverse ? imaginary / (long double)n : imaginary);
}

static void put(void *to, bool f64, size_t index, double number)
{
    if (f64)
        ((double *)to)[index] = number;
    else
        ((float *)to)[index] = (float)number;
}

static double get(const void *from, bool f64, size_t index)
{
    return f64 ? ((const double *)from)[index] : (double)((const float *)from)[index];
}

/* fft_file transforms `batch` arrays and checks every element, or one of each if they are long. */
static void fft_file(struct peer *peer, bool f64, bool inverse, size_t n, size_t batch)
{
    size_t numbers = 2 * n * batch, bytes = numbers * (f64 ? sizeof(double) : sizeof(float));
    double *x = malloc(numbers * sizeof(double)), energy = 0;
    void *data = malloc(bytes);
    char line[128];
    assert_true(x && data);
    for (size_t i = 0; i < numbers; i++) {
        put(data, f64, i, (double)random_bits() * 0x1p-63 - 1);
        x[i] = get(data, f64, i);
    }
    int in = make_file(data, bytes), out = make_file("", 0);
    snprintf(line, sizeof(line), "FFT n=%zu dtype=%s inverse=%s", n, f64 ? "f64" : "f32",
             inverse ? "yes" : "no");
    job_line(peer, line);
    job_file(peer, "a", in);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, bytes);
    assert_int_equal(pread(out, data, bytes, 0), (ssize_t)bytes);
    size_t step = n > 200 ? n + n / 7 : 1;
    double limit = (f64 ? 0x1p-50 : 0x1p-21) * (inverse ? 1 : (double)n);
    for (size_t i = 0; i < numbers; i++)
        energy += get(data, f64, i) * get(data, f64, i);
    for (size_t k = 0; k < n * batch; k += step) {
        double expected[2];
        element(x + k / n * n * 2, n, k % n, inverse, expected);
        assert_true(fabs(get(data, f64, 2 * k) - expected[0]) <= limit);
        assert_true(fabs(get(data, f64, 2 * k + 1) - expected[1]) <= limit);
    }
    assert_true(output_number(peer, "batch=") == (double)batch);
    assert_true(fabs(output_number(peer, "energy=") - energy) <= 1e-11 * energy);
    assert_true(output_number(peer, "max_abs_error=") <= limit);
    assert_true(output_number(peer, "roundtrip_error=") <= (f64 ? 0x1p-48 : 0x1p-19));
    assert_true(output_number(peer, "parseval_error=") <= (f64 ? 0x1p-48 : 0x1p-19));
    assert_true(n < 16 || output_number(peer, "roundtrip_error=") > 0);
    free(x);
    free(data);
    close(in);
    close(out);
}

static void test_fft(void **state)
{
    (void)state;
    /* Powers, primes, odd lengths of which every second transform is not aligned, some groups. */
    static const size_t sizes[][2] = {{1, 1},   {1, 5},    {2, 3},    {3, 4},
                                      {7, 3},   {8, 2},    {17, 9},   {100, 2},
                                      {127, 3}, {1024, 2}, {1009, 3}, {131072, 9}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int kind = 0; kind < 4; kind++)
            fft_file(&peer, kind % 2, kind / 2, sizes[i][0], sizes[i][1]);
    peer_finish(&peer, 0);
}

/* An impulse has every frequency; a constant has none but the first. */
static void test_fft_known(void **state)
{
    (void)state;
    static const float impulse[16] = {1},
                       constant[16] = {2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2};
    const float *const inputs[] = {impulse, constant};
    struct peer peer = peer_greeted();
    for (int i = 0; i < 2; i++) {
        float found[16];
        int in = make_file(inputs[i], sizeof(impulse)), out = make_file("", 0);
        job_line(&peer, "FFT batch=1");
        job_file(&peer, "a", in);
        job_file(&peer, "out", out);
        job_run(&peer, "done", "");
        assert_true(output_number(&peer, "n=") == 8);
        assert_int_equal(pread(out, found, sizeof(found), 0), sizeof(found));
        for (int k = 0; k < 8; k++) {
            assert_true(found[2 * k] == (i == 0 ? 1 : k == 0 ? 16 : 0));
            assert_true(found[2 * k + 1] == 0);
        }
        close(in);
        close(out);
    }
    peer_finish(&peer, 0);
}

static void test_fft_special(void **state)
{
    (void)state;
    static const float numbers[][8] = {
        {NAN, 1, 2, 3}, {INFINITY}, {3e38F, 3e38F, 3e38F, 3e38F}, {0}, {1e-45F, 1e-40F}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        int in = make_file(numbers[i], sizeof(numbers[i]));
        job_line(&peer, "FFT");
        job_file(&peer, "a", in);
        job_argument(&peer, "n", "4");
        job_run(&peer, "done", "");
        close(in);
    }
    peer_finish(&peer, 0);
}

static void test_fft_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        size_t bytes;
    } cases[] = {{"FFT", 0},
                 {"FFT", 4},
                 {"FFT", 12},
                 {"FFT n=3", 32},
                 {"FFT batch=3", 32},
                 {"FFT n=2 batch=3", 32},
                 {"FFT n=1048576 batch=16384", 32},
                 {"FFT batch=17179869184", 32},
                 {"FFT dtype=f64", 8}};
    static const char zeros[32];
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int in = make_file(zeros, cases[i].bytes);
        job_line(&peer, cases[i].line);
        job_file(&peer, "a", in);
        job_run(&peer, "failed", "no whole number of transforms");
        close(in);
    }
    /* Longer than a transform may be. */
    int in = make_file(zeros, sizeof(zeros));
    assert_int_equal(ftruncate(in, (1048576 + 1) * 8), 0);
    job_line(&peer, "FFT");
    job_file(&peer, "a", in);
    job_run(&peer, "failed", "say n= or batch=");
    close(in);
    peer_finish(&peer, 0);
}

static void test_sanity(void **state)
{
    (void)state;
    static const char *const steps[] = {"allocate", "write", "copy", "check", "compute"};
    struct peer peer = peer_greeted();
    job_line(&peer, "SANITY mib=3");
    job_run(&peer, "done", "");
    const char *line = output_digits(&peer);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        char name[16], unit[16];
        unsigned long long us;
        double speed;
        int used = 0;
        assert_int_equal(sscanf(line, "step=%15s result=ok wrong_words=0 us=%llu %15[a-z_]=%lf%n",
                                name, &us, unit, &speed, &used),
                         4);
        assert_string_equal(name, steps[i]);
        assert_string_equal(unit, i == 4 ? "gflop_per_s" : "gb_per_s");
        assert_true(speed > 0 && speed < 1e5);
        assert_int_equal(line[used], '\n');
        line += used + 1;
    }
    assert_int_equal(strncmp(line, "result=ok mib=3 processors=", 27), 0);
    peer_finish(&peer, 0);
}

static void test_bad_input(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"SORT n=1073741824 dtype=f64", "take a smaller n="},
        {"SORT n=1073741825", "from 1 to 1073741824"},
        {"FFT n=1048577", "from 1 to 1048576"},
        {"SANITY mib=4097", "from 1 to 4096"},
        {"SANITY mib=0", "from 1 to 4096"},
        {"FFT n=0", "from 1 to 1048576"},
        {"FFT inverse=1", "no|yes"},
        {"FFT n=1048576 batch=16385", "take a smaller batch="},
        {"MONTE_CARLO_PI n=0", "from 1 to"},
        {"MONTE_CARLO_PI n=1099511627777", "from 1 to"},
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_line(&peer, cases[i][0]);
        job_run(&peer, "failed", cases[i][1]);
    }
    int odd = make_file("12345", 5);
    job_line(&peer, "SORT");
    job_file(&peer, "a", odd);
    job_run(&peer, "failed", "no whole number of f32");
    close(odd);
    peer_finish(&peer, 0);
}

static void test_cancel(void **state)
{
    (void)state;
    static const char *const lines[] = {"SORT n=40000000", "MONTE_CARLO_PI n=1099511627776",
                                        "FFT n=1048573 batch=16384", "SANITY mib=400"};
    assert_lines_cancel(lines, sizeof(lines) / sizeof(lines[0]));
}

int main(int argc, char **argv)
{
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sort),           cmocka_unit_test(test_sort_special),
        cmocka_unit_test(test_sort_made_up),   cmocka_unit_test(test_philox),
        cmocka_unit_test(test_monte_carlo_pi), cmocka_unit_test(test_fft),
        cmocka_unit_test(test_fft_known),      cmocka_unit_test(test_fft_special),
        cmocka_unit_test(test_fft_bad_files),  cmocka_unit_test(test_sanity),
        cmocka_unit_test(test_bad_input),      cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
