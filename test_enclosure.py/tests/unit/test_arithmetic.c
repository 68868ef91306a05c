/* VECTOR_ADD and MATRIX_MUL, as a real vgpu-executor runs them. */
#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_vector_add_made_up(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    /* These digits are a promise: other backends, versions and machines print the same. */
    static const struct {
        const char *n, *seed, *dtype, *output;
    } cases[] = {
        {"1048576", "1", "f32", "n=1048576 dtype=f32 sum=1048693.5883748531 max_abs_error=0"},
        {"1048576", "7", "f32", "n=1048576 dtype=f32 sum=1048090.8009347916 max_abs_error=0"},
        {"3", "1", "f64", "n=3 dtype=f64 sum=2.3022516339274484 max_abs_error=0"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_begin(&peer, "VECTOR_ADD");
        job_argument(&peer, "n", cases[i].n);
        job_argument(&peer, "seed", cases[i].seed);
        job_argument(&peer, "dtype", cases[i].dtype);
        job_run(&peer, "done", "");
        assert_output(&peer, cases[i].output);
    }
    peer_finish(&peer, 0);
}

/* add_arrays runs VECTOR_ADD on files, and returns the output file's bytes in `sums`. */
static void add_arrays(struct peer *peer, const char *dtype, const void *a, const void *b,
                       void *sums, size_t bytes)
{
    int files[3] = {make_file(a, bytes), make_file(b, bytes), make_file("", 0)};
    struct stat status;
    job_begin(peer, "VECTOR_ADD");
    job_argument(peer, "dtype", dtype);
    job_file(peer, "b", files[1]);
    job_file(peer, "out", files[2]);
    job_file(peer, "a", files[0]);
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, bytes);
    assert_int_equal(fstat(files[2], &status), 0);
    assert_int_equal(status.st_size, bytes);
    assert_int_equal(pread(files[2], sums, bytes, 0), (ssize_t)bytes);
    for (int i = 0; i < 3; i++)
        close(files[i]);
}

static void test_vector_add_files(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 63, 64, 65, 32768, 65536, 65537, 200003};
    static float a[200003], b[200003], c[200003];
    static double da[200003], db[200003], dc[200003];
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < 200003; i++) {
        a[i] = (float)sin((double)i) * 1000;
        b[i] = (float)cos((double)i * 3) / 7;
        da[i] = sin((double)i) * 1e10;
        db[i] = cos((double)i * 3) / 7e5;
    }
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        size_t n = sizes[s];
        double sum = 0, dsum = 0, worst = 0;
        add_arrays(&peer, "f32", a, b, c, n * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            assert_true(c[i] == a[i] + b[i]);
            sum += (double)c[i];
            worst = fmax(worst, fabs((double)c[i] - ((double)a[i] + (double)b[i])));
        }
        assert_true(output_number(&peer, "n=") == (double)n);
        assert_true(fabs(output_number(&peer, "sum=") - sum) <= 1e-9 * (1 + fabs(sum)));
        assert_true(output_number(&peer, "max_abs_error=") == worst);
        assert_true(n < 7 || worst > 0);
        add_arrays(&peer, "f64", da, db, dc, n * sizeof(double));
        for (size_t i = 0; i < n; i++) {
            assert_true(dc[i] == da[i] + db[i]);
            dsum += dc[i];
        }
        assert_true(fabs(output_number(&peer, "sum=") - dsum) <= 1e-6 * (1 + fabs(dsum)));
    }
    peer_finish(&peer, 0);
}

static void test_vector_add_special(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    const float a[] = {INFINITY, -INFINITY, INFINITY, NAN, 3e38F, -0.0F, 1e-44F, 0.1F};
    const float b[] = {1, 1, -INFINITY, 1, 3e38F, -0.0F, 1e-45F, 0.2F};
    float c[8];
    add_arrays(&peer, "f32", a, b, c, sizeof(a));
    assert_true(isinf(c[0]) && isinf(c[1]) && isnan(c[2]) && isnan(c[3]) && isinf(c[4]));
    assert_true(c[6] == a[6] + b[6] && c[7] == a[7] + b[7]);
    assert_non_null(strstr(peer.output, "nan"));
    assert_true(output_number(&peer, "max_abs_error=") ==
                fabs((double)c[7] - ((double)a[7] + (double)b[7])));
    peer_finish(&peer, 0);
}

