/*
 * C = A * B with OpenBLAS, in tiles: a job that is cancelled stops after its tile.
 */
#include "executor/array.h"
#include "executor/cuda/blas.h"
#include "executor/cuda/device.h"
#include "executor/generate.h"
#include "executor/workloads.h"

#include <cblas.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is read, made, summed or written between two looks at the clock. */
#define PIECE_BYTES ((size_t)4 << 20)
/* A tile's floating-point operations: some 50 ms on two cores. */
#define TILE_OPERATIONS ((uint64_t)1 << 31)
/* Smaller tiles than that would waste the work of packing them (Goto, van de Geijn 2008). */
#define TILE_MIN_SIDE ((uint64_t)128)
/* Elements of C that are verified: all, or rows times columns spread over it. */
#define SAMPLES     256
#define SAMPLE_SIDE 16

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data files are little endian");

enum { A, B, C };

struct product {
    struct job *job;
    bool f64;
    size_t element_bytes;
    uint64_t m, n, k;
    uint64_t elements[3];
    char *matrices[3]; /* on the host; NULL: made up where it is needed */
    uint64_t keys[3];  /* of made-up numbers */
    unsigned bits;
    double checksum, max_abs_error;
};

static const struct workload_param matrix_mul_params[] = {
    {.name = "a",
     .type = PARAM_FILE_IN,
     .help = "Input: m rows of k numbers, row after row, little endian."},
    {.name = "b", .type = PARAM_FILE_IN, .help = "Input: k rows of n numbers."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the product goes: m rows of n numbers."},
    {.name = "m",
     .type = PARAM_UINT,
     .min = 1,
     .max = 65536,
     .default_value = "512",
     .help = "Rows of a and of the product."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = 65536,
     .default_value = "512",
     .help = "Columns of b and of the product."},
    {.name = "k",
     .type = PARAM_UINT,
     .min = 1,
     .max = 65536,
     .default_value = "512",
     .help = "Columns of a, rows of b."},
    {.name = "seed",
     .type = PARAM_UINT,
     .max = UINT64_MAX,
     .default_value = "1",
     .help = "Without files: which made-up numbers."},
    {.name = "dtype",
     .type = PARAM_CHOICE,
     .choices = "f32|f64",
     .default_value = "f32",
     .help = "The elements' type, IEEE 754 binary32 or binary64."},
};

/*
 * made_up_bits: multiples of 2^-bits whose products and sums of k products are exact in the type,
 * so that C has the same digits on every backend, in whatever order it adds.
 */
static unsigned made_up_bits(const struct product *product)
{
    unsigned mantissa = product->f64 ? DBL_MANT_DIG : FLT_MANT_DIG, log2_k = 0;
    while ((uint64_t)1 << log2_k < product->k)
        log2_k++;
    return (mantissa - log2_k) / 2;
}

static void product_describe(struct product *product, struct job *job)
{
    *product = (struct product){
        .job = job,
        .f64 = strcmp(job_text(job, "dtype"), "f64") == 0,
        .m = job_uint(job, "m"),
        .n = job_uint(job, "n"),
        .k = job_uint(job, "k"),
    };
    product->element_bytes = product->f64 ? sizeof(double) : sizeof(float);
    product->elements[A] = product->m * product->k;
    product->elements[B] = product->k * product->n;
    product->elements[C] = product->m * product->n;
    product->bits = made_up_bits(product);
    for (int i = A; i <= C; i++)
        product->keys[i] = generate_key(job_uint(job, "seed"), (uint64_t)i);
}

static int check_memory(struct job *job, const struct product *product)
{
    return array_check_memory(
        job,
        product->element_bytes *
            (product->elements[A] + product->elements[B] + product->elements[C]),
        "take smaller m=, n= or k=");
}

static int check_size(struct product *product, const char *name, int matrix, const char *rows,
                      const char *columns)
{
    struct job *job = product->job;
    uint64_t bytes, wanted = product->elements[matrix] * product->element_bytes;
    if (job_file_size(job, name, &bytes) < 0)
        return -1;
    if (bytes == wanted)
        return 0;
    job_fail(job, "%s= has %" PRIu64 " bytes; %s=%s times %s=%s of %s are %" PRIu64, name, bytes,
             rows, job_text(job, rows), columns, job_text(job, columns), job_text(job, "dtype"),
             wanted);
    return -1;
}

static int matrix_mul_check(struct job *job)
{
    struct product product;
    product_describe(&product, job);
    if (job_given(job, "a") != job_given(job, "b")) {
        job_fail(job, "a= and b= go together: give both, or neither for made-up input");
        return -1;
    }
    if (job_given(job, "a") &&
        (check_size(&product, "a", A, "m", "k") < 0 || check_size(&product, "b", B, "k", "n") < 0))
        return -1;
    return check_memory(job, &product);
}

static void make_up(const struct product *product, int matrix, uint64_t first, size_t count)
{
    uint64_t key = product->keys[matrix];
    unsigned bits = product->bits;
    if (product->f64) {
        double *x = (void *)product->matrices[matrix];
        for (uint64_t i = first; i < first + count; i++)
            x[i] = generate_real(key, i, bits);
    } else {
        float *x = (void *)product->matrices[matrix];
        for (uint64_t i = first; i < first + count; i++)
            x[i] = (float)generate_real(key, i, bits);
    }
}

/* product_load fills A or B; progress goes from `from` to `to`. */
static int product_load(struct product *product, int matrix, const char *name, double from,
                        double to)
{
    struct job *job = product->job;
    const size_t most = PIECE_BYTES / product->element_bytes;
    uint64_t count = product->elements[matrix];
    for (uint64_t first = 0; first < count; first += most) {
        size_t here = count - first < most ? (size_t)(count - first) : most;
        uint64_t offset = first * product->element_bytes;
        if (job_step(job, from + (to - from) * (double)first / (double)count) < 0)
            return -1;
        if (!job_given(job, name)) {
            uint64_t start = job_clock_ns();
            make_up(product, matrix, first, here);
            job->compute_ns += job_clock_ns() - start;
        } else if (job_read(job, name, product->matrices[matrix] + offset,
                            here * product->element_bytes, offset) < 0) {
            return -1;
        }
    }
    return 0;
}

/* product_tile computes `rows` x `columns` of C. The bounds of m, n and k keep all in an int. */
static void product_tile(const struct product *product, uint64_t row, uint64_t column,
                         uint64_t rows, uint64_t columns)
{
    int k = (int)product->k, n = (int)product->n;
    const char *a = product->matrices[A] + row * product->k * product->element_bytes;
    const char *b = product->matrices[B] + column * product->element_bytes;
    char *c = product->matrices[C] + (row * product->n + column) * product->element_bytes;
    if (product->f64)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)columns, k, 1.0,
                    (const void *)a, k, (const void *)b, n, 0.0, (void *)c, n);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)columns, k, 1.0F,
                    (const void *)a, k, (const void *)b, n, 0.0F, (void *)c, n);
}

