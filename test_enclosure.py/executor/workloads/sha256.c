/*
 * The SHA-256 of each chunk of a file, chunks at the same time, and the SHA-256 of all these: a
 * tree of two levels.
 */
#include "executor/array.h"
#include "executor/cuda/transfer.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHUNK ((uint64_t)1 << 24)
/* Bytes, and chunks, that are in memory at a time: some 50 ms without a processor's help. */
#define GROUP_BYTES  ((uint64_t)1 << 24)
#define GROUP_CHUNKS ((uint64_t)4096)
#define ADVICE       "take a smaller chunk="

struct hash {
    struct job *job;
    uint64_t bytes, chunk, chunks;
    uint64_t first, here; /* chunks in memory */
    uint64_t group;       /* chunks in memory, at most */
    uint64_t key;
    uint8_t *data, *digests;
    struct sha256_ctx root;
    CUdeviceptr device_data, device_states, device_digests; /* of a group, on cuda */
};

/* chunk_bytes: the last chunk may be shorter. */
static size_t chunk_bytes(const struct hash *hash, uint64_t number)
{
    uint64_t left = hash->bytes - number * hash->chunk;
    return (size_t)(left < hash->chunk ? left : hash->chunk);
}

static void hash_chunk(void *context, size_t index)
{
    struct hash *hash = context;
    struct sha256_ctx digest;
    sha256_init(&digest);
    sha256_update(&digest, chunk_bytes(hash, hash->first + index),
                  hash->data + index * hash->chunk);
    sha256_digest(&digest, SHA256_DIGEST_SIZE, hash->digests + index * SHA256_DIGEST_SIZE);
}

/* Made-up bytes: the 64-bit numbers of a stream, little endian. */
static void make_up_chunk(void *context, size_t index)
{
    struct hash *hash = context;
    uint64_t first = (hash->first + index) * hash->chunk;
    uint8_t *to = hash->data + index * hash->chunk;
    size_t count = chunk_bytes(hash, hash->first + index);
    for (size_t i = 0; i < count; i++) {
        uint64_t at = first + i;
        to[i] = (uint8_t)(generate_bits(hash->key, at / 8) >> (at % 8 * 8));
    }
}

/* sample_of chooses the chunk of the group that is verified. */
static uint64_t sample_of(const struct hash *hash)
{
    return generate_bits(hash->first, 0) % hash->here;
}

/* verify_chunk: one chunk of the group once more, at `data`, on this thread and in pieces. */
static bool verify_chunk(const struct hash *hash, const uint8_t *data)
{
    uint64_t index = sample_of(hash);
    size_t count = chunk_bytes(hash, hash->first + index);
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&context);
    for (size_t done = 0; done < count;) {
        size_t piece = count - done < 4097 ? count - done : 4097;
        sha256_update(&context, piece, data + done);
        done += piece;
    }
    sha256_digest(&context, sizeof(digest), digest);
    return memcmp(digest, hash->digests + index * SHA256_DIGEST_SIZE, sizeof(digest)) == 0;
}

/* The first example of FIPS 180-2, appendix B. */
static bool library_is_right(void)
{
    static const uint8_t expected[SHA256_DIGEST_SIZE] = {
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
        0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
        0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&context);
    sha256_update(&context, 3, (const uint8_t *)"abc");
    sha256_digest(&context, sizeof(digest), digest);
    return memcmp(digest, expected, sizeof(expected)) == 0;
}

static int fail_verification(const struct hash *hash)
{
    job_fail(hash->job,
             "verification failed: one of the chunks %" PRIu64 " to %" PRIu64
             " has two digests: the device cannot be trusted",
             hash->first, hash->first + hash->here - 1);
    return -1;
}

static int write_digests(const struct hash *hash)
{
    if (!job_given(hash->job, "out"))
        return 0;
    return job_write(hash->job, "out", hash->digests, hash->here * SHA256_DIGEST_SIZE,
                     hash->first * SHA256_DIGEST_SIZE);
}

