/*
 * Sorts an array by IEEE 754's totalOrder (2008, 5.10): negative NaNs, -infinity … -0, +0 …
 * infinity, positive NaNs. Numbers become unsigned keys of the same order, which are sorted by
 * eight bits after the other, from the lowest (LSD radix sort). Each pass counts and moves blocks,
 * which are the same whatever the number of processors.
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

#define DIGIT_VALUES 256
#define BLOCK        ((uint64_t)1 << 16) /* elements */
/* Blocks between two looks at the clock: some 20 ms on one processor. */
#define CHUNK_BLOCKS 64
#define ADVICE       "take a smaller n="

struct sort {
    struct job *job;
    const struct element_type *type;
    uint64_t count, blocks;
    void *from, *to;                   /* exchanged after each pass */
    uint64_t (*offsets)[DIGIT_VALUES]; /* of each block: counts, then places */
    uint64_t *checksums;               /* of each block */
    bool *sorted;                      /* of each block */
    unsigned shift;                    /* of the pass */
    uint64_t first_block;              /* of the chunk */
    double done, share;                /* progress, and what a step adds to it */
};

/* The checksum does not depend on the order: the sum of mixed bits. */
#define DEFINE_KERNEL(name, key, sign_shift)                                                       \
    static inline key to_key_##name(key bits)                                                      \
    {                                                                                              \
        key negative = (key)0 - (bits >> (sign_shift));                                            \
        return bits ^ (negative | (key)1 << (sign_shift));                                         \
    }                                                                                              \
                                                                                                   \
    static inline key from_key_##name(key bits)                                                    \
    {                                                                                              \
        key negative = (bits >> (sign_shift)) - (key)1;                                            \
        return bits ^ (negative | (key)1 << (sign_shift));                                         \
    }                                                                                              \
                                                                                                   \
    static uint64_t encode_##name(void *data, size_t count)                                        \
    {                                                                                              \
        key *keys = data;                                                                          \
        uint64_t checksum = 0;                                                                     \
        for (size_t i = 0; i < count; i++) {                                                       \
            checksum += generate_mix((uint64_t)keys[i] + 1);                                       \
            keys[i] = to_key_##name(keys[i]);                                                      \
        }                                                                                          \
        return checksum;                                                                           \
    }                                                                                              \
                                                                                                   \
    /* false if the keys, or the one before them, are out of order. */                             \
    static bool decode_##name(const void *data, size_t count, bool first, void *decoded,           \
                              uint64_t *checksum)                                                  \
    {                                                                                              \
        const key *keys = data;                                                                    \
        key *numbers = decoded, last = first ? 0 : keys[-1];                                       \
        bool sorted = true;                                                                        \
        for (size_t i = 0; i < count; i++) {                                                       \
            sorted = sorted && last <= keys[i];                                                    \
            last = keys[i];                                                                        \
            numbers[i] = from_key_##name(keys[i]);                                                 \
            *checksum += generate_mix((uint64_t)numbers[i] + 1);                                   \
        }                                                                                          \
        return sorted;                                                                             \
    }                                                                                              \
                                                                                                   \
    static void count_##name(const void *data, size_t count, unsigned shift, uint64_t *counts)     \
    {                                                                                              \
        const key *keys = data;                                                                    \
        for (size_t i = 0; i < count; i++)                                                         \
            counts[(keys[i] >> shift) % DIGIT_VALUES]++;                                           \
    }                                                                                              \
                                                                                                   \
    static void move_##name(const void *data, size_t count, unsigned shift, uint64_t *places,      \
                            void *target)                                                          \
    {                                                                                              \
        const key *keys = data;                                                                    \
        key *to = target;                                                                          \
        for (size_t i = 0; i < count; i++)                                                         \
            to[places[(keys[i] >> shift) % DIGIT_VALUES]++] = keys[i];                             \
    }

DEFINE_KERNEL(f32, uint32_t, 31)
DEFINE_KERNEL(f64, uint64_t, 63)

struct block {
    uint64_t number;
    void *data;
    size_t count;
};