static void test_vector_add_out_alone(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    float c[1000];
    int out = make_file("", 0);
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "n", "1000");
    job_file(&peer, "out", out);
    job_run(&peer, "done", "");
    assert_int_equal(pread(out, c, sizeof(c), 0), sizeof(c));
    double sum = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(c[i] >= 0 && c[i] < 2);
        sum += (double)c[i];
    }
    assert_true(output_number(&peer, "sum=") == sum);
    close(out);
    peer_finish(&peer, 0);
}
static void multiply(struct peer *peer, bool f64, int m, int n, int k)
{
    size_t size = f64 ? sizeof(double) : sizeof(float);
    size_t counts[3] = {(size_t)m * (size_t)k, (size_t)k * (size_t)n, (size_t)m * (size_t)n};
    static const char *const names[] = {"a", "b", "out"}, *const dims[] = {"m", "n", "k"};
    const int values[] = {m, n, k};
    double *numbers[3];
    int files[3];
    job_begin(peer, "MATRIX_MUL");
    job_argument(peer, "dtype", f64 ? "f64" : "f32");
    for (int i = 0; i < 3; i++) {
        char digits[16];
        snprintf(digits, sizeof(digits), "%d", values[i]);
        job_argument(peer, dims[i], digits);
        numbers[i] = calloc(counts[i], sizeof(double));
        char *bytes = calloc(counts[i], size);
        for (size_t j = 0; j < counts[i] && i < 2; j++) {
            float number = (float)sin((double)j * (i + 1));
            numbers[i][j] = f64 ? sin((double)j * (i + 1)) : (double)number;
            memcpy(bytes + j * size, f64 ? (void *)&numbers[i][j] : (void *)&number, size);
        }
        files[i] = i < 2 ? make_file(bytes, counts[i] * size) : make_file("", 0);
        free(bytes);
        job_file(peer, names[i], files[i]);
    }
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, counts[2] * size);
    double sum = 0, worst = 0, limit = (f64 ? 0x1p-53 : 0x1p-24) * (k + 1) * k;
    for (int row = 0; row < m; row++) {
        for (int column = 0; column < n; column++) {
            double expected = 0, found;
            float single;
            for (int t = 0; t < k; t++)
                expected += numbers[0][row * k + t] * numbers[1][t * n + column];
            off_t at = (off_t)size * (row * n + column);
            assert_int_equal(pread(files[2], f64 ? (void *)&found : (void *)&single, size, at),
                             (ssize_t)size);
            if (!f64)
                found = (double)single;
            assert_true(fabs(found - expected) <= limit);
            worst = fmax(worst, fabs(found - expected));
            sum += found;
        }
    }
    double reported = output_number(peer, "max_abs_error=");
    assert_true(f64 || reported <= worst + 1e-12);
    assert_true(f64 || m * n > 256 || fabs(reported - worst) <= 1e-12);
    assert_true(f64 || k < 8 || reported > 0);
    assert_true(fabs(output_number(peer, "checksum=") - sum) <= 1e-9 * (1 + fabs(sum)));
    for (int i = 0; i < 3; i++) {
        free(numbers[i]);
        close(files[i]);
    }
}

static void test_matrix_mul(void **state)
{
    (void)state;
    static const int shapes[][3] = {{1, 1, 1},     {2, 3, 4},    {1, 300, 7},    {300, 1, 9},
                                    {17, 33, 129}, {64, 64, 64}, {129, 130, 131}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int f64 = 0; f64 < 2; f64++)
            multiply(&peer, f64, shapes[i][0], shapes[i][1], shapes[i][2]);
    peer_finish(&peer, 0);
}

static void test_matrix_mul_made_up(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    /* More than one tile in both directions; the numbers are exact, whatever the order. */
    job_begin(&peer, "MATRIX_MUL");
    job_argument(&peer, "m", "700");
    job_argument(&peer, "n", "600");
    job_argument(&peer, "k", "20000");
    job_run(&peer, "done", "");
    assert_output(&peer,
                  "m=700 n=600 k=20000 dtype=f32 checksum=1845440842.140625 max_abs_error=0");
    job_begin(&peer, "MATRIX_MUL");
    job_run(&peer, "done", "");
    assert_output(&peer, "m=512 n=512 k=512 dtype=f32 checksum=33021488.93963623 max_abs_error=0");
    job_begin(&peer, "MATRIX_MUL");
    int file = make_file("1234", 4);
    job_file(&peer, "a", file);
    job_file(&peer, "b", file);
    job_run(&peer, "failed", "a= has 4 bytes; m=512 times k=512 of f32 are 1048576");
    close(file);
    peer_finish(&peer, 0);
}

int main(int argc, char **argv)
{
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector_add_made_up), cmocka_unit_test(test_vector_add_files),
        cmocka_unit_test(test_vector_add_special), cmocka_unit_test(test_vector_add_out_alone),
        cmocka_unit_test(test_matrix_mul),         cmocka_unit_test(test_matrix_mul_made_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