/* hash_group: -1 and the job has failed or should stop. */
static int hash_group(struct hash *hash)
{
    struct job *job = hash->job;
    uint64_t offset = hash->first * hash->chunk;
    uint64_t left = hash->bytes - offset, bytes = hash->here * hash->chunk;
    size_t size = hash->here * SHA256_DIGEST_SIZE;
    if (job_step(job, (double)hash->first / (double)hash->chunks) < 0)
        return -1;
    if (job_given(job, "file") &&
        job_read(job, "file", hash->data, (size_t)(left < bytes ? left : bytes), offset) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    if (!job_given(job, "file"))
        parallel_run((size_t)hash->here, make_up_chunk, hash);
    parallel_run((size_t)hash->here, hash_chunk, hash);
    bool right = verify_chunk(hash, hash->data + sample_of(hash) * hash->chunk);
    sha256_update(&hash->root, size, hash->digests);
    job->compute_ns += job_clock_ns() - start;
    return right ? write_digests(hash) : fail_verification(hash);
}

static const struct workload_param sha256_params[] = {
    {.name = "file", .type = PARAM_FILE_IN, .help = "Input: any bytes."},
    {.name = "out",
     .type = PARAM_FILE_OUT,
     .help = "Where the digests go: 32 bytes for each chunk."},
    {.name = "chunk",
     .type = PARAM_UINT,
     .min = 1,
     .max = MAX_CHUNK,
     .default_value = "1048576",
     .help = "Bytes of a chunk; the last may be shorter."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = (uint64_t)1 << 40,
     .default_value = "16777216",
     .help = "How many bytes; with a file, as many as it holds."},
    PARAM_SEED,
};

/* hash_describe: -1 after job_fail. */
static int hash_describe(struct hash *hash, struct job *job)
{
    *hash = (struct hash){.job = job,
                          .bytes = job_uint(job, "n"),
                          .chunk = job_uint(job, "chunk"),
                          .key = generate_key(job_uint(job, "seed"), 0)};
    if (job_given(job, "file")) {
        uint64_t given = hash->bytes;
        if (job_file_size(job, "file", &hash->bytes) < 0)
            return -1;
        if (job_given(job, "n") && hash->bytes != given) {
            job_fail(job, "n=%" PRIu64 ", but file= holds %" PRIu64 " bytes", given, hash->bytes);
            return -1;
        }
    }
    hash->chunks = hash->bytes / hash->chunk + (hash->bytes % hash->chunk != 0);
    hash->group = GROUP_BYTES / hash->chunk;
    hash->group = hash->group < GROUP_CHUNKS ? hash->group : GROUP_CHUNKS;
    hash->group = hash->group < hash->chunks ? hash->group : hash->chunks;
    return 0;
}

static int sha256_check(struct job *job)
{
    struct hash hash;
    return hash_describe(&hash, job);
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* On a device each chunk has one thread: so there are more of them at a time. */
#define DEVICE_GROUP_BYTES  ((uint64_t)1 << 28)
#define DEVICE_GROUP_CHUNKS ((uint64_t)1 << 16)
/* Blocks of 64 bytes of each chunk between two looks at the clock: some 30 ms. */
#define DEVICE_BLOCKS ((uint64_t)1 << 14)

static uint64_t group_bytes(const struct hash *hash)
{
    uint64_t left = hash->bytes - hash->first * hash->chunk, bytes = hash->here * hash->chunk;
    return left < bytes ? left : bytes;
}

static int device_input(const struct hash *hash, CUdeviceptr data)
{
    struct job *job = hash->job;
    double done = (double)hash->first / (double)hash->chunks;
    uint64_t first = hash->first * hash->chunk, bytes = group_bytes(hash), key = hash->key;
    struct device_span span = {data, bytes, first, done, done};
    if (job_given(job, "file"))
        return device_read_file(job, "file", &span);
    void *arguments[] = {&data, &key, &first, &bytes};
    return device_run_array(job, KERNEL_sha256_fill, bytes / 8 + 1, arguments);
}

/* device_hash goes through all chunks of the group side by side. */
static int device_hash(const struct hash *hash)
{
    struct job *job = hash->job;
    CUdeviceptr data = hash->device_data, states = hash->device_states;
    CUdeviceptr digests = hash->device_digests;
    uint64_t bytes = group_bytes(hash), chunk = hash->chunk, chunks = hash->here;
    uint64_t blocks = (chunk + 8) / 64 + 1;
    unsigned grid = (unsigned)((chunks - 1) / SHA256_THREADS) + 1;
    for (uint64_t first = 0; first < blocks; first += DEVICE_BLOCKS) {
        uint64_t end = first + DEVICE_BLOCKS;
        double here = (double)hash->here * (double)first / (double)blocks;
        void *arguments[] = {&data, &bytes, &chunk, &chunks, &first, &end, &states, &digests};
        if (job_step(job, ((double)hash->first + here) / (double)hash->chunks) < 0 ||
            device_run(job, KERNEL_sha256_chunks, grid, 1, SHA256_THREADS, arguments) < 0)
            return -1;
    }
    return device_store(job, hash->digests, digests, chunks * SHA256_DIGEST_SIZE);
}

/* device_group: the chunk that is verified comes back from the device, or is made up once more. */
static int device_group(struct hash *hash)
{
    struct job *job = hash->job;
    uint64_t index = sample_of(hash), offset = index * hash->chunk;
    if (device_input(hash, hash->device_data) < 0 || device_hash(hash) < 0)
        return -1;
    if (job_given(job, "file") && device_store(job, hash->data, hash->device_data + offset,
                                               chunk_bytes(hash, hash->first + index)) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    if (!job_given(job, "file")) {
        struct hash sample = *hash;
        sample.first += index;
        make_up_chunk(&sample, 0);
    }
    bool right = verify_chunk(hash, hash->data);
    sha256_update(&hash->root, hash->here * SHA256_DIGEST_SIZE, hash->digests);
    job->compute_ns += job_clock_ns() - start;
    return right ? write_digests(hash) : fail_verification(hash);
}

static int device_allocate_group(struct hash *hash)
{
    struct job *job = hash->job;
    uint64_t chunks = DEVICE_GROUP_BYTES / hash->chunk;
    chunks = chunks < DEVICE_GROUP_CHUNKS ? chunks : DEVICE_GROUP_CHUNKS;
    hash->group = chunks < hash->chunks ? chunks : hash->chunks;
    hash->data = array_allocate(job, hash->chunk, ADVICE);
    hash->digests = array_allocate(job, hash->group * SHA256_DIGEST_SIZE, ADVICE);
    if (!hash->data || !hash->digests)
        return -1;
    if (hash->group == 0)
        return 0;
    if (device_allocate(job, hash->group * hash->chunk, &hash->device_data) < 0 ||
        device_allocate(job, hash->group * SHA256_DIGEST_SIZE, &hash->device_states) < 0)
        return -1;
    return device_allocate(job, hash->group * SHA256_DIGEST_SIZE, &hash->device_digests);
}

/* --- on either ---------------------------------------------------------------------------------
 */

static int host_allocate_group(struct hash *hash)
{
    hash->data = array_allocate(hash->job, hash->group * hash->chunk, ADVICE);
    hash->digests = array_allocate(hash->job, hash->group * SHA256_DIGEST_SIZE, ADVICE);
    return hash->data && hash->digests ? 0 : -1;
}

/* hash_all works on the chunks in groups, each by `group`, for which `allocate` has made room. */
static int hash_all(struct hash *hash, int (*allocate)(struct hash *hash),
                    int (*group)(struct hash *hash))
{
    struct job *job = hash->job;
    if (allocate(hash) < 0 ||
        (job_given(job, "out") && job_reserve(job, "out", hash->chunks * SHA256_DIGEST_SIZE) < 0))
        return -1;
    if (!library_is_right()) {
        job_fail(job, "verification failed: the SHA-256 of \"abc\" is wrong: the device cannot be "
                      "trusted");
        return -1;
    }
    sha256_init(&hash->root);
    for (hash->first = 0; hash->first < hash->chunks; hash->first += hash->group) {
        uint64_t left = hash->chunks - hash->first;
        hash->here = left < hash->group ? left : hash->group;
        if (group(hash) < 0)
            return -1;
    }
    return 0;
}

static enum job_status run_with(struct job *job, int (*allocate)(struct hash *hash),
                                int (*group)(struct hash *hash))
{
    struct hash hash;
    int result = hash_describe(&hash, job);
    if (result == 0)
        result = hash_all(&hash, allocate, group);
    free(hash.data);
    free(hash.digests);
    if (result < 0)
        return job_end(job);
    uint8_t root[SHA256_DIGEST_SIZE];
    sha256_digest(&hash.root, sizeof(root), root);
    job_printf(job, "bytes=%" PRIu64 " chunk=%" PRIu64 " chunks=%" PRIu64 " root=", hash.bytes,
               hash.chunk, hash.chunks);
    for (size_t i = 0; i < sizeof(root); i++)
        job_printf(job, "%02x", root[i]);
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status sha256_run(struct job *job)
{
    return run_with(job, host_allocate_group, hash_group);
}

static enum job_status sha256_cuda(struct job *job)
{
    return run_with(job, device_allocate_group, device_group);
}

const struct workload workload_sha256 = {
    .info = {.name = "SHA256",
             .summary = "Computes the SHA-256 of each chunk of a file, and of all these digests.",
             .params = sha256_params,
             .param_count = sizeof(sha256_params) / sizeof(sha256_params[0])},
    .check = sha256_check,
    .cpu = sha256_run,
    .cuda = sha256_cuda,
};