static struct block block_at(const struct sort *sort, size_t index)
{
    uint64_t number = sort->first_block + index, left = sort->count - number * BLOCK;
    return (struct block){.number = number,
                          .data = (char *)sort->from + number * BLOCK * sort->type->bytes,
                          .count = (size_t)(left < BLOCK ? left : BLOCK)};
}

static void encode_block(void *context, size_t index)
{
    struct sort *sort = context;
    struct block block = block_at(sort, index);
    sort->checksums[block.number] = sort->type->bytes == sizeof(uint64_t)
                                        ? encode_f64(block.data, block.count)
                                        : encode_f32(block.data, block.count);
}

static void count_block(void *context, size_t index)
{
    struct sort *sort = context;
    struct block block = block_at(sort, index);
    uint64_t *counts = sort->offsets[block.number];
    memset(counts, 0, sizeof(sort->offsets[0]));
    if (sort->type->bytes == sizeof(uint64_t))
        count_f64(block.data, block.count, sort->shift, counts);
    else
        count_f32(block.data, block.count, sort->shift, counts);
}

static void move_block(void *context, size_t index)
{
    struct sort *sort = context;
    struct block block = block_at(sort, index);
    uint64_t *places = sort->offsets[block.number];
    if (sort->type->bytes == sizeof(uint64_t))
        move_f64(block.data, block.count, sort->shift, places, sort->to);
    else
        move_f32(block.data, block.count, sort->shift, places, sort->to);
}

static void decode_block(void *context, size_t index)
{
    struct sort *sort = context;
    struct block block = block_at(sort, index);
    void *to = (char *)sort->to + block.number * BLOCK * sort->type->bytes;
    uint64_t checksum = 0;
    sort->sorted[block.number] =
        sort->type->bytes == sizeof(uint64_t)
            ? decode_f64(block.data, block.count, block.number == 0, to, &checksum)
            : decode_f32(block.data, block.count, block.number == 0, to, &checksum);
    sort->checksums[block.number] = checksum;
}

/* sort_blocks lets all processors work on all blocks. -1 and the job should stop. */
static int sort_blocks(struct sort *sort, parallel_work *work)
{
    for (sort->first_block = 0; sort->first_block < sort->blocks;
         sort->first_block += CHUNK_BLOCKS) {
        uint64_t left = sort->blocks - sort->first_block;
        double part = (double)sort->first_block / (double)sort->blocks;
        if (job_step(sort->job, sort->done + sort->share * part) < 0)
            return -1;
        uint64_t start = job_clock_ns();
        parallel_run((size_t)(left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS), work, sort);
        sort->job->compute_ns += job_clock_ns() - start;
    }
    sort->done += sort->share;
    return 0;
}

static void exchange(struct sort *sort)
{
    void *from = sort->from;
    sort->from = sort->to;
    sort->to = from;
}

/* counts_to_places: of each digit and block, where its first key goes. */
static void counts_to_places(struct sort *sort)
{
    uint64_t place = 0;
    for (size_t digit = 0; digit < DIGIT_VALUES; digit++) {
        for (uint64_t block = 0; block < sort->blocks; block++) {
            uint64_t count = sort->offsets[block][digit];
            sort->offsets[block][digit] = place;
            place += count;
        }
    }
}

static int sort_pass(struct sort *sort)
{
    if (sort_blocks(sort, count_block) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    counts_to_places(sort);
    sort->job->compute_ns += job_clock_ns() - start;
    if (sort_blocks(sort, move_block) < 0)
        return -1;
    exchange(sort);
    return 0;
}

static uint64_t sort_checksum(const struct sort *sort)
{
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < sort->blocks; i++)
        checksum += sort->checksums[i];
    return checksum;
}

static void fail_verification(struct job *job)
{
    job_fail(job, "verification failed: the numbers are out of order, or not those that were "
                  "given: the device cannot be trusted");
}

