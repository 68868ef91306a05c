/*
 * The sum, the smallest or the largest of an array. A sum is added in float64 for either type: in
 * lanes within a part, the lanes pairwise, the parts in their order. So its digits depend on the
 * array alone; made-up elements have so few digits that it is even exact.
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
#include <string.h>

#define LANES ((size_t)16)
/*
 * Additions that an element goes through in its part, each with a relative error of half an epsilon
 * at most (Higham, "Accuracy and Stability of Numerical Algorithms", 4.2): of its lane, of the
 * lanes, and two for the folding.
 */
#define ADDITIONS (STREAM_PART / LANES + 4 + 2)

_Static_assert(STREAM_LANES % LANES == 0, "padding is whole lanes");
_Static_assert(LANES == SUM_LANES, "the device has the cpu's lanes");

enum operation { SUM, MIN, MAX, OPERATIONS };
static const char *const operation_names[OPERATIONS] = {"sum", "min", "max"};

struct reduce {
    const struct element_type *type;
    enum operation operation;
    /* of the whole */
    struct sum sum, reference, absolute;
    double extreme;
    bool begun;
};

/*
 * One kernel of each type. The reference of a sum is a long double, added one after the other; that
 * of an extreme is a second look: none is beyond it, and one is equal to it. A NaN wins.
 */
#define DEFINE_KERNEL(name, real)                                                                  \
    static void sum_##name(const struct stream_part *part, struct sum_result *result)              \
    {                                                                                              \
        const real *restrict x = part->arrays[0];                                                  \
        double lanes[LANES] = {0};                                                                 \
        for (size_t i = 0; i < part->padded; i += LANES)                                           \
            for (size_t lane = 0; lane < LANES; lane++)                                            \
                lanes[lane] += (double)x[i + lane];                                                \
        for (size_t width = LANES / 2; width > 0; width /= 2)                                      \
            for (size_t lane = 0; lane < width; lane++)                                            \
                lanes[lane] += lanes[lane + width];                                                \
        result->value = lanes[0];                                                                  \
    }                                                                                              \
                                                                                                   \
    static void sum_reference_##name(const struct stream_part *part, struct sum_result *result)    \
    {                                                                                              \
        const real *x = part->arrays[0];                                                           \
        long double sum = 0;                                                                       \
        double absolute = 0;                                                                       \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            sum += (long double)x[i];                                                              \
            absolute += fabs((double)x[i]);                                                        \
        }                                                                                          \
        result->reference = (double)sum;                                                           \
        result->lost = (double)(sum - (long double)result->reference);                             \
        result->absolute = absolute;                                                               \
    }                                                                                              \
                                                                                                   \
    static void extreme_##name(const struct stream_part *part, bool least,                         \
                               struct sum_result *result)                                          \
    {                                                                                              \
        const real *restrict x = part->arrays[0];                                                  \
        real sign = least ? 1 : -1, lanes[LANES];                                                  \
        for (size_t lane = 0; lane < LANES; lane++)                                                \
            lanes[lane] = sign * x[0];                                                             \
        size_t whole = part->count / LANES * LANES;                                                \
        for (size_t i = 0; i < whole; i += LANES) {                                                \
            for (size_t lane = 0; lane < LANES; lane++) {                                          \
                real candidate = sign * x[i + lane], best = lanes[lane];                           \
                best = candidate < best ? candidate : best;                                        \
                lanes[lane] = candidate == candidate ? best : candidate;                           \
            }                                                                                      \
        }                                                                                          \
        real found = lanes[0];                                                                     \
        for (size_t lane = 1; lane < LANES; lane++)                                                \
            found = lanes[lane] < found || isnan(lanes[lane]) ? lanes[lane] : found;               \
        for (size_t i = whole; i < part->count; i++)                                               \
            found = sign * x[i] < found || isnan(x[i]) ? sign * x[i] : found;                      \
        result->value = (double)(sign * found);                                                    \
    }                                                                                              \
                                                                                                   \
    static void extreme_reference_##name(const struct stream_part *part, bool least,               \
                                         struct sum_result *result)                                \
    {                                                                                              \
        const real *x = part->arrays[0], value = (real)result->value;                              \
        bool met = false, nan = false;                                                             \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            met = met || x[i] == value;                                                            \
            nan = nan || isnan(x[i]);                                                              \
            result->wrong = result->wrong || (least ? x[i] < value : x[i] > value);                \
        }                                                                                          \
        result->wrong = nan ? !isnan(value) : result->wrong || !met;                               \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void reduce_work(const void *context, const struct stream_part *part)
{
    const struct reduce *reduce = context;
    struct sum_result *result = part->result;
    bool f64 = reduce->type->bytes == sizeof(double), least = reduce->operation == MIN;
    if (reduce->operation == SUM && f64) {
        sum_f64(part, result);
        sum_reference_f64(part, result);
    } else if (reduce->operation == SUM) {
        sum_f32(part, result);
        sum_reference_f32(part, result);
    } else if (f64) {
        extreme_f64(part, least, result);
        extreme_reference_f64(part, least, result);
    } else {
        extreme_f32(part, least, result);
        extreme_reference_f32(part, least, result);
    }
}

