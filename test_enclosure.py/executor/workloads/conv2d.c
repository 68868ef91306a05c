/*
 * A two-dimensional convolution as neural networks have it: each element of the output is the sum
 * of the elements around its place, times those of a small square kernel, which is not turned
 * round. Beyond the border there are zeros; the output is as large as the image.
 */
#include "executor/array.h"
#include "executor/cuda/transfer.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_K 31
/* Multiply-adds between two looks at the clock: some 60 ms on one processor. */
#define CHUNK_OPERATIONS ((uint64_t)1 << 27)
/* Elements that are verified: the corners, and others that are spread over the output. */
#define SAMPLES 256
#define ADVICE  "take a smaller h= or w="

struct convolution {
    struct job *job;
    const struct element_type *type;
    uint64_t h, w, k;
    void *image, *kernel, *out;
    uint64_t first_row; /* of the chunk */
    double checksum, max_abs_error;
};

/* One row of the output, by adding shifted rows of the image: so the inner loop makes vectors. */
#define DEFINE_KERNEL(name, real)                                                                  \
    static void row_##name(const struct convolution *convolution, uint64_t row)                    \
    {                                                                                              \
        const uint64_t w = convolution->w, k = convolution->k, radius = k / 2;                     \
        const real *image = convolution->image, *kernel = convolution->kernel;                     \
        real *restrict out = (real *)convolution->out + row * w;                                   \
        memset(out, 0, w * sizeof(real));                                                          \
        for (uint64_t i = 0; i < k; i++) {                                                         \
            if (row + i < radius || row + i - radius >= convolution->h)                            \
                continue;                                                                          \
            const real *restrict in = image + (row + i - radius) * w;                              \
            for (uint64_t j = 0; j < k; j++) {                                                     \
                const real factor = kernel[i * k + j];                                             \
                uint64_t skip = j < radius ? radius - j : 0, ahead = j > radius ? j - radius : 0;  \
                if (skip >= w || ahead >= w)                                                       \
                    continue;                                                                      \
                for (uint64_t x = 0; x < w - skip - ahead; x++)                                    \
                    out[skip + x] += factor * in[ahead + x];                                       \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void convolve_row(void *context, size_t index)
{
    const struct convolution *convolution = context;
    if (convolution->type->bytes == sizeof(double))
        row_f64(convolution, convolution->first_row + index);
    else
        row_f32(convolution, convolution->first_row + index);
}

/* convolve: -1 and the job should stop. Progress goes from `from` to `to`. */
static int convolve(struct convolution *convolution, double from, double to)
{
    struct job *job = convolution->job;
    uint64_t rows = CHUNK_OPERATIONS / (convolution->w * convolution->k * convolution->k) + 1;
    for (uint64_t row = 0; row < convolution->h; row += rows) {
        uint64_t left = convolution->h - row;
        if (job_step(job, from + (to - from) * (double)row / (double)convolution->h) < 0)
            return -1;
        uint64_t start = job_clock_ns();
        convolution->first_row = row;
        parallel_run((size_t)(left < rows ? left : rows), convolve_row, convolution);
        job->compute_ns += job_clock_ns() - start;
    }
    return 0;
}

/*
 * sample_is_right: whatever the order of the additions, the sum of k^2 products is off by at most
 * k^2 u / (1 - k^2 u) times the sum of the absolute products, u being half the epsilon (Higham,
 * "Accuracy and Stability of Numerical Algorithms", 3.1), and by what may be lost below the
 * smallest normal number.
 */
static bool sample_is_right(struct convolution *convolution, uint64_t row, uint64_t column)
{
    const struct element_type *type = convolution->type;
    const uint64_t k = convolution->k, radius = k / 2;
    long double sum = 0, absolute = 0;
    for (uint64_t i = 0; i < k; i++) {
        for (uint64_t j = 0; j < k; j++) {
            uint64_t y = row + i - radius, x = column + j - radius; /* wraps where it is outside */
            if (y >= convolution->h || x >= convolution->w)
                continue;
            long double product =
                (long double)array_get(type, convolution->kernel, i * k + j) *
                (long double)array_get(type, convolution->image, y * convolution->w + x);
            sum += product;
            absolute += fabsl(product);
        }
    }
    if (!(absolute < (long double)type->largest))
        return true; /* may have overflowed, or began with an infinity or a NaN */
    double found = array_get(type, convolution->out, row * convolution->w + column);
    double error = (double)fabsl((long double)found - sum);
    double ku = (double)(k * k + 1) * type->roundoff;
    if (!(error <= ku / (1 - ku) * (double)absolute + (double)(k * k) * type->smallest))
        return false;
    convolution->max_abs_error = fmax(convolution->max_abs_error, error);
    return true;
}

static int verify(struct convolution *convolution)
{
    uint64_t start = job_clock_ns(), last_row = convolution->h - 1;
    uint64_t last_column = convolution->w - 1;
    bool right = true;
    for (uint64_t sample = 0; sample < SAMPLES && right; sample++) {
        uint64_t bits = generate_bits(0, sample);
        uint64_t row = sample < 4 ? sample / 2 * last_row : (bits >> 32) % convolution->h;
        uint64_t column = sample < 4 ? sample % 2 * last_column : (uint32_t)bits % convolution->w;
        right = sample_is_right(convolution, row, column);
    }
    convolution->job->compute_ns += job_clock_ns() - start;
    if (right)
        return 0;
    job_fail(convolution->job, "verification failed: an element is wrong by more than rounding can "
                               "explain: the device cannot be trusted");
    return -1;
}

static const struct workload_param conv2d_params[] = {
    {.name = "a",
     .type = PARAM_FILE_IN,
     .help = "Input: the image, h rows of w numbers, row after row, little endian."},
    {.name = "kernel", .type = PARAM_FILE_IN, .help = "Input: k rows of k numbers."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where h rows of w numbers go."},
    {.name = "h",
     .type = PARAM_UINT,
     .min = 1,
     .max = 65536,
     .default_value = "512",
     .help = "Rows of the image."},
    {.name = "w",
     .type = PARAM_UINT,
     .min = 1,
     .max = 65536,
     .default_value = "512",
     .help = "Columns of the image."},
    {.name = "k",
     .type = PARAM_UINT,
     .min = 1,
     .max = MAX_K,
     .default_value = "3",
     .help = "Rows and columns of the kernel: odd."},
    PARAM_SEED,
    PARAM_DTYPE,
};

static void convolution_describe(struct convolution *convolution, struct job *job)
{
    *convolution = (struct convolution){.job = job,
                                        .type = array_type(job),
                                        .h = job_uint(job, "h"),
                                        .w = job_uint(job, "w"),
                                        .k = job_uint(job, "k")};
}

static int check_size(struct job *job, const char *name, uint64_t bytes)
{
    uint64_t found;
    if (job_file_size(job, name, &found) < 0)
        return -1;
    if (found == bytes)
        return 0;
    job_fail(job, "%s= has %" PRIu64 " bytes; so many elements of %s are %" PRIu64, name, found,
             job_text(job, "dtype"), bytes);
    return -1;
}

static int conv2d_check(struct job *job)
{
    struct convolution convolution;
    convolution_describe(&convolution, job);
    uint64_t image = convolution.h * convolution.w * convolution.type->bytes;
    uint64_t kernel = convolution.k * convolution.k * convolution.type->bytes;
    if (convolution.k % 2 == 0) {
        job_fail(job, "k=%" PRIu64 " is even: a kernel has a middle", convolution.k);
        return -1;
    }
    if (job_given(job, "a") != job_given(job, "kernel")) {
        job_fail(job, "a=, kernel= go together: give all, or none for made-up input");
        return -1;
    }
    if (job_given(job, "a") &&
        (check_size(job, "a", image) < 0 || check_size(job, "kernel", kernel) < 0))
        return -1;
    return array_check_memory(job, 2 * image + kernel, ADVICE);
}

/* Products between two looks at the clock on a device: some 20 ms of an H100. */
#define BAND_OPERATIONS ((uint64_t)1 << 36)

_Static_assert(MAX_K == CONVOLVE_MAX_K, "the device takes as large kernels");

/* device_convolve goes through the output in bands of whole tiles. */
static int device_convolve(struct convolution *convolution, double from, double to)
{
    struct job *job = convolution->job;
    bool f64 = convolution->type->bytes == sizeof(double);
    uint64_t h = convolution->h, w = convolution->w, taps = convolution->k * convolution->k;
    uint64_t bytes = h * w * convolution->type->bytes;
    uint64_t rows = (BAND_OPERATIONS / (w * taps) / CONVOLVE_SIDE + 1) * CONVOLVE_SIDE;
    unsigned k = (unsigned)convolution->k, across = (unsigned)((w - 1) / CONVOLVE_SIDE) + 1;
    CUdeviceptr image, kernel, out;
    if (device_allocate(job, bytes, &image) < 0 ||
        device_allocate(job, taps * convolution->type->bytes, &kernel) < 0 ||
        device_allocate(job, bytes, &out) < 0 ||
        device_load(job, image, convolution->image, bytes) < 0 ||
        device_load(job, kernel, convolution->kernel, taps * convolution->type->bytes) < 0)
        return -1;
    for (uint64_t first = 0; first < h; first += rows) {
        uint64_t end = h - first < rows ? h : first + rows;
        unsigned down = (unsigned)((end - first - 1) / CONVOLVE_SIDE) + 1;
        void *arguments[] = {&image, &kernel, &out, &h, &w, &k, &first, &end};
        if (job_step(job, from + (to - from) * (double)first / (double)h) < 0 ||
            device_run(job, f64 ? KERNEL_convolve_f64 : KERNEL_convolve_f32, across, down,
                       CONVOLVE_THREADS, arguments) < 0)
            return -1;
    }
    return device_store(job, convolution->out, out, bytes);
}

/* What runs the convolution, with progress. */
typedef int convolution_run(struct convolution *convolution, double from, double to);

static int convolution_all(struct convolution *convolution, convolution_run *run)
{
    struct job *job = convolution->job;
    const struct element_type *type = convolution->type;
    uint64_t count = convolution->h * convolution->w, taps = convolution->k * convolution->k;
    uint64_t seed = job_uint(job, "seed");
    /* So few digits that the sums of MAX_K^2 < 2^10 products are exact. */
    unsigned bits = (type->mantissa - 10) / 2;
    convolution->image = array_allocate(job, count * type->bytes, ADVICE);
    convolution->kernel = array_allocate(job, taps * type->bytes, ADVICE);
    convolution->out = array_allocate(job, count * type->bytes, ADVICE);
    if (!convolution->image || !convolution->kernel || !convolution->out)
        return -1;
    struct array_span image = {type, convolution->image, count, 0, 0.1};
    struct array_span kernel = {type, convolution->kernel, taps, 0.1, 0.1};
    struct array_span out = {type, convolution->out, count, 0.9, 1};
    if (array_load(job, "a", &image, generate_key(seed, 0), bits) < 0 ||
        array_load(job, "kernel", &kernel, generate_key(seed, 1), bits) < 0 ||
        run(convolution, 0.1, 0.9) < 0 || verify(convolution) < 0 ||
        array_checksum(job, &out, &convolution->checksum) < 0)
        return -1;
    return array_store(job, "out", &out);
}

static enum job_status run_with(struct job *job, convolution_run *run)
{
    struct convolution convolution;
    convolution_describe(&convolution, job);
    int result = convolution_all(&convolution, run);
    free(convolution.image);
    free(convolution.kernel);
    free(convolution.out);
    if (result < 0)
        return job_end(job);
    char checksum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(
        job, "h=%" PRIu64 " w=%" PRIu64 " k=%" PRIu64 " dtype=%s checksum=%s max_abs_error=%s",
        convolution.h, convolution.w, convolution.k, convolution.type->name,
        real_text(checksum, convolution.checksum), real_text(error, convolution.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status conv2d_run(struct job *job)
{
    return run_with(job, convolve);
}

static enum job_status conv2d_cuda(struct job *job)
{
    return run_with(job, device_convolve);
}

const struct workload workload_conv2d = {
    .info = {.name = "CONV2D",
             .summary = "Convolves an image with a small kernel, and verifies a sample.",
             .params = conv2d_params,
             .param_count = sizeof(conv2d_params) / sizeof(conv2d_params[0])},
    .check = conv2d_check,
    .cpu = conv2d_run,
    .cuda = conv2d_cuda,
};
