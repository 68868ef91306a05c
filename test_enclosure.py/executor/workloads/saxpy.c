/*
 * out = alpha * x + y, element by element. A fused and an unfused multiply-add are both inside the
 * bound; made-up elements have so few digits that with a short alpha both are exact.
 */
#include "executor/array.h"
#include "executor/cuda/device_stream.h"
#include "executor/generate.h"
#include "executor/stream.h"
#include "executor/verify.h"
#include "executor/workloads.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

enum { X, Y, OUT };

/* Of an element: of the product and of the sum. A little more for what the reference rounds. */
#define ROUNDINGS (2 + 0x1p-8)

struct saxpy {
    const struct element_type *type;
    double alpha;
    /* of the whole */
    double sum, max_abs_error;
};

/*
 * One kernel of each type; `wide` is what the reference is computed in. The sum that is rounded is
 * no larger than |product| + |y|. Below the smallest normal number a rounding loses at most that
 * times the roundoff. verify is not inlined: it must read what saxpy has written.
 */
#define DEFINE_KERNEL(name, real, wide, wide_fabs)                                                 \
    static void saxpy_##name(const struct saxpy *saxpy, const struct stream_part *part)            \
    {                                                                                              \
        const real alpha = (real)saxpy->alpha;                                                     \
        const real *restrict x = part->arrays[X], *restrict y = part->arrays[Y];                   \
        real *restrict out = part->arrays[OUT];                                                    \
        for (size_t i = 0; i < part->padded; i++)                                                  \
            out[i] = alpha * x[i] + y[i];                                                          \
    }                                                                                              \
                                                                                                   \
    /* An element that may have overflowed, or began with an infinity or a NaN, may be anything.   \
     */                                                                                            \
    static void verify_each_##name(const struct saxpy *saxpy, const struct stream_part *part,      \
                                   struct verify_result *result)                                   \
    {                                                                                              \
        const wide alpha = (wide)(real)saxpy->alpha;                                               \
        const double u = ROUNDINGS * saxpy->type->roundoff, tiny = u * saxpy->type->smallest;      \
        const real *x = part->arrays[X], *y = part->arrays[Y], *out = part->arrays[OUT];           \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            wide product = alpha * (wide)x[i],                                                     \
                 error = wide_fabs((wide)out[i] - (product + (wide)y[i]));                         \
            double size = (double)(wide_fabs(product) + wide_fabs((wide)y[i]));                    \
            if (!(size < saxpy->type->largest))                                                    \
                continue;                                                                          \
            if (!((double)error <= u * size + tiny))                                               \
                result->wrong++;                                                                   \
            result->max_abs_error = fmax(result->max_abs_error, (double)error);                    \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static __attribute__((noinline)) void verify_##name(                                           \
        const struct saxpy *saxpy, const struct stream_part *part, struct verify_result *result)   \
    {                                                                                              \
        const wide alpha = (wide)(real)saxpy->alpha;                                               \
        const double u = ROUNDINGS * saxpy->type->roundoff, tiny = u * saxpy->type->smallest;      \
        const real *restrict x = part->arrays[X], *restrict y = part->arrays[Y];                   \
        const real *restrict out = part->arrays[OUT];                                              \
        struct verify_lanes lanes = {0};                                                           \
        double sums[VERIFY_LANES] = {0};                                                           \
        for (size_t i = 0; i < part->padded; i += VERIFY_LANES) {                                  \
            for (size_t lane = 0; lane < VERIFY_LANES; lane++) {                                   \
                wide product = alpha * (wide)x[i + lane], more = (wide)y[i + lane];                \
                double error = (double)wide_fabs((wide)out[i + lane] - (product + more));          \
                double size = (double)(wide_fabs(product) + wide_fabs(more));                      \
                verify_lane(&lanes, lane, error, u *size + tiny);                                  \
                sums[lane] += (double)out[i + lane];                                               \
            }                                                                                      \
        }                                                                                          \
        for (size_t lane = 0; lane < VERIFY_LANES; lane++)                                         \
            result->sum += sums[lane];                                                             \
        if (!verify_all(&lanes, &result->max_abs_error))                                           \
            verify_each_##name(saxpy, part, result);                                               \
    }

