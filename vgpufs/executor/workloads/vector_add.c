/*
 * c = a + b, element by element, in chunks: constant memory whatever the size,
 * and a job that is cancelled stops after its chunk.
 */
#include "executor/generate.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of one array. Three of them stay in the second-level cache while they are added and verified. */
#define CHUNK_BYTES (256 * 1024)
/* Sums are kept in lanes: they vectorise, and the digits do not depend on the vectors' width. */
#define LANES 64

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data files are little endian");

struct totals {
    double sum, max_abs_error;
};

struct kernel {
    const char *dtype;
    size_t element_bytes;
    void (*fill)(void *to, uint64_t key, uint64_t first, size_t count);
    void (*add)(const void *a, const void *b, void *c, size_t count);
    /* verify holds every c against the sum in float64; false if one is wrong. */
    bool (*verify)(const void *a, const void *b, const void *c, size_t count,
                   struct totals *totals);
};

struct lanes {
    double sum[LANES];
    double error_sum[LANES]; /* not finite if an error was not */
    double worst[LANES];     /* error */
    double excess[LANES];    /* of an error over its limit, the largest */
};

/* totals_add adds what the lanes of a chunk found; false if single elements must be looked at. */
static bool totals_add(struct totals *totals, const struct lanes *lanes)
{
    double sum = 0, error_sum = 0, worst = 0, excess = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        sum += lanes->sum[lane];
        error_sum += lanes->error_sum[lane];
        worst = fmax(worst, lanes->worst[lane]);
        excess = fmax(excess, lanes->excess[lane]);
    }
    totals->sum += sum;
    if (!isfinite(sum) || !isfinite(error_sum) || excess > 0)
        return false;
    totals->max_abs_error = fmax(totals->max_abs_error, worst);
    return true;
}

static double reference_f32(double sum)
{
    return (double)(float)sum;
}

static double reference_f64(double sum)
{
    return sum;
}

/*
 * One kernel of each type. `bits`: made-up numbers are multiples of 2^-bits, so that a sum of two
 * is exact in that type. `roundoff` is half the type's epsilon: more than that, relative to the sum
 * in float64, and the element is wrong. Counts are multiples of LANES. verify is not inlined: it
 * must read what add has written.
 */
#define DEFINE_KERNEL(name, type, bits, roundoff)                                                  \
    static void fill_##name(void *to, uint64_t key, uint64_t first, size_t count)                  \
    {                                                                                              \
        type *restrict x = to;                                                                     \
        for (size_t i = 0; i < count; i++)                                                         \
            x[i] = (type)generate_real(key, first + i, bits);                                      \
    }                                                                                              \
                                                                                                   \
    static void add_##name(const void *a, const void *b, void *c, size_t count)                    \
    {                                                                                              \
        const type *restrict x = a, *restrict y = b;                                               \
        type *restrict z = c;                                                                      \
        for (size_t i = 0; i < count; i++)                                                         \
            z[i] = x[i] + y[i];                                                                    \
    }                                                                                              \
                                                                                                   \
    /* An infinity or a NaN is right where the arithmetic of the type says so. */                  \
    static bool verify_each_##name(const type *x, const type *y, const type *z, size_t count,      \
                                   struct totals *totals)                                          \
    {                                                                                              \
        for (size_t i = 0; i < count; i++) {                                                       \
            double sum = (double)x[i] + (double)y[i], rounded = reference_##name(sum);             \
            double found = (double)z[i], error = fabs(found - sum);                                \
            bool right = isfinite(rounded) ? error <= (roundoff)*fabs(sum)                         \
                                           : rounded == found || (isnan(rounded) && isnan(found)); \
            if (!right)                                                                            \
                return false;                                                                      \
            if (isfinite(rounded))                                                                 \
                totals->max_abs_error = fmax(totals->max_abs_error, error);                        \
        }                                                                                          \
        return true;                                                                               \
    }                                                                                              \
                                                                                                   \
    static __attribute__((noinline)) bool verify_##name(                                           \
        const void *a, const void *b, const void *c, size_t count, struct totals *totals)          \
    {                                                                                              \
        const type *restrict x = a, *restrict y = b, *restrict z = c;                              \
        struct lanes lanes = {0};                                                                  \
        for (size_t i = 0; i < count; i += LANES) {                                                \
            for (size_t lane = 0; lane < LANES; lane++) {                                          \
                double found = (double)z[i + lane];                                                \
                double sum = (double)x[i + lane] + (double)y[i + lane];                            \
                double error = fabs(found - sum), over = error - (roundoff)*fabs(sum);             \
                double worst = lanes.worst[lane], excess = lanes.excess[lane];                     \
                lanes.sum[lane] += found;                                                          \
                lanes.error_sum[lane] += error;                                                    \
                lanes.worst[lane] = error > worst ? error : worst;                                 \
                lanes.excess[lane] = over > excess ? over : excess;                                \
            }                                                                                      \
        }                                                                                          \
        return totals_add(totals, &lanes) || verify_each_##name(a, b, c, count, totals);           \
    }

DEFINE_KERNEL(f32, float, 22, 0x1p-24)
DEFINE_KERNEL(f64, double, 51, 0x1p-53)

static const struct kernel kernels[] = {
    {"f32", sizeof(float), fill_f32, add_f32, verify_f32},
    {"f64", sizeof(double), fill_f64, add_f64, verify_f64},
};

static const struct kernel *find_kernel(const char *dtype)
{
    size_t i = 0;
    while (strcmp(kernels[i].dtype, dtype) != 0) /* the table of parameters allows no other */
        i++;
    return &kernels[i];
}

