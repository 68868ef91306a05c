/*
 * Prefix sums of an array of any size: first the sum of each part, then, from what is before it,
 * each part's own. For either type sums are float64, and an element of the output is rounded once.
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

/*
 * Additions that an element goes through at most, each with a relative error of half an epsilon: of
 * its part, and some for the folding (Higham, "Accuracy and Stability of Numerical
 * Algorithms", 4.2).
 */
#define ADDITIONS (STREAM_PART + 4)
/* What they may be off, of the sum of the absolute values; and what the reference may. */
#define RELATIVE (ADDITIONS * (0x1p-53 + (double)LDBL_EPSILON))

struct scan {
    const struct element_type *type;
    bool exclusive;
    /* of what is before the part */
    struct sum sum, reference, absolute;
    /* of the whole */
    double last, max_abs_error;
};

#define DEFINE_KERNEL(name, real)                                                                  \
    static void sum_##name(const struct stream_part *part, struct scan_result *result)             \
    {                                                                                              \
        const real *x = part->arrays[0];                                                           \
        double sum = 0;                                                                            \
        long double reference = 0;                                                                 \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            sum += (double)x[i];                                                                   \
            reference += (long double)x[i];                                                        \
            result->absolute += fabs((double)x[i]);                                                \
        }                                                                                          \
        result->sum = sum;                                                                         \
        result->reference = (double)reference;                                                     \
        result->lost = (double)(reference - (long double)result->reference);                       \
    }                                                                                              \
                                                                                                   \
    static void scan_##name(const struct stream_part *part, bool exclusive,                        \
                            struct scan_result *result)                                            \
    {                                                                                              \
        const real *restrict x = part->arrays[0];                                                  \
        real *restrict out = part->arrays[1];                                                      \
        double sum = 0;                                                                            \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            double with = sum + (double)x[i];                                                      \
            out[i] = (real)(result->before + (exclusive ? sum : with));                            \
            sum = with;                                                                            \
        }                                                                                          \
        result->last = (double)out[part->count - 1];                                               \
    }                                                                                              \
                                                                                                   \
    /* From where the sum may overflow, or is an infinity or a NaN, an element may be anything. */ \
    static __attribute__((noinline)) void verify_##name(                                           \
        const struct scan *scan, const struct stream_part *part, struct scan_result *result)       \
    {                                                                                              \
        const real *x = part->arrays[0], *out = part->arrays[1];                                   \
        long double sum = (long double)result->reference_before;                                   \
        sum += (long double)result->lost_before;                                                   \
        double absolute = result->absolute_before;                                                 \
        const double u = scan->type->roundoff;                                                     \
        const double relative = RELATIVE;                                                          \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            long double with = sum + (long double)x[i];                                            \
            sum = scan->exclusive ? sum : with;                                                    \
            absolute += fabs((double)x[i]);                                                        \
            if (!(absolute < scan->type->largest))                                                 \
                return;                                                                            \
            double error = (double)fabsl((long double)out[i] - sum);                               \
            double limit = u * (double)fabsl(sum) + 2 * relative * absolute;                       \
            if (!(error <= limit + u * scan->type->smallest))                                      \
                result->wrong++;                                                                   \
            result->max_abs_error = fmax(result->max_abs_error, error);                            \
            sum = with;                                                                            \
        }                                                                                          \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void scan_sum(const void *context, const struct stream_part *part)
{
    const struct scan *scan = context;
    if (scan->type->bytes == sizeof(double))
        sum_f64(part, part->result);
    else
        sum_f32(part, part->result);
}

static int scan_launch_sum(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct scan *scan = context;
    bool f64 = scan->type->bytes == sizeof(double);
    struct device_chunk c = *chunk;
    void *arguments[] = {&c.arrays[0], &c.count, &c.results};
    return device_launch_parts(job, chunk, f64 ? KERNEL_scan_sum_f64 : KERNEL_scan_sum_f32,
                               PART_THREADS, arguments);
}

