/*
 * out = a + b, element by element. Every sum is held against the one in float64.
 */
#include "executor/array.h"
#include "executor/cuda/device_stream.h"
#include "executor/generate.h"
#include "executor/stream.h"
#include "executor/verify.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { A, B, OUT };

struct addition {
    const struct element_type *type;
    /* of the whole */
    double sum, max_abs_error;
};

/*
 * One kernel of each type. More than half the type's epsilon, relative to the sum in float64, and
 * the element is wrong. verify is not inlined: it must read what add has written.
 */
#define DEFINE_KERNEL(name, real)                                                                  \
    static void add_##name(const struct stream_part *part)                                         \
    {                                                                                              \
        const real *restrict a = part->arrays[A], *restrict b = part->arrays[B];                   \
        real *restrict out = part->arrays[OUT];                                                    \
        for (size_t i = 0; i < part->padded; i++)                                                  \
            out[i] = a[i] + b[i];                                                                  \
    }                                                                                              \
                                                                                                   \
    /* An infinity or a NaN is right where the arithmetic of the type says so. */                  \
    static void verify_each_##name(const struct addition *addition,                                \
                                   const struct stream_part *part, struct verify_result *result)   \
    {                                                                                              \
        const real *a = part->arrays[A], *b = part->arrays[B], *out = part->arrays[OUT];           \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            double exact = (double)a[i] + (double)b[i], rounded = (double)(real)exact;             \
            double found = (double)out[i], error = fabs(found - exact);                            \
            if (!isfinite(rounded)) {                                                              \
                result->wrong += !(rounded == found || (isnan(rounded) && isnan(found)));          \
                continue;                                                                          \
            }                                                                                      \
            result->wrong += !(error <= addition->type->roundoff * fabs(exact));                   \
            result->max_abs_error = fmax(result->max_abs_error, error);                            \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static __attribute__((noinline)) void verify_##name(const struct addition *addition,           \
                                                        const struct stream_part *part,            \
                                                        struct verify_result *result)              \
    {                                                                                              \
        const real *restrict a = part->arrays[A], *restrict b = part->arrays[B];                   \
        const real *restrict out = part->arrays[OUT];                                              \
        const double roundoff = addition->type->roundoff;                                          \
        struct verify_lanes lanes = {0};                                                           \
        double sums[VERIFY_LANES] = {0};                                                           \
        for (size_t i = 0; i < part->padded; i += VERIFY_LANES) {                                  \
            for (size_t lane = 0; lane < VERIFY_LANES; lane++) {                                   \
                double exact = (double)a[i + lane] + (double)b[i + lane];                          \
                double found = (double)out[i + lane];                                              \
                verify_lane(&lanes, lane, fabs(found - exact), roundoff *fabs(exact));             \
                sums[lane] += found;                                                               \
            }                                                                                      \
        }                                                                                          \
        for (size_t lane = 0; lane < VERIFY_LANES; lane++)                                         \
            result->sum += sums[lane];                                                             \
        if (!isfinite(result->sum) || !verify_all(&lanes, &result->max_abs_error))                 \
            verify_each_##name(addition, part, result);                                            \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void add_work(const void *context, const struct stream_part *part)
{
    const struct addition *addition = context;
    if (addition->type->bytes == sizeof(double)) {
        add_f64(part);
        verify_f64(addition, part, part->result);
    } else {
        add_f32(part);
        verify_f32(addition, part, part->result);
    }
}

static int add_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct addition *addition = context;
    bool f64 = addition->type->bytes == sizeof(double);
    struct device_chunk c = *chunk;
    void *add[] = {&c.arrays[A], &c.arrays[B], &c.arrays[OUT], &c.count};
    void *verify[] = {&c.arrays[A], &c.arrays[B], &c.arrays[OUT], &c.count, &c.results};
    if (device_launch_vectors(job, chunk, f64 ? KERNEL_add_f64 : KERNEL_add_f32, add) < 0)
        return -1;
    return device_launch_parts(job, chunk, f64 ? KERNEL_verify_f64 : KERNEL_verify_f32,
                               PART_THREADS, verify);
}

static int add_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct addition *addition = context;
    const struct verify_result *result = part->result;
    addition->sum += result->sum;
    addition->max_abs_error = fmax(addition->max_abs_error, result->max_abs_error);
    if (!result->wrong)
        return 0;
    job_fail(job,
             "verification failed: a sum among elements %" PRIu64 " to %" PRIu64
             " is wrong: the device cannot be trusted",
             part->first, part->first + part->count - 1);
    return -1;
}

static const struct workload_param vector_add_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "b", .type = PARAM_FILE_IN, .help = "Input: another of the same size."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the sums go."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a", "b"};

static int vector_add_check(struct job *job)
{
    uint64_t count;
    return array_count(job, input_names, 2, &count);
}

static enum job_status vector_add_with(struct job *job, stream_runner *run)
{
    uint64_t count, seed = job_uint(job, "seed");
    if (array_count(job, input_names, 2, &count) < 0)
        return JOB_FAILED;
    struct addition addition = {.type = array_type(job)};
    const uint64_t keys[] = {generate_key(seed, 0), generate_key(seed, 1)};
    const struct stream stream = {
        .names = {"a", "b", "out"},
        .input_count = 2,
        .array_count = 3,
        .type = addition.type,
        .result_bytes = sizeof(struct verify_result),
        .context = &addition,
        .keys = keys,
        /* A sum of two, below 2, is exact in the type. */
        .bits = addition.type->mantissa - 2,
        .phases = {{add_work, add_fold, add_launch}},
    };
    if (run(job, &stream, count) < 0)
        return job_end(job);
    char sum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s sum=%s max_abs_error=%s", count, addition.type->name,
               real_text(sum, addition.sum), real_text(error, addition.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status vector_add_run(struct job *job)
{
    return vector_add_with(job, stream_run);
}

static enum job_status vector_add_cuda(struct job *job)
{
    return vector_add_with(job, device_stream_run);
}

const struct workload workload_vector_add = {
    .info = {.name = "VECTOR_ADD",
             .summary = "Adds two arrays, element by element, and verifies every sum.",
             .params = vector_add_params,
             .param_count = sizeof(vector_add_params) / sizeof(vector_add_params[0])},
    .check = vector_add_check,
    .cpu = vector_add_run,
    .cuda = vector_add_cuda,
};
