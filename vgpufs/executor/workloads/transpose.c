/*
 * Turns a matrix's rows into columns, in tiles that stay in the cache. Only bits are moved, and
 * every one of them is verified.
 */
#include "executor/array.h"
#include "executor/cuda/device_array.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define TILE ((uint64_t)32)
/* Elements that one call of parallel_run moves or verifies: some 10 ms. */
#define CHUNK_ELEMENTS ((uint64_t)1 << 22)
/* Columns of a chunk, at most. */
#define CHUNK_COLUMNS ((uint64_t)1 << 15)
#define ADVICE        "take a smaller m= or n="

_Static_assert(TILE == TRANSPOSE_SIDE, "the limits of m= and n= are those of a grid of such tiles");

struct transpose {
    struct job *job;
    const struct element_type *type;
    uint64_t m, n;
    void *in, *out;
    uint64_t first_row, end_row; /* of the chunk, in the input */
    uint64_t first_column, end_column;
    bool *wrong;                                /* of each stripe of TILE rows of the chunk */
    atomic_uint_fast64_t moved_ns, verified_ns; /* of all threads together */
    double checksum;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* A stripe is TILE rows of the input. verify goes the other way round, element by element. */
#define DEFINE_KERNEL(name, bits)                                                                  \
    static void move_##name(const struct transpose *transpose, uint64_t row, uint64_t end)         \
    {                                                                                              \
        const bits *restrict in = transpose->in;                                                   \
        bits *restrict out = transpose->out;                                                       \
        const uint64_t m = transpose->m, n = transpose->n;                                         \
        for (uint64_t column = transpose->first_column; column < transpose->end_column;            \
             column += TILE)                                                                       \
            for (uint64_t i = row; i < end; i++)                                                   \
                for (uint64_t j = column; j < least(transpose->end_column, column + TILE); j++)    \
                    out[j * m + i] = in[i * n + j];                                                \
    }                                                                                              \
                                                                                                   \
    static __attribute__((noinline)) bool verify_##name(const struct transpose *transpose,         \
                                                        uint64_t row, uint64_t end)                \
    {                                                                                              \
        const bits *in = transpose->in, *out = transpose->out;                                     \
        const uint64_t m = transpose->m, n = transpose->n;                                         \
        bits different = 0;                                                                        \
        for (uint64_t j = transpose->first_column; j < transpose->end_column; j++)                 \
            for (uint64_t i = row; i < end; i++)                                                   \
                different |= out[j * m + i] ^ in[i * n + j];                                       \
        return different == 0;                                                                     \
    }

DEFINE_KERNEL(f32, uint32_t)
DEFINE_KERNEL(f64, uint64_t)

static void transpose_stripe(void *context, size_t index)
{
    struct transpose *transpose = context;
    uint64_t row = transpose->first_row + index * TILE;
    uint64_t end = least(row + TILE, transpose->end_row);
    const bool f64 = transpose->type->bytes == sizeof(uint64_t);
    uint64_t start = job_clock_ns();
    if (f64)
        move_f64(transpose, row, end);
    else
        move_f32(transpose, row, end);
    uint64_t moved = job_clock_ns();
    bool right = f64 ? verify_f64(transpose, row, end) : verify_f32(transpose, row, end);
    transpose->wrong[index] = !right;
    atomic_fetch_add(&transpose->moved_ns, moved - start);
    atomic_fetch_add(&transpose->verified_ns, job_clock_ns() - moved);
}

/* transpose_chunk: false if an element did not arrive. */
static bool transpose_chunk(struct transpose *transpose)
{
    uint64_t start = job_clock_ns(), rows = transpose->end_row - transpose->first_row;
    size_t stripes = (size_t)((rows + TILE - 1) / TILE);
    atomic_store(&transpose->moved_ns, 0);
    atomic_store(&transpose->verified_ns, 0);
    parallel_run(stripes, transpose_stripe, transpose);
    bool wrong = false;
    for (size_t i = 0; i < stripes; i++)
        wrong = wrong || transpose->wrong[i];
    const struct job_shares shares = {.computed = atomic_load(&transpose->moved_ns),
                                      .verified = atomic_load(&transpose->verified_ns)};
    job_count_times(transpose->job, job_clock_ns() - start, &shares);
    return !wrong;
}

