/*
 * The scalar product of two arrays. For either type, products and sums are float64: in lanes within
 * a part, the lanes pairwise, the parts in their order. So its digits depend on the arrays alone;
 * made-up elements have so few digits that it is even exact.
 */
#include "executor/array.h"
#include "executor/cuda/device_stream.h"
#include "executor/generate.h"
#include "executor/stream.h"
#include "executor/sum.h"
#include "executor/workloads.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

#define LANES ((size_t)16)
/*
 * Roundings that a product goes through in its part, each with a relative error of half an epsilon
 * at most (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1): its own, those of its
 * lane and of the lanes, and two for the folding.
 */
#define ROUNDINGS (1 + STREAM_PART / LANES + 4 + 2)

_Static_assert(STREAM_LANES % LANES == 0, "padding is whole lanes");
_Static_assert(LANES == SUM_LANES, "the device has the cpu's lanes");

struct dot {
    const struct element_type *type;
    /* of the whole */
    struct sum sum, reference, absolute;
};

/* One kernel of each type. The reference is a long double, added one after the other. */
#define DEFINE_KERNEL(name, real)                                                                  \
    static void dot_##name(const struct stream_part *part, struct sum_result *result)              \
    {                                                                                              \
        const real *restrict x = part->arrays[0], *restrict y = part->arrays[1];                   \
        double lanes[LANES] = {0};                                                                 \
        for (size_t i = 0; i < part->padded; i += LANES)                                           \
            for (size_t lane = 0; lane < LANES; lane++)                                            \
                lanes[lane] += (double)x[i + lane] * (double)y[i + lane];                          \
        for (size_t width = LANES / 2; width > 0; width /= 2)                                      \
            for (size_t lane = 0; lane < width; lane++)                                            \
                lanes[lane] += lanes[lane + width];                                                \
        result->value = lanes[0];                                                                  \
    }                                                                                              \
                                                                                                   \
    static void reference_##name(const struct stream_part *part, struct sum_result *result)        \
    {                                                                                              \
        const real *x = part->arrays[0], *y = part->arrays[1];                                     \
        long double sum = 0;                                                                       \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            sum += (long double)x[i] * (long double)y[i];                                          \
            result->absolute += fabs((double)x[i] * (double)y[i]);                                 \
        }                                                                                          \
        result->reference = (double)sum;                                                           \
        result->lost = (double)(sum - (long double)result->reference);                             \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void dot_work(const void *context, const struct stream_part *part)
{
    const struct dot *dot = context;
    if (dot->type->bytes == sizeof(double)) {
        dot_f64(part, part->result);
        reference_f64(part, part->result);
    } else {
        dot_f32(part, part->result);
        reference_f32(part, part->result);
    }
}

static int dot_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct dot *dot = context;
    bool f64 = dot->type->bytes == sizeof(double);
    struct device_chunk c = *chunk;
    void *arguments[] = {&c.arrays[0], &c.arrays[1], &c.count, &c.results};
    if (device_launch_parts(job, chunk, f64 ? KERNEL_dot_f64 : KERNEL_dot_f32, SUM_LANES,
                            arguments) < 0)
        return -1;
    return device_launch_parts(job, chunk,
                               f64 ? KERNEL_dot_reference_f64 : KERNEL_dot_reference_f32,
                               PART_THREADS, arguments);
}

static int dot_fold(struct job *job, void *context, const struct stream_part *part)
{
    (void)job;
    struct dot *dot = context;
    const struct sum_result *result = part->result;
    sum_add(&dot->sum, result->value);
    sum_add(&dot->reference, result->reference);
    sum_add(&dot->reference, result->lost);
    sum_add(&dot->absolute, result->absolute);
    return 0;
}

/*
 * dot_error finds the error, and -1 if rounding cannot explain it. A product that may have
 * overflowed has none; one below the smallest normal number loses less than that.
 */
static int dot_error(struct job *job, const struct dot *dot, uint64_t count, double *error)
{
    double absolute = sum_total(&dot->absolute);
    double relative =
        (double)ROUNDINGS * 0x1p-53 + (double)(STREAM_PART + 1) * (double)LDBL_EPSILON;
    *error = 0;
    if (!(absolute < DBL_MAX))
        return 0;
    *error = fabs(sum_total(&dot->sum) - sum_total(&dot->reference));
    if (*error <= relative * absolute + (double)count * DBL_MIN)
        return 0;
    job_fail(job, "verification failed: the product is wrong by more than rounding can explain: "
                  "the device cannot be trusted");
    return -1;
}

static const struct workload_param dot_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "b", .type = PARAM_FILE_IN, .help = "Input: another of the same size."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a", "b"};

static int dot_check(struct job *job)
{
    uint64_t count;
    return array_count(job, input_names, 2, &count);
}

static enum job_status dot_with(struct job *job, stream_runner *run)
{
    uint64_t count, seed = job_uint(job, "seed");
    if (array_count(job, input_names, 2, &count) < 0)
        return JOB_FAILED;
    struct dot dot = {.type = array_type(job)};
    const uint64_t keys[] = {generate_key(seed, 0), generate_key(seed, 1)};
    /* Half of the digits that a sum of so many may have. */
    unsigned bits = array_sum_bits(&(struct element_type){.mantissa = DBL_MANT_DIG}, count) / 2;
    const struct stream stream = {
        .names = {"a", "b"},
        .input_count = 2,
        .array_count = 2,
        .type = dot.type,
        .result_bytes = sizeof(struct sum_result),
        .context = &dot,
        .keys = keys,
        .bits = bits < dot.type->mantissa ? bits : dot.type->mantissa,
        .phases = {{dot_work, dot_fold, dot_launch}},
    };
    double error;
    if (run(job, &stream, count) < 0 || dot_error(job, &dot, count, &error) < 0)
        return job_end(job);
    char result_text[REAL_TEXT_SIZE], error_text[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s result=%s max_abs_error=%s", count, dot.type->name,
               real_text(result_text, sum_total(&dot.sum)), real_text(error_text, error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status dot_run(struct job *job)
{
    return dot_with(job, stream_run);
}

static enum job_status dot_cuda(struct job *job)
{
    return dot_with(job, device_stream_run);
}

const struct workload workload_dot = {
    .info = {.name = "DOT",
             .summary = "Computes the scalar product of two arrays, and verifies it.",
             .params = dot_params,
             .param_count = sizeof(dot_params) / sizeof(dot_params[0])},
    .check = dot_check,
    .cpu = dot_run,
    .cuda = dot_cuda,
};