DEFINE_KERNEL(f32, float, double, fabs)
DEFINE_KERNEL(f64, double, long double, fabsl)

static void saxpy_work(const void *context, const struct stream_part *part)
{
    const struct saxpy *saxpy = context;
    if (saxpy->type->bytes == sizeof(double)) {
        saxpy_f64(saxpy, part);
        verify_f64(saxpy, part, part->result);
    } else {
        saxpy_f32(saxpy, part);
        verify_f32(saxpy, part, part->result);
    }
}

static int saxpy_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct saxpy *saxpy = context;
    const struct element_type *type = saxpy->type;
    bool f64 = type->bytes == sizeof(double);
    double alpha = saxpy->alpha, limit = ROUNDINGS * type->roundoff;
    double tiny = limit * type->smallest, largest = type->largest;
    struct device_chunk c = *chunk;
    void *compute[] = {&c.arrays[X], &c.arrays[Y], &c.arrays[OUT], &alpha, &c.count};
    void *verify[] = {&c.arrays[X], &c.arrays[Y], &c.arrays[OUT], &alpha,    &c.count,
                      &limit,       &tiny,        &largest,       &c.results};
    if (device_launch_vectors(job, chunk, f64 ? KERNEL_saxpy_f64 : KERNEL_saxpy_f32, compute) < 0)
        return -1;
    return device_launch_parts(job, chunk, f64 ? KERNEL_verify_saxpy_f64 : KERNEL_verify_saxpy_f32,
                               PART_THREADS, verify);
}

static int saxpy_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct saxpy *saxpy = context;
    const struct verify_result *result = part->result;
    saxpy->sum += result->sum;
    saxpy->max_abs_error = fmax(saxpy->max_abs_error, result->max_abs_error);
    if (!result->wrong)
        return 0;
    job_fail(job,
             "verification failed: one of the elements %" PRIu64 " to %" PRIu64
             " is wrong: the device cannot be trusted",
             part->first, part->first + part->count - 1);
    return -1;
}

static const struct workload_param saxpy_params[] = {
    {.name = "alpha",
     .type = PARAM_REAL,
     .real_min = -1e30,
     .real_max = 1e30,
     .default_value = "2",
     .help = "The factor of x, rounded to the elements' type."},
    {.name = "x", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "y", .type = PARAM_FILE_IN, .help = "Input: another of the same size."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where alpha * x + y goes."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"x", "y"};

static int saxpy_check(struct job *job)
{
    uint64_t count;
    return array_count(job, input_names, 2, &count);
}

static enum job_status saxpy_with(struct job *job, stream_runner *run)
{
    uint64_t count, seed = job_uint(job, "seed");
    if (array_count(job, input_names, 2, &count) < 0)
        return JOB_FAILED;
    struct saxpy saxpy = {.type = array_type(job), .alpha = job_real(job, "alpha")};
    const uint64_t keys[] = {generate_key(seed, 0), generate_key(seed, 1)};
    const struct stream stream = {
        .names = {"x", "y", "out"},
        .input_count = 2,
        .array_count = 3,
        .type = saxpy.type,
        .result_bytes = sizeof(struct verify_result),
        .context = &saxpy,
        .keys = keys,
        .bits = saxpy.type->mantissa / 2 - 1, /* half the digits each for alpha and x */
        .phases = {{saxpy_work, saxpy_fold, saxpy_launch}},
    };
    if (run(job, &stream, count) < 0)
        return job_end(job);
    char alpha[REAL_TEXT_SIZE], sum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s alpha=%s sum=%s max_abs_error=%s", count,
               saxpy.type->name, real_text(alpha, saxpy.alpha), real_text(sum, saxpy.sum),
               real_text(error, saxpy.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status saxpy_run(struct job *job)
{
    return saxpy_with(job, stream_run);
}

static enum job_status saxpy_cuda(struct job *job)
{
    return saxpy_with(job, device_stream_run);
}

const struct workload workload_saxpy = {
    .info = {.name = "SAXPY",
             .summary = "Computes alpha * x + y, element by element, and verifies all of them.",
             .params = saxpy_params,
             .param_count = sizeof(saxpy_params) / sizeof(saxpy_params[0])},
    .check = saxpy_check,
    .cpu = saxpy_run,
    .cuda = saxpy_cuda,
};