/* transpose_chunks: -1 and the job has failed or should stop. Progress goes from `from` to `to`. */
static int transpose_chunks(struct transpose *transpose, double from, double to)
{
    uint64_t columns = least(transpose->n, CHUNK_COLUMNS);
    uint64_t rows = (CHUNK_ELEMENTS / columns + TILE - 1) / TILE * TILE;
    for (uint64_t row = 0; row < transpose->m; row += rows) {
        transpose->first_row = row;
        transpose->end_row = least(row + rows, transpose->m);
        double done = (double)row / (double)transpose->m;
        for (uint64_t column = 0; column < transpose->n; column += columns) {
            transpose->first_column = column;
            transpose->end_column = least(column + columns, transpose->n);
            if (job_step(transpose->job, from + (to - from) * done) < 0)
                return -1;
            if (transpose_chunk(transpose))
                continue;
            job_fail(transpose->job,
                     "verification failed: an element of the rows %" PRIu64 " to %" PRIu64
                     " did not arrive: the device cannot be trusted",
                     row, transpose->end_row - 1);
            return -1;
        }
    }
    return 0;
}

static const struct workload_param transpose_params[] = {
    {.name = "a",
     .type = PARAM_FILE_IN,
     .help = "Input: m rows of n numbers, row after row, little endian."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where n rows of m numbers go."},
    {.name = "m",
     .type = PARAM_UINT,
     .min = 1,
     .max = 1048576,
     .default_value = "1024",
     .help = "Rows of a."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = 1048576,
     .default_value = "1024",
     .help = "Columns of a."},
    PARAM_SEED,
    PARAM_DTYPE,
};

static void transpose_describe(struct transpose *transpose, struct job *job)
{
    *transpose = (struct transpose){
        .job = job, .type = array_type(job), .m = job_uint(job, "m"), .n = job_uint(job, "n")};
}

static int transpose_check(struct job *job)
{
    struct transpose transpose;
    transpose_describe(&transpose, job);
    uint64_t bytes = transpose.m * transpose.n * transpose.type->bytes, found;
    if (job_given(job, "a")) {
        if (job_file_size(job, "a", &found) < 0)
            return -1;
        if (found != bytes) {
            job_fail(job,
                     "a= has %" PRIu64 " bytes; m=%" PRIu64 " times n=%" PRIu64
                     " of %s are %" PRIu64,
                     found, transpose.m, transpose.n, transpose.type->name, bytes);
            return -1;
        }
    }
    return array_check_memory(job, 2 * bytes, ADVICE);
}

static uint64_t input_key(const struct job *job)
{
    return generate_key(job_uint(job, "seed"), 0);
}

/* made_up_bits: of numbers whose checksum is exact. */
static unsigned made_up_bits(const struct transpose *transpose)
{
    return array_sum_bits(transpose->type, transpose->m * transpose->n * 7);
}

static int transpose_on_cpu(struct transpose *transpose)
{
    struct job *job = transpose->job;
    uint64_t count = transpose->m * transpose->n, bytes = count * transpose->type->bytes;
    struct array_span span = {transpose->type, NULL, count, 0, 0.3};
    transpose->in = array_allocate(job, bytes, ADVICE);
    transpose->out = array_allocate(job, bytes, ADVICE);
    transpose->wrong = array_allocate(job, transpose->m, ADVICE);
    if (!transpose->in || !transpose->out || !transpose->wrong)
        return -1;
    span.data = transpose->in;
    if (array_load(job, "a", &span, input_key(job), made_up_bits(transpose)) < 0 ||
        transpose_chunks(transpose, 0.3, 0.7) < 0)
        return -1;
    span = (struct array_span){transpose->type, transpose->out, count, 0.7, 1};
    return array_checksum(job, &span, &transpose->checksum) < 0 ? -1
                                                                : array_store(job, "out", &span);
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* device_transpose takes some 5 ms of an H100 for as much as a job may have. */
static int device_transpose(struct transpose *transpose, CUdeviceptr in, CUdeviceptr out,
                            CUdeviceptr wrong)
{
    struct job *job = transpose->job;
    struct device_lane *lane = &device.lanes[0];
    const bool f64 = transpose->type->bytes == sizeof(double);
    unsigned across = (unsigned)((transpose->n + TILE - 1) / TILE);
    unsigned down = (unsigned)((transpose->m + TILE - 1) / TILE), found;
    uint64_t bytes = sizeof(found);
    void *clear[] = {&wrong, &bytes};
    void *arguments[] = {&in, &out, &transpose->m, &transpose->n, &wrong};
    if (job_step(job, 0.3) < 0 || device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch_array(job, lane, KERNEL_clear, 1, clear) < 0 ||
        device_launch(job, lane, f64 ? KERNEL_transpose_f64 : KERNEL_transpose_f32, across, down,
                      TRANSPOSE_THREADS, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0 ||
        device_launch(job, lane, f64 ? KERNEL_verify_transpose_f64 : KERNEL_verify_transpose_f32,
                      across, down, TRANSPOSE_THREADS, arguments) < 0 ||
        device_mark(job, lane, MARK_VERIFIED) < 0 ||
        device_copy_out(job, lane, lane->staging, wrong, sizeof(found)) < 0 ||
        device_mark(job, lane, MARK_STORED) < 0 || device_wait(job, lane) < 0)
        return -1;
    memcpy(&found, lane->staging, sizeof(found));
    if (found == 0)
        return 0;
    job_fail(job, "verification failed: an element did not arrive: the device cannot be trusted");
    return -1;
}

static int transpose_on_device(struct transpose *transpose)
{
    struct job *job = transpose->job;
    uint64_t count = transpose->m * transpose->n;
    const size_t bytes = (size_t)(count * transpose->type->bytes);
    const struct array_span in = {transpose->type, NULL, count, 0, 0.3};
    const struct array_span out = {transpose->type, NULL, count, 0.7, 1};
    CUdeviceptr from, to, results;
    if (device_allocate(job, bytes, &from) < 0 || device_allocate(job, bytes, &to) < 0 ||
        device_allocate(job, DEVICE_CHECKSUM_BYTES(count), &results) < 0 ||
        device_array_load(job, "a", &in, from, input_key(job), made_up_bits(transpose)) < 0 ||
        device_transpose(transpose, from, to, results) < 0 ||
        device_array_checksum(job, &out, to, results, &transpose->checksum) < 0)
        return -1;
    return device_array_store(job, "out", &out, to);
}

static enum job_status transpose_with(struct job *job, int (*run)(struct transpose *transpose))
{
    struct transpose transpose;
    transpose_describe(&transpose, job);
    int result = run(&transpose);
    free(transpose.in);
    free(transpose.out);
    free(transpose.wrong);
    if (result < 0)
        return job_end(job);
    char checksum[REAL_TEXT_SIZE];
    job_printf(job, "m=%" PRIu64 " n=%" PRIu64 " dtype=%s checksum=%s", transpose.m, transpose.n,
               transpose.type->name, real_text(checksum, transpose.checksum));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status transpose_run(struct job *job)
{
    return transpose_with(job, transpose_on_cpu);
}

static enum job_status transpose_cuda(struct job *job)
{
    return transpose_with(job, transpose_on_device);
}

const struct workload workload_transpose = {
    .info = {.name = "TRANSPOSE",
             .summary = "Turns a matrix's rows into columns, and verifies every element.",
             .params = transpose_params,
             .param_count = sizeof(transpose_params) / sizeof(transpose_params[0])},
    .check = transpose_check,
    .cpu = transpose_run,
    .cuda = transpose_cuda,
};
