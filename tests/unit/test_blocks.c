/* TRANSPOSE, SHA256, CONV2D, BLACK_SCHOLES and NBODY, as a real vgpu-executor runs them. */
#include "peer.h"

#include <math.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint8_t *random_bytes(size_t count)
{
    static uint64_t state = 88172645463325252u; /* xorshift64 (Marsaglia 2003) */
    uint8_t *bytes = malloc(count + 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)(state >> 32);
    }
    return bytes;
}

static void transpose(struct peer *peer, size_t m, size_t n, size_t each)
{
    size_t size = m * n * each;
    uint8_t *in = random_bytes(size), *out = malloc(size);
    int a = make_file(in, size), file = make_file("", 0);
    char line[128];
    assert_non_null(out);
    snprintf(line, sizeof(line), "TRANSPOSE m=%zu n=%zu dtype=f%zu", m, n, each * 8);
    job_line(peer, line);
    job_file(peer, "a", a);
    job_file(peer, "out", file);
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, size);
    assert_int_equal(pread(file, out, size, 0), (ssize_t)size);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            if (memcmp(out + (j * m + i) * each, in + (i * n + j) * each, each) != 0)
                fail_msg("row %zu column %zu of %zu x %zu did not arrive", i, j, m, n);
    free(in);
    free(out);
    close(a);
    close(file);
}

/* Any bits. Single lines, tiles that are full or not, more than one chunk in each direction. */
static void test_transpose(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1},    {1, 7},      {7, 1},      {31, 33},
                                       {32, 32},  {129, 65},   {3, 100000}, {100000, 3},
                                       {2, 1000}, {200, 40000}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (size_t each = 4; each <= 8; each += 4)
            transpose(&peer, shapes[i][0], shapes[i][1], each);
    peer_finish(&peer, 0);
}

/* hash_of is the definition, word for word: the digests of the chunks, and the digest of these. */
static void hash_of(const uint8_t *bytes, size_t count, size_t chunk, uint8_t *digests, char *root)
{
    struct sha256_ctx all;
    uint8_t last[SHA256_DIGEST_SIZE];
    sha256_init(&all);
    for (size_t at = 0; at < count; at += chunk) {
        struct sha256_ctx one;
        sha256_init(&one);
        sha256_update(&one, count - at < chunk ? count - at : chunk, bytes + at);
        sha256_digest(&one, SHA256_DIGEST_SIZE, digests);
        sha256_update(&all, SHA256_DIGEST_SIZE, digests);
        digests += SHA256_DIGEST_SIZE;
    }
    sha256_digest(&all, sizeof(last), last);
    for (size_t i = 0; i < sizeof(last); i++)
        snprintf(root + 2 * i, 3, "%02x", last[i]);
}

static void hash_file(struct peer *peer, size_t count, size_t chunk)
{
    size_t chunks = (count + chunk - 1) / chunk, size = chunks * SHA256_DIGEST_SIZE;
    uint8_t *bytes = random_bytes(count), *expected = malloc(size + 1), *found = malloc(size + 1);
    char line[64], root[72] = "root=";
    struct stat status;
    int file = make_file(bytes, count), out = make_file("", 0);
    assert_true(expected && found);
    snprintf(line, sizeof(line), "SHA256 chunk=%zu", chunk);
    job_line(peer, line);
    job_file(peer, "file", file);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    hash_of(bytes, count, chunk, expected, root + 5);
    assert_non_null(strstr(peer->output, root));
    assert_true(output_number(peer, "bytes=") == (double)count);
    assert_true(output_number(peer, "chunks=") == (double)chunks);
    assert_int_equal(fstat(out, &status), 0);
    assert_int_equal(status.st_size, size);
    assert_int_equal(pread(out, found, size, 0), (ssize_t)size);
    assert_memory_equal(found, expected, size);
    free(bytes);
    free(expected);
    free(found);
    close(file);
    close(out);
}