static uint64_t tile_side(uint64_t operations_per_line, uint64_t lines)
{
    uint64_t side = TILE_OPERATIONS / operations_per_line;
    if (side < TILE_MIN_SIDE)
        side = TILE_MIN_SIDE;
    return side < lines ? side : lines;
}

/* product_multiply: the tiles depend on m, n and k alone, never on how fast the machine is. */
static int product_multiply(struct product *product, double from, double to)
{
    struct job *job = product->job;
    uint64_t columns = tile_side(2 * product->k * TILE_MIN_SIDE, product->n);
    uint64_t rows = tile_side(2 * product->k * columns, product->m);
    for (uint64_t row = 0; row < product->m; row += rows) {
        uint64_t height = product->m - row < rows ? product->m - row : rows;
        for (uint64_t column = 0; column < product->n; column += columns) {
            uint64_t width = product->n - column < columns ? product->n - column : columns;
            double done = (double)(row * product->n + column * height);
            if (job_step(job, from + (to - from) * done / (double)product->elements[C]) < 0)
                return -1;
            uint64_t start = job_clock_ns();
            product_tile(product, row, column, height, width);
            job->compute_ns += job_clock_ns() - start;
        }
    }
    return 0;
}

static double element(const struct product *product, int matrix, uint64_t index)
{
    if (!product->matrices[matrix])
        return generate_real(product->keys[matrix], index, product->bits);
    const char *at = product->matrices[matrix] + index * product->element_bytes;
    if (product->f64) {
        double value;
        memcpy(&value, at, sizeof(value));
        return value;
    }
    float value;
    memcpy(&value, at, sizeof(value));
    return (double)value;
}

