/*
 * Sorts an array by IEEE 754's totalOrder (2008, 5.10): negative NaNs, -infinity … -0, +0 …
 * infinity, positive NaNs. Numbers become unsigned keys of the same order, which are sorted by
 * eight bits after the other, from the lowest (LSD radix sort). Each pass counts and moves blocks,
 * which are the same whatever the number of processors.
 */
#include "executor/array.h"
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
    job_fail(sort->job, "verification failed: the numbers are out of order, or not those that "
                        "were given: the device cannot be trusted");
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
    if (result < 0)
        return job_end(job);
    char first[REAL_TEXT_SIZE], last[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s first=%s last=%s checksum=%016" PRIx64, sort.count,
               sort.type->name, real_text(first, least), real_text(last, largest), checksum);
    job_print_times(job);
    return JOB_DONE;
}

const struct workload workload_sort = {
    .info = {.name = "SORT",
             .summary = "Sorts an array in ascending order, and verifies order and content.",
             .params = sort_params,
             .param_count = sizeof(sort_params) / sizeof(sort_params[0])},
    .check = sort_check,
    .cpu = sort_run,
};