static void test_sha256(void **state)
{
    (void)state;
    static const size_t cases[][2] = {
        {0, 1},   {1, 1},         {1, 16777216},        {4097, 1},        {55, 56}, {64, 64},
        {65, 64}, {1000000, 999}, {40000000, 16777216}, {20000000, 65536}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        hash_file(&peer, cases[i][0], cases[i][1]);
    peer_finish(&peer, 0);
}

static double get(const void *data, bool f64, size_t index)
{
    return f64 ? ((const double *)data)[index] : (double)((const float *)data)[index];
}

/* random_reals makes numbers in [-1, 1). */
static void *random_reals(size_t count, bool f64)
{
    uint8_t *bytes = random_bytes(count * 4);
    double *numbers = malloc((count + 1) * sizeof(double));
    assert_non_null(numbers);
    for (size_t i = count; i-- > 0;) {
        int32_t bits;
        memcpy(&bits, bytes + i * 4, sizeof(bits));
        numbers[i] = (double)bits * 0x1p-31;
    }
    for (size_t i = 0; i < count && !f64; i++)
        ((float *)(void *)bytes)[i] = (float)numbers[i];
    if (!f64)
        memcpy(numbers, bytes, count * sizeof(float));
    free(bytes);
    return numbers;
}

static void convolve(struct peer *peer, bool f64, size_t h, size_t w, size_t k)
{
    size_t each = f64 ? sizeof(double) : sizeof(float);
    void *image = random_reals(h * w, f64), *kernel = random_reals(k * k, f64);
    void *found = malloc(h * w * each);
    int a = make_file(image, h * w * each), b = make_file(kernel, k * k * each);
    int out = make_file("", 0);
    char line[128];
    double worst = 0, limit = (double)(k * k * (k * k + 1)) * (f64 ? 0x1p-53 : 0x1p-24);
    snprintf(line, sizeof(line), "CONV2D h=%zu w=%zu k=%zu dtype=%s", h, w, k, f64 ? "f64" : "f32");
    job_line(peer, line);
    job_file(peer, "a", a);
    job_file(peer, "kernel", b);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    assert_int_equal(pread(out, found, h * w * each, 0), (ssize_t)(h * w * each));
    for (size_t y = 0; y < h; y++) {
        for (size_t x = 0; x < w; x++) {
            long double sum = 0;
            for (size_t i = 0; i < k * k; i++) {
                size_t row = y + i / k - k / 2, column = x + i % k - k / 2; /* wraps outside */
                if (row < h && column < w)
                    sum += (long double)get(kernel, f64, i) *
                           (long double)get(image, f64, row * w + column);
            }
            double error = (double)fabsl((long double)get(found, f64, y * w + x) - sum);
            assert_true(error <= limit);
            worst = fmax(worst, error);
        }
    }
    assert_true(output_number(peer, "max_abs_error=") <= worst);
    assert_true(h * w < 100 || output_number(peer, "max_abs_error=") > 0);
    free(image);
    free(kernel);
    free(found);
    close(a);
    close(b);
    close(out);
}

static void test_conv2d(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},   {1, 1, 31},   {1, 40, 3},
                                       {40, 1, 5},  {2, 3, 7},    {37, 41, 5},
                                       {64, 64, 3}, {33, 31, 31}, {90, 7, 15}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int f64 = 0; f64 < 2; f64++)
            convolve(&peer, f64, shapes[i][0], shapes[i][1], shapes[i][2]);
    peer_finish(&peer, 0);
}

/* prices prices options from arrays, and returns calls and puts in the same. */
static void prices(struct peer *peer, bool f64, size_t count, void *const arrays[5],
                   const char *line)
{
    static const char *const names[] = {"spot", "strike", "years", "call", "put"};
    size_t size = count * (f64 ? sizeof(double) : sizeof(float));
    int files[5];
    job_line(peer, line);
    job_argument(peer, "dtype", f64 ? "f64" : "f32");
    for (int i = 0; i < 5; i++) {
        files[i] = i < 3 ? make_file(arrays[i], size) : make_file("", 0);
        job_file(peer, names[i], files[i]);
    }
    peer->any_reserve = true;
    job_run(peer, "done", "");
    for (int i = 0; i < 5; i++) {
        if (i >= 3)
            assert_int_equal(pread(files[i], arrays[i], size, 0), (ssize_t)size);
        close(files[i]);
    }
}

static long double normal(long double d)
{
    return (1 + erfl(d / sqrtl(2))) / 2;
}