/* What finds a result, and what verifies it. */
static const enum kernel_name device_kernels[][2] = {
    {KERNEL_sum_f32, KERNEL_sum_reference_f32},
    {KERNEL_sum_f64, KERNEL_sum_reference_f64},
    {KERNEL_extreme_f32, KERNEL_extreme_reference_f32},
    {KERNEL_extreme_f64, KERNEL_extreme_reference_f64},
};

static int reduce_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct reduce *reduce = context;
    const bool sum = reduce->operation == SUM, f64 = reduce->type->bytes == sizeof(double);
    const enum kernel_name *kernels = device_kernels[(sum ? 0 : 2) + f64];
    unsigned least = reduce->operation == MIN;
    struct device_chunk c = *chunk;
    void *sum_arguments[] = {&c.arrays[0], &c.count, &c.results};
    void *extreme_arguments[] = {&c.arrays[0], &c.count, &least, &c.results};
    void **arguments = sum ? sum_arguments : extreme_arguments;
    if (device_launch_parts(job, chunk, kernels[0], SUM_LANES, arguments) < 0)
        return -1;
    return device_launch_parts(job, chunk, kernels[1], PART_THREADS, arguments);
}

static int reduce_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct reduce *reduce = context;
    const struct sum_result *result = part->result;
    if (reduce->operation == SUM) {
        sum_add(&reduce->sum, result->value);
        sum_add(&reduce->reference, result->reference);
        sum_add(&reduce->reference, result->lost);
        sum_add(&reduce->absolute, result->absolute);
        return 0;
    }
    if (result->wrong) {
        job_fail(job,
                 "verification failed: the %s of elements %" PRIu64 " to %" PRIu64
                 " is wrong: the device cannot be trusted",
                 operation_names[reduce->operation], part->first, part->first + part->count - 1);
        return -1;
    }
    bool better = reduce->operation == MIN ? result->value < reduce->extreme
                                           : result->value > reduce->extreme;
    if (!reduce->begun || better || isnan(result->value))
        reduce->extreme = result->value;
    reduce->begun = true;
    return 0;
}

/* sum_check finds the error, and -1 if rounding cannot explain it. A sum that overflows has none.
 */
static int sum_check(struct job *job, const struct reduce *reduce, double *error)
{
    double absolute = sum_total(&reduce->absolute), sum = sum_total(&reduce->sum);
    double relative = (double)ADDITIONS * 0x1p-53 + (double)STREAM_PART * (double)LDBL_EPSILON;
    *error = 0;
    if (!(absolute < DBL_MAX))
        return 0;
    *error = fabs(sum - sum_total(&reduce->reference));
    if (*error <= relative * absolute)
        return 0;
    job_fail(job, "verification failed: the sum is wrong by more than rounding can explain: the "
                  "device cannot be trusted");
    return -1;
}

static const struct workload_param reduce_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "op",
     .type = PARAM_CHOICE,
     .choices = "sum|min|max",
     .default_value = "sum",
     .help = "What is made of the numbers."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a"};

static enum operation operation_of(const struct job *job)
{
    const char *name = job_text(job, "op");
    enum operation operation = SUM;
    while (strcmp(operation_names[operation], name) != 0) /* the table allows no other */
        operation++;
    return operation;
}

static int reduce_check(struct job *job)
{
    uint64_t count;
    if (array_count(job, input_names, 1, &count) < 0)
        return -1;
    if (count > 0 || operation_of(job) == SUM)
        return 0;
    job_fail(job, "a= is empty: there is no %s", job_text(job, "op"));
    return -1;
}

static enum job_status reduce_with(struct job *job, stream_runner *run)
{
    uint64_t count;
    if (reduce_check(job) < 0 || array_count(job, input_names, 1, &count) < 0)
        return JOB_FAILED;
    struct reduce reduce = {.type = array_type(job), .operation = operation_of(job)};
    const uint64_t key = generate_key(job_uint(job, "seed"), 0);
    const struct stream stream = {
        .names = {"a"},
        .input_count = 1,
        .array_count = 1,
        .type = reduce.type,
        .result_bytes = sizeof(struct sum_result),
        .context = &reduce,
        .keys = &key,
        .bits = array_sum_bits(reduce.type, count),
        .phases = {{reduce_work, reduce_fold, reduce_launch}},
    };
    double error = 0, value = 0;
    if (run(job, &stream, count) < 0 ||
        (reduce.operation == SUM && sum_check(job, &reduce, &error) < 0))
        return job_end(job);
    value = reduce.operation == SUM ? sum_total(&reduce.sum) : reduce.extreme;
    char value_text[REAL_TEXT_SIZE], error_text[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s op=%s result=%s max_abs_error=%s", count,
               reduce.type->name, operation_names[reduce.operation], real_text(value_text, value),
               real_text(error_text, error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status reduce_run(struct job *job)
{
    return reduce_with(job, stream_run);
}

static enum job_status reduce_cuda(struct job *job)
{
    return reduce_with(job, device_stream_run);
}

const struct workload workload_reduce = {
    .info = {.name = "REDUCE",
             .summary = "Finds the sum, the smallest or the largest of an array, and verifies it.",
             .params = reduce_params,
             .param_count = sizeof(reduce_params) / sizeof(reduce_params[0])},
    .check = reduce_check,
    .cpu = reduce_run,
    .cuda = reduce_cuda,
};