/* scan_carry tells each part what is before it. */
static int scan_carry(struct job *job, void *context, const struct stream_part *part)
{
    (void)job;
    struct scan *scan = context;
    struct scan_result *result = part->result;
    result->before = sum_total(&scan->sum);
    result->reference_before = scan->reference.value;
    result->lost_before = isfinite(scan->reference.lost) ? scan->reference.lost : 0;
    result->absolute_before = sum_total(&scan->absolute);
    sum_add(&scan->sum, result->sum);
    sum_add(&scan->reference, result->reference);
    sum_add(&scan->reference, result->lost);
    sum_add(&scan->absolute, result->absolute);
    return 0;
}

static void scan_work(const void *context, const struct stream_part *part)
{
    const struct scan *scan = context;
    if (scan->type->bytes == sizeof(double)) {
        scan_f64(part, scan->exclusive, part->result);
        verify_f64(scan, part, part->result);
    } else {
        scan_f32(part, scan->exclusive, part->result);
        verify_f32(scan, part, part->result);
    }
}

static int scan_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct scan *scan = context;
    bool f64 = scan->type->bytes == sizeof(double);
    unsigned exclusive = scan->exclusive;
    double relative = RELATIVE, smallest = scan->type->smallest, largest = scan->type->largest;
    struct device_chunk c = *chunk;
    void *compute[] = {&c.arrays[0], &c.arrays[1], &c.count, &exclusive, &c.results};
    void *verify[] = {&c.arrays[0], &c.arrays[1], &c.count, &exclusive,
                      &relative,    &smallest,    &largest, &c.results};
    if (device_launch(job, chunk->lane, f64 ? KERNEL_scan_f64 : KERNEL_scan_f32, chunk->parts, 1,
                      SCAN_THREADS, compute) < 0)
        return -1;
    return device_launch_parts(job, chunk, f64 ? KERNEL_verify_scan_f64 : KERNEL_verify_scan_f32,
                               PART_THREADS, verify);
}

static int scan_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct scan *scan = context;
    const struct scan_result *result = part->result;
    scan->last = result->last;
    scan->max_abs_error = fmax(scan->max_abs_error, result->max_abs_error);
    if (!result->wrong)
        return 0;
    job_fail(job,
             "verification failed: one of the sums %" PRIu64 " to %" PRIu64
             " is wrong by more than rounding can explain: the device cannot be trusted",
             part->first, part->first + part->count - 1);
    return -1;
}

static const struct workload_param scan_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the sums go, as many as numbers."},
    {.name = "exclusive",
     .type = PARAM_CHOICE,
     .choices = "no|yes",
     .default_value = "no",
     .help = "Each sum without the number at its own place: the first is 0."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a"};

static int scan_check(struct job *job)
{
    uint64_t count;
    return array_count(job, input_names, 1, &count);
}

static enum job_status scan_with(struct job *job, stream_runner *run)
{
    uint64_t count;
    if (array_count(job, input_names, 1, &count) < 0)
        return JOB_FAILED;
    struct scan scan = {.type = array_type(job),
                        .exclusive = strcmp(job_text(job, "exclusive"), "yes") == 0};
    const uint64_t key = generate_key(job_uint(job, "seed"), 0);
    const struct stream stream = {
        .names = {"a", "out"},
        .input_count = 1,
        .array_count = 2,
        .type = scan.type,
        .result_bytes = sizeof(struct scan_result),
        .context = &scan,
        .keys = &key,
        .bits = array_sum_bits(scan.type, count),
        .phases = {{scan_sum, scan_carry, scan_launch_sum}, {scan_work, scan_fold, scan_launch}},
    };
    if (run(job, &stream, count) < 0)
        return job_end(job);
    char last[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s exclusive=%s last=%s max_abs_error=%s", count,
               scan.type->name, job_text(job, "exclusive"), real_text(last, scan.last),
               real_text(error, scan.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status scan_run(struct job *job)
{
    return scan_with(job, stream_run);
}

static enum job_status scan_cuda(struct job *job)
{
    return scan_with(job, device_stream_run);
}

const struct workload workload_scan = {
    .info = {.name = "SCAN",
             .summary = "Computes the prefix sums of an array, and verifies all of them.",
             .params = scan_params,
             .param_count = sizeof(scan_params) / sizeof(scan_params[0])},
    .check = scan_check,
    .cpu = scan_run,
    .cuda = scan_cuda,
};