/* Options around what is traded: there the rounding is some epsilons of the prices' size. */
static void test_black_scholes(void **state)
{
    (void)state;
    enum { MOST = 20001 };
    struct peer peer = peer_greeted();
    for (int kind = 0; kind < 8; kind++) {
        bool f64 = kind % 2;
        size_t count = (const size_t[]){1, 3, 16385, MOST}[kind / 2];
        void *arrays[5];
        double call_sum = 0, put_sum = 0;
        for (int i = 0; i < 5; i++) {
            arrays[i] = random_reals(MOST, f64);
            for (size_t j = 0; j < count; j++) {
                double x = i < 2 ? 100 + 50 * get(arrays[i], f64, j) : 1.1 + get(arrays[i], f64, j);
                if (f64)
                    ((double *)arrays[i])[j] = x;
                else
                    ((float *)arrays[i])[j] = (float)x;
            }
        }
        prices(&peer, f64, count, arrays, "BLACK_SCHOLES rate=0.05 volatility=0.25");
        for (size_t j = 0; j < count; j++) {
            long double s = (long double)get(arrays[0], f64, j),
                        k = (long double)get(arrays[1], f64, j);
            long double t = (long double)get(arrays[2], f64, j), v = 0.25L;
            long double r = f64 ? (long double)0.05 : (long double)0.05F;
            long double d1 = (logl(s / k) + (r + v * v / 2) * t) / (v * sqrtl(t));
            long double d2 = d1 - v * sqrtl(t), discounted = k * expl(-r * t);
            double call = get(arrays[3], f64, j), put = get(arrays[4], f64, j);
            double limit = (f64 ? 0x1p-53 : 0x1p-24) * 200 * 40;
            assert_true(fabs(call - (double)(s * normal(d1) - discounted * normal(d2))) <= limit);
            assert_true(fabs(put - (double)(discounted * normal(-d2) - s * normal(-d1))) <= limit);
            call_sum += call;
            put_sum += put;
        }
        assert_true(fabs(output_number(&peer, "call_sum=") - call_sum) <= 1e-9 * (call_sum + 1));
        assert_true(fabs(output_number(&peer, "put_sum=") - put_sum) <= 1e-9 * (put_sum + 1));
        assert_true(output_number(&peer, "max_abs_error=") > 0);
        for (int i = 0; i < 5; i++)
            free(arrays[i]);
    }
    peer_finish(&peer, 0);
}

static void test_black_scholes_known(void **state)
{
    (void)state;
    /* J. Hull, "Options, Futures, and Other Derivatives", the chapter on the model: 4.76 and 0.81.
     */
    double spot[] = {42}, strike[] = {40}, years[] = {0.5}, call[1], put[1];
    struct peer peer = peer_greeted();
    prices(&peer, true, 1, (void *const[]){spot, strike, years, call, put},
           "BLACK_SCHOLES rate=0.1 volatility=0.2");
    assert_true(fabs(call[0] - 4.759) < 1e-3 && fabs(put[0] - 0.8086) < 1e-4);
    /* No options at all, worthless ones, and those at the ends of the type. */
    float odd_spot[] = {NAN, 0, -1, 1e38F, 1e-40F, 100, 100, INFINITY, 1, 100};
    float odd_strike[] = {1, 1, 1, 1e-38F, 1e38F, 100, 1e-40F, 1, 1, 100};
    float odd_years[] = {1, 1, 1, 1, 1, 1e-40F, 1, 1, -1, 1e38F}, odd_call[10], odd_put[10];
    prices(&peer, false, 10, (void *const[]){odd_spot, odd_strike, odd_years, odd_call, odd_put},
           "BLACK_SCHOLES");
    assert_true(odd_call[3] == 1e38F && odd_call[4] == 0);
    prices(&peer, false, 10, (void *const[]){odd_spot, odd_strike, odd_years, odd_call, odd_put},
           "BLACK_SCHOLES rate=-1 volatility=10");
    prices(&peer, false, 10, (void *const[]){odd_spot, odd_strike, odd_years, odd_call, odd_put},
           "BLACK_SCHOLES rate=1 volatility=0.001");
    peer_finish(&peer, 0);
}

/* Mass, place, velocity: the same leapfrog, step by step and pair by pair. */
struct body {
    double mass, at[3], velocity[3];
};

