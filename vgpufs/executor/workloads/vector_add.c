/*
 * c = a + b, element by element, in chunks: constant memory whatever the size,
 * and a job that is cancelled stops after its chunk.
 */
#include "executor/cuda/device.h"
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
/* Digits behind the point of made-up numbers: a sum of two, below 2, is exact in the type. */
#define F32_BITS 22
#define F64_BITS 51

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data files are little endian");

struct totals {
    double sum, max_abs_error;
};

struct kernel {
    const char *dtype;
    size_t element_bytes;
    unsigned bits; /* of made-up numbers */
    enum kernel_name device_fill, device_add, device_verify;
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

DEFINE_KERNEL(f32, float, F32_BITS, 0x1p-24)
DEFINE_KERNEL(f64, double, F64_BITS, 0x1p-53)

static const struct kernel kernels[] = {
    {"f32", sizeof(float), F32_BITS, KERNEL_fill_f32, KERNEL_add_f32, KERNEL_verify_f32, fill_f32,
     add_f32, verify_f32},
    {"f64", sizeof(double), F64_BITS, KERNEL_fill_f64, KERNEL_add_f64, KERNEL_verify_f64, fill_f64,
     add_f64, verify_f64},
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

static int fail_verification(struct job *job, uint64_t first, uint64_t count)
{
    job_fail(job,
             "verification failed: a sum among elements %" PRIu64 " to %" PRIu64
             " is wrong: the device cannot be trusted",
             first, first + count - 1);
    return -1;
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
    if (!right)
        return fail_verification(job, chunk->first, chunk->count);
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

static enum job_status print_totals(struct job *job, const struct kernel *kernel, uint64_t count,
                                    const struct totals *totals)
{
    char sum[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s sum=%s max_abs_error=%s", count, kernel->dtype,
               real_text(sum, totals->sum), real_text(error, totals->max_abs_error));
    job_print_times(job);
    return JOB_DONE;
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
    return result < 0 ? job_end(job) : print_totals(job, kernel, count, &totals);
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* Of one array. Made-up ones stay on the device: a chunk then keeps all multiprocessors busy. */
#define DEVICE_CHUNK_BYTES   ((size_t)4 << 20)
#define DEVICE_MADE_UP_BYTES ((size_t)64 << 20)
#define DEVICE_RESULTS_BYTES (DEVICE_MADE_UP_BYTES / VERIFY_BYTES * sizeof(struct verify_result))

_Static_assert(VERIFY_BYTES == CHUNK_BYTES && VERIFY_THREADS == LANES,
               "the device adds up in the order of the cpu");
_Static_assert(3 * DEVICE_CHUNK_BYTES + DEVICE_RESULTS_BYTES <= DEVICE_STAGING_BYTES,
               "a lane's staging holds a chunk");

/* What a lane is working on. */
struct device_chunk {
    struct device_lane *lane;
    CUdeviceptr a, b, c, results;
    uint64_t first, count; /* 0: nothing */
};

static size_t device_chunk_bytes(struct job *job)
{
    return job_given(job, "a") || job_given(job, "out") ? DEVICE_CHUNK_BYTES : DEVICE_MADE_UP_BYTES;
}

/* host_array is where array 0, 1 or 2 of a lane's chunk lies on the host; the results are behind.
 */
static char *host_array(const struct device_chunk *chunk, int number)
{
    return chunk->lane->staging + (size_t)number * DEVICE_CHUNK_BYTES;
}

static int device_allocate_chunk(struct job *job, struct device_chunk *chunk, size_t array_bytes)
{
    size_t aligned = (array_bytes + 255) / 256 * 256;
    if (device_allocate(job, 3 * aligned + DEVICE_RESULTS_BYTES, &chunk->a) < 0)
        return -1;
    chunk->b = chunk->a + aligned;
    chunk->c = chunk->b + aligned;
    chunk->results = chunk->c + aligned;
    return 0;
}

static int device_fill_chunk(struct job *job, const struct kernel *kernel,
                             struct device_chunk *chunk)
{
    uint64_t keys[] = {generate_key(job_uint(job, "seed"), 0),
                       generate_key(job_uint(job, "seed"), 1)};
    unsigned bits = kernel->bits;
    void *a[] = {&chunk->a, &keys[0], &chunk->first, &chunk->count, &bits};
    void *b[] = {&chunk->b, &keys[1], &chunk->first, &chunk->count, &bits};
    uint64_t vectors = chunk->count * kernel->element_bytes / 16;
    if (device_mark(job, chunk->lane, MARK_BEGIN) < 0 ||
        device_launch_array(job, chunk->lane, kernel->device_fill, vectors, a) < 0)
        return -1;
    return device_launch_array(job, chunk->lane, kernel->device_fill, vectors, b);
}

static int device_load_chunk(struct job *job, const struct kernel *kernel,
                             struct device_chunk *chunk)
{
    size_t bytes = (size_t)chunk->count * kernel->element_bytes;
    uint64_t offset = chunk->first * kernel->element_bytes;
    if (job_read(job, "a", host_array(chunk, 0), bytes, offset) < 0 ||
        job_read(job, "b", host_array(chunk, 1), bytes, offset) < 0 ||
        device_mark(job, chunk->lane, MARK_BEGIN) < 0 ||
        device_copy_in(job, chunk->lane, chunk->a, host_array(chunk, 0), bytes) < 0 ||
        device_copy_in(job, chunk->lane, chunk->b, host_array(chunk, 1), bytes) < 0)
        return -1;
    return device_mark(job, chunk->lane, MARK_LOADED);
}

static unsigned verify_blocks(const struct kernel *kernel, const struct device_chunk *chunk)
{
    return (unsigned)((chunk->count * kernel->element_bytes + VERIFY_BYTES - 1) / VERIFY_BYTES);
}

/* device_begin_chunk gives its lane all that is to be done with a chunk. */
static int device_begin_chunk(struct job *job, const struct kernel *kernel,
                              struct device_chunk *chunk)
{
    struct device_lane *lane = chunk->lane;
    void *add[] = {&chunk->a, &chunk->b, &chunk->c, &chunk->count};
    void *verify[] = {&chunk->a, &chunk->b, &chunk->c, &chunk->count, &chunk->results};
    unsigned blocks = verify_blocks(kernel, chunk);
    uint64_t vectors = chunk->count * kernel->element_bytes / 16;
    if ((job_given(job, "a") ? device_load_chunk(job, kernel, chunk)
                             : device_fill_chunk(job, kernel, chunk)) < 0 ||
        device_launch_array(job, lane, kernel->device_add, vectors, add) < 0 ||
        device_launch(job, lane, kernel->device_verify, blocks, 1, VERIFY_THREADS, verify) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0 ||
        device_copy_out(job, lane, host_array(chunk, 3), chunk->results,
                        blocks * sizeof(struct verify_result)) < 0)
        return -1;
    if (job_given(job, "out") && device_copy_out(job, lane, host_array(chunk, 2), chunk->c,
                                                 (size_t)chunk->count * kernel->element_bytes) < 0)
        return -1;
    return device_mark(job, lane, MARK_STORED);
}

/* device_end_chunk waits for the lane and takes what it has found. */
static int device_end_chunk(struct job *job, const struct kernel *kernel,
                            struct device_chunk *chunk, struct totals *totals)
{
    if (chunk->count == 0)
        return 0;
    if (device_wait(job, chunk->lane) < 0)
        return -1;
    const struct verify_result *results = (const void *)host_array(chunk, 3);
    for (unsigned i = 0; i < verify_blocks(kernel, chunk); i++) {
        if (results[i].wrong) {
            uint64_t piece = VERIFY_BYTES / kernel->element_bytes, skipped = i * piece;
            uint64_t rest = chunk->count - skipped;
            return fail_verification(job, chunk->first + skipped, rest < piece ? rest : piece);
        }
        totals->sum += results[i].sum;
        totals->max_abs_error = fmax(totals->max_abs_error, results[i].max_abs_error);
    }
    uint64_t count = chunk->count;
    chunk->count = 0;
    if (!job_given(job, "out"))
        return 0;
    return job_write(job, "out", host_array(chunk, 2), (size_t)count * kernel->element_bytes,
                     chunk->first * kernel->element_bytes);
}

/* device_run_chunks: while one lane computes, the host reads or writes the other's chunk. */
static int device_run_chunks(struct job *job, const struct kernel *kernel, uint64_t count,
                             struct totals *totals)
{
    const uint64_t most = device_chunk_bytes(job) / kernel->element_bytes;
    struct device_chunk chunks[DEVICE_LANES] = {{0}};
    unsigned turn = 0;
    for (unsigned i = 0; i < DEVICE_LANES && i * most < count; i++) {
        uint64_t largest = count < most ? count : most;
        chunks[i].lane = &device.lanes[i];
        if (device_allocate_chunk(job, &chunks[i], (size_t)largest * kernel->element_bytes) < 0)
            return -1;
    }
    for (uint64_t first = 0; first < count; first += most, turn = (turn + 1) % DEVICE_LANES) {
        struct device_chunk *chunk = &chunks[turn];
        if (job_step(job, (double)first / (double)count) < 0 ||
            device_end_chunk(job, kernel, chunk, totals) < 0)
            return -1;
        chunk->first = first;
        chunk->count = count - first < most ? count - first : most;
        if (device_begin_chunk(job, kernel, chunk) < 0)
            return -1;
    }
    /* The older of the two that are left is the one whose turn it is. */
    for (unsigned i = 0; i < DEVICE_LANES; i++)
        if (device_end_chunk(job, kernel, &chunks[(turn + i) % DEVICE_LANES], totals) < 0)
            return -1;
    return 0;
}

static enum job_status vector_add_cuda(struct job *job)
{
    const struct kernel *kernel = find_kernel(job_text(job, "dtype"));
    struct totals totals = {0};
    uint64_t count;
    if (count_elements(job, &count) < 0)
        return JOB_FAILED;
    if ((job_given(job, "out") && job_reserve(job, "out", count * kernel->element_bytes) < 0) ||
        device_run_chunks(job, kernel, count, &totals) < 0)
        return job_end(job);
    return print_totals(job, kernel, count, &totals);
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