/* sort_keys leaves the sorted numbers in sort->from. */
static int sort_keys(struct sort *sort, uint64_t *checksum)
{
    unsigned bits = (unsigned)sort->type->bytes * 8;
    sort->share = (0.9 - sort->done) / (2 + bits / 4);
    if (sort_blocks(sort, encode_block) < 0)
        return -1;
    *checksum = sort_checksum(sort);
    for (sort->shift = 0; sort->shift < bits; sort->shift += 8)
        if (sort_pass(sort) < 0)
            return -1;
    if (sort_blocks(sort, decode_block) < 0)
        return -1;
    exchange(sort);
    bool right = sort_checksum(sort) == *checksum;
    for (uint64_t i = 0; i < sort->blocks; i++)
        right = right && sort->sorted[i];
    if (right)
        return 0;
    fail_verification(sort->job);
    return -1;
}

static const struct workload_param sort_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the sorted array goes."},
    PARAM_ELEMENTS((uint64_t)1 << 30),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a"};

static uint64_t sort_bytes(const struct sort *sort)
{
    uint64_t block =
        sizeof(sort->offsets[0]) + sizeof(sort->checksums[0]) + sizeof(sort->sorted[0]);
    return 2 * sort->count * sort->type->bytes + sort->blocks * block;
}

/* sort_describe: -1 after job_fail. */
static int sort_describe(struct sort *sort, struct job *job)
{
    *sort = (struct sort){.job = job, .type = array_type(job)};
    if (array_count(job, input_names, 1, &sort->count) < 0)
        return -1;
    if (sort->count > (uint64_t)1 << 40) { /* so that nothing below overflows */
        job_fail(job, "a= holds %" PRIu64 " elements, which is too many to sort", sort->count);
        return -1;
    }
    sort->blocks = (sort->count + BLOCK - 1) / BLOCK;
    return 0;
}

static int sort_check(struct job *job)
{
    struct sort sort;
    return sort_describe(&sort, job) < 0 ? -1 : array_check_memory(job, sort_bytes(&sort), ADVICE);
}

static int sort_allocate(struct sort *sort)
{
    uint64_t bytes = sort->count * sort->type->bytes;
    sort->from = array_allocate(sort->job, bytes, ADVICE);
    sort->to = array_allocate(sort->job, bytes, ADVICE);
    sort->offsets = array_allocate(sort->job, sort->blocks * sizeof(sort->offsets[0]), ADVICE);
    sort->checksums = array_allocate(sort->job, sort->blocks * sizeof(sort->checksums[0]), ADVICE);
    sort->sorted = array_allocate(sort->job, sort->blocks * sizeof(sort->sorted[0]), ADVICE);
    return sort->from && sort->to && sort->offsets && sort->checksums && sort->sorted ? 0 : -1;
}

static void sort_finish(struct sort *sort)
{
    free(sort->from);
    free(sort->to);
    free(sort->offsets);
    free(sort->checksums);
    free(sort->sorted);
}

static int sort_all(struct sort *sort, uint64_t *checksum)
{
    struct job *job = sort->job;
    struct array_span span = {.type = sort->type, .count = sort->count, .from = 0, .to = 0.1};
    uint64_t key = generate_key(job_uint(job, "seed"), 0);
    if (sort_allocate(sort) < 0)
        return -1;
    span.data = sort->from;
    sort->done = span.to;
    if (array_load(job, "a", &span, key, sort->type->mantissa) < 0 || sort_keys(sort, checksum) < 0)
        return -1;
    span = (struct array_span){sort->type, sort->from, sort->count, 0.9, 1};
    return array_store(job, "out", &span);
}

static enum job_status sort_print(const struct sort *sort, uint64_t checksum, double least,
                                  double largest)
{
    char first[REAL_TEXT_SIZE], last[REAL_TEXT_SIZE];
    job_printf(sort->job, "n=%" PRIu64 " dtype=%s first=%s last=%s checksum=%016" PRIx64,
               sort->count, sort->type->name, real_text(first, least), real_text(last, largest),
               checksum);
    job_print_times(sort->job);
    return JOB_DONE;
}

