/*
 * The SHA-256 of each chunk of a file, chunks at the same time, and the SHA-256 of all these: a
 * tree of two levels.
 */
#include "executor/array.h"
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

/* verify_chunk: one chunk of the group once more, on this thread and in pieces. */
static bool verify_chunk(const struct hash *hash)
{
    uint64_t index = generate_bits(hash->first, 0) % hash->here;
    size_t count = chunk_bytes(hash, hash->first + index);
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&context);
    for (size_t done = 0; done < count;) {
        size_t piece = count - done < 4097 ? count - done : 4097;
        sha256_update(&context, piece, hash->data + index * hash->chunk + done);
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
    bool right = verify_chunk(hash);
    sha256_update(&hash->root, size, hash->digests);
    job->compute_ns += job_clock_ns() - start;
    if (!right) {
        job_fail(job,
                 "verification failed: one of the chunks %" PRIu64 " to %" PRIu64
                 " has two digests: the device cannot be trusted",
                 hash->first, hash->first + hash->here - 1);
        return -1;
    }
    if (!job_given(job, "out"))
        return 0;
    return job_write(job, "out", hash->digests, size, hash->first * SHA256_DIGEST_SIZE);
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

static int hash_all(struct hash *hash)
{
    struct job *job = hash->job;
    hash->data = array_allocate(job, hash->group * hash->chunk, ADVICE);
    hash->digests = array_allocate(job, hash->group * SHA256_DIGEST_SIZE, ADVICE);
    if (!hash->data || !hash->digests ||
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
        if (hash_group(hash) < 0)
            return -1;
    }
    return 0;
}

static enum job_status sha256_run(struct job *job)
{
    struct hash hash;
    int result = hash_describe(&hash, job);
    if (result == 0)
        result = hash_all(&hash);
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

const struct workload workload_sha256 = {
    .info = {.name = "SHA256",
             .summary = "Computes the SHA-256 of each chunk of a file, and of all these digests.",
             .params = sha256_params,
             .param_count = sizeof(sha256_params) / sizeof(sha256_params[0])},
    .check = sha256_check,
    .cpu = sha256_run,
};