/* sample_lines spreads `wanted` different lines over `lines`, one in each equal part. */
static void sample_lines(uint64_t lines, uint64_t wanted, uint64_t stream, uint64_t *sample)
{
    for (uint64_t i = 0; i < wanted; i++) {
        uint64_t first = lines * i / wanted, end = lines * (i + 1) / wanted;
        sample[i] = first + generate_bits(stream, i) % (end - first);
    }
}

/*
 * sample_is_right holds one element of C against the dot product. Whatever the order of the
 * additions, it is off by at most k * u / (1 - k * u) times the sum of the absolute products, u
 * being half the epsilon (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1), and by
 * what may be lost below the smallest normal number.
 */
static bool sample_is_right(struct product *product, double found, long double dot,
                            long double absolute)
{
    double largest = product->f64 ? DBL_MAX : (double)FLT_MAX;
    double roundoff = product->f64 ? 0x1p-53 : 0x1p-24;
    double smallest = product->f64 ? DBL_MIN : (double)FLT_MIN;
    if (!(absolute < (long double)largest))
        return true; /* may have overflowed, or began with an infinity or a NaN */
    double ku = ((double)product->k + 1) * roundoff;
    double error = (double)fabsl((long double)found - dot);
    if (!(error <= ku / (1 - ku) * (double)absolute + (double)product->k * smallest))
        return false;
    if (error > product->max_abs_error)
        product->max_abs_error = error;
    return true;
}

struct dots {
    long double dot[SAMPLES], absolute[SAMPLES];
};

static bool product_verify(struct product *product)
{
    uint64_t rows[SAMPLES], columns[SAMPLES], height, width;
    height = product->m < SAMPLE_SIDE ? product->m : SAMPLE_SIDE;
    width = product->n < SAMPLES / height ? product->n : SAMPLES / height;
    height = product->m < SAMPLES / width ? product->m : SAMPLES / width;
    sample_lines(product->m, height, 1, rows);
    sample_lines(product->n, width, 2, columns);
    struct dots dots = {0};
    for (uint64_t t = 0; t < product->k; t++) {
        for (uint64_t j = 0; j < width; j++) {
            long double b = (long double)element(product, B, t * product->n + columns[j]);
            for (uint64_t i = 0; i < height; i++) {
                long double a = (long double)element(product, A, rows[i] * product->k + t);
                dots.dot[i * width + j] += a * b;
                dots.absolute[i * width + j] += fabsl(a * b);
            }
        }
    }
    for (uint64_t i = 0; i < height; i++)
        for (uint64_t j = 0; j < width; j++)
            if (!sample_is_right(product, element(product, C, rows[i] * product->n + columns[j]),
                                 dots.dot[i * width + j], dots.absolute[i * width + j]))
                return false;
    return true;
}

static double sum_elements(const struct product *product, uint64_t first, size_t count)
{
    double sum = 0;
    for (uint64_t i = first; i < first + count; i++)
        sum += element(product, C, i);
    return sum;
}

/* product_store sums C up and writes it if it is wanted. */
static int product_store(struct product *product, double from, double to)
{
    struct job *job = product->job;
    const size_t most = PIECE_BYTES / product->element_bytes;
    uint64_t count = product->elements[C];
    bool wanted = job_given(job, "out");
    if (wanted && job_reserve(job, "out", count * product->element_bytes) < 0)
        return -1;
    for (uint64_t first = 0; first < count; first += most) {
        size_t here = count - first < most ? (size_t)(count - first) : most;
        uint64_t offset = first * product->element_bytes, start = job_clock_ns();
        if (job_step(job, from + (to - from) * (double)first / (double)count) < 0)
            return -1;
        product->checksum += sum_elements(product, first, here);
        job->compute_ns += job_clock_ns() - start;
        if (wanted && job_write(job, "out", product->matrices[C] + offset,
                                here * product->element_bytes, offset) < 0)
            return -1;
    }
    return 0;
}