static enum job_status sort_run(struct job *job)
{
    struct sort sort;
    uint64_t checksum = 0;
    double least = NAN, largest = NAN;
    int result = sort_describe(&sort, job);
    if (result == 0)
        result = sort_all(&sort, &checksum);
    if (result == 0 && sort.count > 0) {
        least = array_get(sort.type, sort.from, 0);
        largest = array_get(sort.type, sort.from, sort.count - 1);
    }
    sort_finish(&sort);
    return result < 0 ? job_end(job) : sort_print(&sort, checksum, least, largest);
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* Blocks of a pass for each multiprocessor: as many as fit. */
#define DEVICE_BLOCKS 8

enum { BEFORE, AFTER };

struct device_sort {
    struct sort *sort;
    bool f64;
    CUdeviceptr keys, other, places, found; /* found: BEFORE and AFTER */
    uint64_t tiles, blocks;                 /* tiles of each block */
};

static int device_sort_allocate(struct device_sort *device_sort)
{
    struct job *job = device_sort->sort->job;
    uint64_t bytes = device_sort->sort->count * device_sort->sort->type->bytes;
    uint64_t tiles = (device_sort->sort->count + SORT_TILE - 1) / SORT_TILE;
    uint64_t most = (uint64_t)device.multiprocessors * DEVICE_BLOCKS;
    device_sort->tiles = (tiles + most - 1) / most;
    device_sort->blocks = (tiles + device_sort->tiles - 1) / device_sort->tiles;
    if (device_allocate(job, bytes, &device_sort->keys) < 0 ||
        device_allocate(job, bytes, &device_sort->other) < 0 ||
        device_allocate(job, device_sort->blocks * SORT_DIGITS * sizeof(uint64_t),
                        &device_sort->places) < 0)
        return -1;
    return device_allocate(job, 2 * sizeof(struct sort_found), &device_sort->found);
}

/* device_sort_load: the file or made-up numbers, as the cpu's. */
static int device_sort_load(const struct device_sort *device_sort)
{
    const struct sort *sort = device_sort->sort;
    struct job *job = sort->job;
    CUdeviceptr to = device_sort->keys;
    uint64_t bytes = sort->count * sort->type->bytes, first = 0, count = sort->count;
    struct device_span span = {to, bytes, 0, 0, 0.3};
    if (job_given(job, "a"))
        return device_read_file(job, "a", &span);
    uint64_t key = generate_key(job_uint(job, "seed"), 0);
    unsigned digits = sort->type->mantissa;
    void *fill[] = {&to, &key, &first, &count, &digits};
    return device_run_array(job, device_sort->f64 ? KERNEL_fill_f64 : KERNEL_fill_f32, bytes / 16,
                            fill);
}

static int device_sort_pass(struct device_sort *device_sort, unsigned shift)
{
    struct job *job = device_sort->sort->job;
    bool f64 = device_sort->f64;
    unsigned blocks = (unsigned)device_sort->blocks;
    void *count[] = {&device_sort->keys, &device_sort->sort->count, &device_sort->tiles, &shift,
                     &device_sort->places};
    void *offsets[] = {&device_sort->places, &device_sort->blocks};
    void *move[] = {&device_sort->keys,
                    &device_sort->other,
                    &device_sort->sort->count,
                    &device_sort->tiles,
                    &shift,
                    &device_sort->places};
    struct device_lane *lane = &device.lanes[0];
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch(job, lane, f64 ? KERNEL_sort_count_f64 : KERNEL_sort_count_f32, blocks, 1,
                      SORT_DIGITS, count) < 0 ||
        device_launch(job, lane, KERNEL_sort_offsets, 1, 1, SORT_DIGITS, offsets) < 0 ||
        device_launch(job, lane, f64 ? KERNEL_sort_move_f64 : KERNEL_sort_move_f32, blocks, 1,
                      SORT_DIGITS, move) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0 || device_wait(job, lane) < 0)
        return -1;
    CUdeviceptr from = device_sort->keys;
    device_sort->keys = device_sort->other;
    device_sort->other = from;
    return 0;
}