static const struct workload_param vector_add_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "b", .type = PARAM_FILE_IN, .help = "Input: another of the same size."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the sums go."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = (uint64_t)1 << 34,
     .default_value = "1048576",
     .help = "How many elements; with files, as many as they hold."},
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

/* count_elements finds n: from the files, or from n= without them. */
static int count_elements(struct job *job, uint64_t *count)
{
    *count = job_uint(job, "n");
    if (!job_given(job, "a"))
        return 0;
    const char *dtype = job_text(job, "dtype");
    size_t element_bytes = find_kernel(dtype)->element_bytes;
    uint64_t a_bytes, b_bytes;
    if (job_file_size(job, "a", &a_bytes) < 0 || job_file_size(job, "b", &b_bytes) < 0)
        return -1;
    if (a_bytes != b_bytes)
        job_fail(job, "a= has %" PRIu64 " bytes and b= %" PRIu64 ": they must be of one size",
                 a_bytes, b_bytes);
    else if (a_bytes % element_bytes)
        job_fail(job, "a= and b= have %" PRIu64 " bytes: no whole number of %s elements", a_bytes,
                 dtype);
    else if (job_given(job, "n") && *count != a_bytes / element_bytes)
        job_fail(job, "n=%" PRIu64 ", but a= and b= hold %" PRIu64 " %s elements", *count,
                 a_bytes / element_bytes, dtype);
    *count = a_bytes / element_bytes;
    return job->error[0] ? -1 : 0;
}

static int vector_add_check(struct job *job)
{
    if (job_given(job, "a") != job_given(job, "b")) {
        job_fail(job, "a= and b= go together: give both, or neither for made-up input");
        return -1;
    }
    uint64_t count;
    return count_elements(job, &count);
}

struct chunk {
    uint64_t first;
    size_t count, padded;
    char *a, *b, *c;
};

static int load(struct job *job, const struct kernel *kernel, const struct chunk *chunk)
{
    size_t bytes = chunk->count * kernel->element_bytes;
    uint64_t offset = chunk->first * kernel->element_bytes, start = job_clock_ns();
    if (job_given(job, "a"))
        return job_read(job, "a", chunk->a, bytes, offset) < 0
                   ? -1
                   : job_read(job, "b", chunk->b, bytes, offset);
    uint64_t seed = job_uint(job, "seed");
    kernel->fill(chunk->a, generate_key(seed, 0), chunk->first, chunk->count);
    kernel->fill(chunk->b, generate_key(seed, 1), chunk->first, chunk->count);
    job->compute_ns += job_clock_ns() - start;
    return 0;
}

/* run_chunk: -1 and the job has failed or should stop. */
static int run_chunk(struct job *job, const struct kernel *kernel, const struct chunk *chunk,
                     struct totals *totals)
{
    if (load(job, kernel, chunk) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    size_t used = chunk->count * kernel->element_bytes;
    size_t rest = (chunk->padded - chunk->count) * kernel->element_bytes;
    memset(chunk->a + used, 0, rest);
    memset(chunk->b + used, 0, rest);
    kernel->add(chunk->a, chunk->b, chunk->c, chunk->padded);
    bool right = kernel->verify(chunk->a, chunk->b, chunk->c, chunk->padded, totals);
    job->compute_ns += job_clock_ns() - start;
    if (!right) {
        job_fail(job,
                 "verification failed: a sum among elements %" PRIu64 " to %" PRIu64
                 " is wrong: the device cannot be trusted",
                 chunk->first, chunk->first + chunk->count - 1);
        return -1;
    }
    if (job_given(job, "out"))
        return job_write(job, "out", chunk->c, used, chunk->first * kernel->element_bytes);
    return 0;
}

static int run_chunks(struct job *job, const struct kernel *kernel, uint64_t count, char *memory,
                      struct totals *totals)
{
    const size_t most = CHUNK_BYTES / kernel->element_bytes;
    for (uint64_t first = 0; first < count; first += most) {
        size_t here = count - first < most ? (size_t)(count - first) : most;
        struct chunk chunk = {.first = first,
                              .count = here,
                              .padded = (here + LANES - 1) / LANES * LANES,
                              .a = memory,
                              .b = memory + CHUNK_BYTES,
                              .c = memory + (size_t)2 * CHUNK_BYTES};
        if (job_step(job, (double)first / (double)count) < 0 ||
            run_chunk(job, kernel, &chunk, totals) < 0)
            return -1;
    }
    return 0;
}

static enum job_status vector_add_run(struct job *job)
{
    const struct kernel *kernel = find_kernel(job_text(job, "dtype"));
    uint64_t count;
    if (count_elements(job, &count) < 0)
        return JOB_FAILED;
    if (job_given(job, "out") && job_reserve(job, "out", count * kernel->element_bytes) < 0)
        return job_end(job);
    char *memory = aligned_alloc(64, (size_t)3 * CHUNK_BYTES);
    if (!memory)
        return job_fail(job, "out of memory");
    struct totals totals = {0};
    int result = run_chunks(job, kernel, count, memory, &totals);
    free(memory);
    if (result < 0)
        return job_end(job);
    char sum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s sum=%s max_abs_error=%s", count, kernel->dtype,
               real_text(sum, totals.sum), real_text(error, totals.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

const struct workload workload_vector_add = {
    .info = {.name = "VECTOR_ADD",
             .summary = "Adds two arrays, element by element, and verifies every sum.",
             .params = vector_add_params,
             .param_count = sizeof(vector_add_params) / sizeof(vector_add_params[0])},
    .check = vector_add_check,
    .cpu = vector_add_run,
};