/* product_allocate makes room on the host for the matrices from `first` on. */
static int product_allocate(struct product *product, int first)
{
    for (int i = first; i <= C; i++) {
        size_t bytes = (product->elements[i] * product->element_bytes + 63) / 64 * 64;
        product->matrices[i] = aligned_alloc(64, bytes);
        if (!product->matrices[i]) {
            job_fail(product->job,
                     "no memory for a matrix of %zu MiB: take smaller m=, n= or k=", bytes >> 20);
            return -1;
        }
    }
    return 0;
}

static void product_finish(struct product *product)
{
    for (int i = A; i <= C; i++)
        free(product->matrices[i]);
}

/* product_check_and_store is what comes after the multiplication. */
static int product_check_and_store(struct product *product)
{
    struct job *job = product->job;
    uint64_t start = job_clock_ns();
    bool right = product_verify(product);
    job->compute_ns += job_clock_ns() - start;
    if (!right) {
        job_fail(job, "verification failed: an element of the product is wrong by more than "
                      "rounding can explain: the device cannot be trusted");
        return -1;
    }
    return product_store(product, 0.9, 1);
}

static int product_run(struct product *product)
{
    if (product_allocate(product, A) < 0 || product_load(product, A, "a", 0, 0.1) < 0 ||
        product_load(product, B, "b", 0.1, 0.2) < 0 || product_multiply(product, 0.2, 0.9) < 0)
        return -1;
    return product_check_and_store(product);
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* Floating-point operations of a multiprocessor between two looks at the clock: some 1 ms of an
 * H100 in f32. */
#define BAND_OPERATIONS ((uint64_t)1 << 29)

/* device_input puts A or B onto the device. */
static int device_input(struct product *product, int matrix, CUdeviceptr to)
{
    struct job *job = product->job;
    struct device_lane *lane = &device.lanes[0];
    uint64_t count = product->elements[matrix], first = 0;
    if (product->matrices[matrix])
        return device_load(job, to, product->matrices[matrix], count * product->element_bytes);
    uint64_t key = product->keys[matrix];
    unsigned bits = product->bits;
    void *arguments[] = {&to, &key, &first, &count, &bits};
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch_array(job, lane, product->f64 ? KERNEL_fill_f64 : KERNEL_fill_f32,
                            count * product->element_bytes / 16, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0)
        return -1;
    return device_wait(job, lane);
}

struct tiling {
    enum kernel_name kernel;
    uint64_t side;
};

/* tiling_of takes large tiles where there are enough of them for two on each multiprocessor. */
static struct tiling tiling_of(const struct product *product)
{
    const uint64_t side = MULTIPLY_LARGE_SIDE;
    uint64_t tiles = ((product->m + side - 1) / side) * ((product->n + side - 1) / side);
    if (product->f64)
        return (struct tiling){KERNEL_multiply_f64, MULTIPLY_SMALL_SIDE};
    if (tiles < 2 * (uint64_t)device.multiprocessors)
        return (struct tiling){KERNEL_multiply_f32_small, MULTIPLY_SMALL_SIDE};
    return (struct tiling){KERNEL_multiply_f32, side};
}

/* multiply_rows computes `rows` of C from `first` on, by cuBLAS where *library says so. */
static int multiply_rows(struct product *product, const CUdeviceptr matrices[3],
                         const struct tiling *tiling, uint64_t first, uint64_t rows, bool *library)
{
    struct job *job = product->job;
    struct device_lane *lane = &device.lanes[0];
    uint64_t n = product->n, k = product->k, bytes = product->element_bytes;
    struct blas_product part = {
        .f64 = product->f64,
        .m = (int)rows,
        .n = (int)n,
        .k = (int)k,
        .a = matrices[A] + first * k * bytes,
        .b = matrices[B],
        .c = matrices[C] + first * n * bytes,
    };
    *library = *library && blas_multiply(lane, &part);
    if (*library)
        return 0;
    unsigned across = (unsigned)((n + tiling->side - 1) / tiling->side);
    unsigned down = (unsigned)((rows + tiling->side - 1) / tiling->side);
    CUdeviceptr a = matrices[A], b = matrices[B], c = matrices[C];
    void *arguments[] = {&a, &b, &c, &first, &product->m, &product->n, &product->k};
    return device_launch(job, lane, tiling->kernel, across, down, MULTIPLY_THREADS, arguments);
}

/* device_multiply goes through C in bands of whole tiles; a cancelled job stops after its band. */
static int device_multiply(struct product *product, const CUdeviceptr matrices[3], double from,
                           double to)
{
    struct job *job = product->job;
    struct device_lane *lane = &device.lanes[0];
    struct tiling tiling = tiling_of(product);
    uint64_t m = product->m, operations = BAND_OPERATIONS * device.multiprocessors;
    uint64_t tiles = operations / (2 * product->k * product->n) / tiling.side;
    uint64_t rows = (tiles > 0 ? tiles : 1) * tiling.side;
    int prepared = blas_prepare(job);
    bool library = prepared > 0;
    if (prepared < 0)
        return -1;
    for (uint64_t first = 0; first < m; first += rows) {
        uint64_t here = m - first < rows ? m - first : rows;
        if (job_step(job, from + (to - from) * (double)first / (double)m) < 0 ||
            device_mark(job, lane, MARK_BEGIN) < 0 ||
            multiply_rows(product, matrices, &tiling, first, here, &library) < 0 ||
            device_mark(job, lane, MARK_COMPUTED) < 0 || device_wait(job, lane) < 0)
            return -1;
    }
    return 0;
}

static int product_run_on_device(struct product *product)
{
    struct job *job = product->job;
    CUdeviceptr matrices[3];
    bool given = job_given(job, "a");
    if (product_allocate(product, given ? A : C) < 0)
        return -1;
    for (int i = A; i <= C; i++)
        if (device_allocate(job, product->elements[i] * product->element_bytes, &matrices[i]) < 0)
            return -1;
    if (given &&
        (product_load(product, A, "a", 0, 0.1) < 0 || product_load(product, B, "b", 0.1, 0.2) < 0))
        return -1;
    if (device_input(product, A, matrices[A]) < 0 || device_input(product, B, matrices[B]) < 0 ||
        device_multiply(product, matrices, 0.2, 0.9) < 0 ||
        device_store(job, product->matrices[C], matrices[C],
                     product->elements[C] * product->element_bytes) < 0)
        return -1;
    return product_check_and_store(product);
}

static enum job_status run_with(struct job *job, int (*run)(struct product *product))
{
    struct product product;
    product_describe(&product, job);
    int result = run(&product);
    product_finish(&product);
    if (result < 0)
        return job_end(job);
    char checksum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job,
               "m=%" PRIu64 " n=%" PRIu64 " k=%" PRIu64 " dtype=%s checksum=%s max_abs_error=%s",
               product.m, product.n, product.k, job_text(job, "dtype"),
               real_text(checksum, product.checksum), real_text(error, product.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status matrix_mul_run(struct job *job)
{
    return run_with(job, product_run);
}

static enum job_status matrix_mul_cuda(struct job *job)
{
    return run_with(job, product_run_on_device);
}

const struct workload workload_matrix_mul = {
    .info = {.name = "MATRIX_MUL",
             .summary = "Multiplies two matrices and verifies a sample of the product.",
             .params = matrix_mul_params,
             .param_count = sizeof(matrix_mul_params) / sizeof(matrix_mul_params[0])},
    .check = matrix_mul_check,
    .cpu = matrix_mul_run,
    .cuda = matrix_mul_cuda,
};