/* device_sort_keys leaves the sorted numbers in device_sort->other. */
static int device_sort_keys(struct device_sort *device_sort, struct sort_found found[2])
{
    struct job *job = device_sort->sort->job;
    uint64_t count = device_sort->sort->count, bytes = 2 * sizeof(found[0]);
    unsigned bits = (unsigned)device_sort->sort->type->bytes * 8;
    bool f64 = device_sort->f64;
    CUdeviceptr before = device_sort->found, after = before + sizeof(found[0]);
    void *clear[] = {&device_sort->found, &bytes};
    void *encode[] = {&device_sort->keys, &count, &before};
    if (device_run_array(job, KERNEL_clear, bytes / 16, clear) < 0 ||
        device_run_array(job, f64 ? KERNEL_sort_encode_f64 : KERNEL_sort_encode_f32, count,
                         encode) < 0)
        return -1;
    for (unsigned shift = 0; shift < bits; shift += 8)
        if (job_step(job, 0.3 + 0.4 * shift / bits) < 0 || device_sort_pass(device_sort, shift) < 0)
            return -1;
    void *decode[] = {&device_sort->keys, &device_sort->other, &count, &after};
    if (device_run_array(job, f64 ? KERNEL_sort_decode_f64 : KERNEL_sort_decode_f32, count,
                         decode) < 0)
        return -1;
    return device_fetch(job, found, device_sort->found, 2 * sizeof(found[0]));
}

/* device_sort_ends fetches the first and the last number. */
static int device_sort_ends(const struct device_sort *device_sort, double *least, double *largest)
{
    const struct sort *sort = device_sort->sort;
    char first[sizeof(double)] __attribute__((aligned(sizeof(double))));
    char last[sizeof(double)] __attribute__((aligned(sizeof(double))));
    CUdeviceptr end = device_sort->other + (sort->count - 1) * sort->type->bytes;
    if (device_fetch(sort->job, first, device_sort->other, sort->type->bytes) < 0 ||
        device_fetch(sort->job, last, end, sort->type->bytes) < 0)
        return -1;
    *least = array_get(sort->type, first, 0);
    *largest = array_get(sort->type, last, 0);
    return 0;
}

static int device_sort_all(struct device_sort *device_sort, uint64_t *checksum, double *least,
                           double *largest)
{
    struct job *job = device_sort->sort->job;
    struct sort_found found[2];
    uint64_t bytes = device_sort->sort->count * device_sort->sort->type->bytes;
    if (job_given(job, "out") && job_reserve(job, "out", bytes) < 0)
        return -1;
    if (bytes == 0)
        return 0;
    if (device_sort_allocate(device_sort) < 0 || device_sort_load(device_sort) < 0 ||
        device_sort_keys(device_sort, found) < 0 ||
        device_sort_ends(device_sort, least, largest) < 0)
        return -1;
    *checksum = found[BEFORE].checksum;
    if (found[AFTER].checksum != found[BEFORE].checksum || found[AFTER].unsorted) {
        fail_verification(job);
        return -1;
    }
    struct device_span span = {device_sort->other, bytes, 0, 0.7, 1};
    return job_given(job, "out") ? device_write_file(job, "out", &span) : 0;
}

static enum job_status sort_cuda(struct job *job)
{
    struct sort sort;
    uint64_t checksum = 0;
    double least = NAN, largest = NAN;
    if (sort_describe(&sort, job) < 0)
        return JOB_FAILED;
    struct device_sort device_sort = {.sort = &sort, .f64 = sort.type->bytes == sizeof(double)};
    if (device_sort_all(&device_sort, &checksum, &least, &largest) < 0)
        return job_end(job);
    return sort_print(&sort, checksum, least, largest);
}

const struct workload workload_sort = {
    .info = {.name = "SORT",
             .summary = "Sorts an array in ascending order, and verifies order and content.",
             .params = sort_params,
             .param_count = sizeof(sort_params) / sizeof(sort_params[0])},
    .check = sort_check,
    .cpu = sort_run,
    .cuda = sort_cuda,
};