static void accelerate(const struct body *bodies, size_t count, size_t i, double soft, double a[3])
{
    a[0] = a[1] = a[2] = 0;
    for (size_t j = 0; j < count; j++) {
        double square = soft * soft, d[3];
        for (int k = 0; k < 3; k++) {
            d[k] = bodies[j].at[k] - bodies[i].at[k];
            square += d[k] * d[k];
        }
        for (int k = 0; k < 3; k++)
            a[k] += bodies[j].mass * d[k] / pow(square, 1.5);
    }
}

static void kick(struct body *bodies, size_t count, double soft, double time)
{
    for (size_t i = 0; i < count; i++) {
        double a[3];
        accelerate(bodies, count, i, soft, a);
        for (int k = 0; k < 3; k++)
            bodies[i].velocity[k] += time * a[k];
    }
}

static double energy_of(const struct body *bodies, size_t count, double soft)
{
    double energy = 0;
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < 3; k++)
            energy += bodies[i].mass * bodies[i].velocity[k] * bodies[i].velocity[k] / 2;
        for (size_t j = 0; j < i; j++) {
            double square = soft * soft;
            for (int k = 0; k < 3; k++)
                square += pow(bodies[j].at[k] - bodies[i].at[k], 2);
            energy -= bodies[i].mass * bodies[j].mass / sqrt(square);
        }
    }
    return energy;
}

static void move_bodies(struct peer *peer, bool f64, size_t count)
{
    enum { STEPS = 20, NUMBERS = 7 };
    const double soft = 0.1, time = 0.01, near = f64 ? 1e-12 : 1e-4;
    size_t size = count * NUMBERS * (f64 ? sizeof(double) : sizeof(float));
    void *numbers = random_reals(count * NUMBERS, f64);
    struct body *bodies = calloc(count, sizeof(*bodies));
    int a = make_file(numbers, size), out = make_file("", 0);
    assert_non_null(bodies);
    for (size_t i = 0; i < count; i++) {
        bodies[i].mass = get(numbers, f64, i * NUMBERS);
        for (size_t k = 0; k < 3; k++) {
            bodies[i].at[k] = get(numbers, f64, i * NUMBERS + 1 + k);
            bodies[i].velocity[k] = get(numbers, f64, i * NUMBERS + 4 + k);
        }
    }
    job_line(peer, "NBODY steps=20 dt=0.01 softening=0.1");
    job_argument(peer, "dtype", f64 ? "f64" : "f32");
    job_file(peer, "a", a);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    double before = energy_of(bodies, count, soft);
    for (int step = 0; step < STEPS; step++) {
        kick(bodies, count, soft, time / 2);
        for (size_t i = 0; i < count; i++)
            for (int k = 0; k < 3; k++)
                bodies[i].at[k] += time * bodies[i].velocity[k];
        kick(bodies, count, soft, time / 2);
    }
    assert_int_equal(pread(out, numbers, size, 0), (ssize_t)size);
    for (size_t i = 0; i < count; i++) {
        assert_true(get(numbers, f64, i * NUMBERS) == bodies[i].mass);
        for (size_t k = 0; k < 3; k++) {
            assert_true(fabs(get(numbers, f64, i * NUMBERS + 1 + k) - bodies[i].at[k]) <= near);
            assert_true(fabs(get(numbers, f64, i * NUMBERS + 4 + k) - bodies[i].velocity[k]) <=
                        100 * near);
        }
    }
    double energy = energy_of(bodies, count, soft), scale = 1 + (double)(count * count);
    assert_true(output_number(peer, "n=") == (double)count);
    assert_true(fabs(output_number(peer, " energy=") - energy) <= 100 * near * scale);
    assert_true(fabs(output_number(peer, "energy_drift=") - (energy - before)) <=
                100 * near * scale);
    assert_true(count < 5 || output_number(peer, "max_abs_error=") > 0);
    free(numbers);
    free(bodies);
    close(a);
    close(out);
}

static void test_nbody(void **state)
{
    (void)state;
    static const size_t counts[] = {1, 2, 3, 16, 17, 33};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        for (int f64 = 0; f64 < 2; f64++)
            move_bodies(&peer, f64, counts[i]);
    /* Too far, too heavy, no number. */
    static const float odd[3][7] = {{1, 1e30F}, {3e38F, 0, 1}, {NAN, NAN}};
    for (size_t i = 0; i < 3; i++) {
        int a = make_file(odd[i], sizeof(odd[0]));
        job_line(&peer, "NBODY");
        job_file(&peer, "a", a);
        job_run(&peer, "done", "");
        close(a);
    }
    peer_finish(&peer, 0);
}

/* The digits do not depend on how many processors the executor may use. */
static void test_processors(void **state)
{
    (void)state;
    static const char *const lines[] = {"NBODY n=300 dtype=f64", "BLACK_SCHOLES n=300000",
                                        "CONV2D h=300 w=300 k=7 dtype=f64"};
    struct peer peer = peer_greeted(), single = peer_on_one_processor();
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        job_line(&peer, lines[i]);
        job_run(&peer, "done", "");
        job_line(&single, lines[i]);
        job_run(&single, "done", "");
        assert_output(&single, output_digits(&peer));
    }
    peer_finish(&peer, 0);
    peer_finish(&single, 0);
}

/* These digits are a promise: other backends, versions and machines print the same. */
static void test_made_up(void **state)
{
    (void)state;
    static const char *const known[][2] = {
        {"SHA256 n=100003 chunk=999 seed=7",
         "bytes=100003 chunk=999 chunks=101 "
         "root=0e4118ca13cee0061a46b44cac6aa24dd2609dbe615fa5837b8f45f9a7f2a26f"},
        {"CONV2D h=37 w=41 k=5 seed=7",
         "h=37 w=41 k=5 dtype=f32 checksum=32299.432250976562 max_abs_error=0"},
        {"TRANSPOSE m=300 n=77 seed=7", "m=300 n=77 dtype=f32 checksum=46269.50360900164"},
    };
    struct peer peer = peer_greeted(), single = peer_on_one_processor();
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        job_line(&peer, known[i][0]);
        job_run(&peer, "done", "");
        assert_output(&peer, known[i][1]);
        job_line(&single, known[i][0]);
        job_run(&single, "done", "");
        assert_output(&single, known[i][1]);
    }
    peer_finish(&peer, 0);
    peer_finish(&single, 0);
}

static void test_bad_input(void **state)
{
    (void)state;
    static const struct {
        const char *line, *file, *words;
    } cases[] = {
        {"SHA256 chunk=0", NULL, "from 1 to 16777216"},
        {"SHA256 chunk=16777217", NULL, "from 1 to 16777216"},
        {"SHA256 n=5", "file", "holds 8 bytes"},
        {"TRANSPOSE m=1048576 n=1048576", NULL, "take a smaller m= or n="},
        {"CONV2D k=2", NULL, "is even"},
        {"CONV2D k=33", NULL, "from 1 to 31"},
        {"CONV2D h=65536 w=65536", NULL, "take a smaller h= or w="},
        {"CONV2D", "a", "go together"},
        {"BLACK_SCHOLES", "spot", "go together"},
        {"BLACK_SCHOLES volatility=0", NULL, "volatility= takes a number"},
        {"NBODY steps=0", NULL, "from 1 to 1000000"},
        {"NBODY softening=0", NULL, "softening= takes a number"},
        {"NBODY", "a", "a= has 8 bytes: not 1 to 262144 bodies"},
        {"TRANSPOSE m=0", NULL, "from 1 to 1048576"},
        {"TRANSPOSE m=3 n=1", "a", "a= has 8 bytes; m=3 times n=1 of f32 are 12"},
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int file = make_file("12345678", 8);
        job_line(&peer, cases[i].line);
        if (cases[i].file)
            job_file(&peer, cases[i].file, file);
        job_run(&peer, "failed", cases[i].words);
        close(file);
    }
    peer_finish(&peer, 0);
}

static void test_cancel(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "SHA256 n=1099511627776", "TRANSPOSE m=9000 n=9000", "CONV2D h=9000 w=9000 k=31",
        "BLACK_SCHOLES n=4294967296 dtype=f64", "NBODY n=262144 dtype=f64"};
    assert_lines_cancel(lines, sizeof(lines) / sizeof(lines[0]));
}

int main(int argc, char **argv)
{
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transpose),     cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_made_up),       cmocka_unit_test(test_conv2d),
        cmocka_unit_test(test_black_scholes), cmocka_unit_test(test_black_scholes_known),
        cmocka_unit_test(test_nbody),         cmocka_unit_test(test_processors),
        cmocka_unit_test(test_bad_input),     cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
