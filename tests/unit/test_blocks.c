/* TRANSPOSE and SHA256, as a real vgpu-executor runs them. */
#include "peer.h"

#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint8_t *random_bytes(size_t count)
{
    static uint64_t state = 88172645463325252u; /* xorshift64 (Marsaglia 2003) */
    uint8_t *bytes = malloc(count + 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)(state >> 32);
    }
    return bytes;
}

static void transpose(struct peer *peer, size_t m, size_t n, size_t each)
{
    size_t size = m * n * each;
    uint8_t *in = random_bytes(size), *out = malloc(size);
    int a = make_file(in, size), file = make_file("", 0);
    char line[128];
    assert_non_null(out);
    snprintf(line, sizeof(line), "TRANSPOSE m=%zu n=%zu dtype=f%zu", m, n, each * 8);
    job_line(peer, line);
    job_file(peer, "a", a);
    job_file(peer, "out", file);
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, size);
    assert_int_equal(pread(file, out, size, 0), (ssize_t)size);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            if (memcmp(out + (j * m + i) * each, in + (i * n + j) * each, each) != 0)
                fail_msg("row %zu column %zu of %zu x %zu did not arrive", i, j, m, n);
    free(in);
    free(out);
    close(a);
    close(file);
}

/* Any bits. Single lines, tiles that are full or not, more than one chunk in each direction. */
static void test_transpose(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1},    {1, 7},      {7, 1},      {31, 33},
                                       {32, 32},  {129, 65},   {3, 100000}, {100000, 3},
                                       {2, 1000}, {200, 40000}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (size_t each = 4; each <= 8; each += 4)
            transpose(&peer, shapes[i][0], shapes[i][1], each);
    peer_finish(&peer, 0);
}

/* hash_of is the definition, word for word: the digests of the chunks, and the digest of these. */
static void hash_of(const uint8_t *bytes, size_t count, size_t chunk, uint8_t *digests, char *root)
{
    struct sha256_ctx all;
    uint8_t last[SHA256_DIGEST_SIZE];
    sha256_init(&all);
    for (size_t at = 0; at < count; at += chunk) {
        struct sha256_ctx one;
        sha256_init(&one);
        sha256_update(&one, count - at < chunk ? count - at : chunk, bytes + at);
        sha256_digest(&one, SHA256_DIGEST_SIZE, digests);
        sha256_update(&all, SHA256_DIGEST_SIZE, digests);
        digests += SHA256_DIGEST_SIZE;
    }
    sha256_digest(&all, sizeof(last), last);
    for (size_t i = 0; i < sizeof(last); i++)
        snprintf(root + 2 * i, 3, "%02x", last[i]);
}

static void hash_file(struct peer *peer, size_t count, size_t chunk)
{
    size_t chunks = (count + chunk - 1) / chunk, size = chunks * SHA256_DIGEST_SIZE;
    uint8_t *bytes = random_bytes(count), *expected = malloc(size + 1), *found = malloc(size + 1);
    char line[64], root[72] = "root=";
    struct stat status;
    int file = make_file(bytes, count), out = make_file("", 0);
    assert_true(expected && found);
    snprintf(line, sizeof(line), "SHA256 chunk=%zu", chunk);
    job_line(peer, line);
    job_file(peer, "file", file);
    job_file(peer, "out", out);
    job_run(peer, "done", "");
    hash_of(bytes, count, chunk, expected, root + 5);
    assert_non_null(strstr(peer->output, root));
    assert_true(output_number(peer, "bytes=") == (double)count);
    assert_true(output_number(peer, "chunks=") == (double)chunks);
    assert_int_equal(fstat(out, &status), 0);
    assert_int_equal(status.st_size, size);
    assert_int_equal(pread(out, found, size, 0), (ssize_t)size);
    assert_memory_equal(found, expected, size);
    free(bytes);
    free(expected);
    free(found);
    close(file);
    close(out);
}

static void test_sha256(void **state)
{
    (void)state;
    static const size_t cases[][2] = {
        {0, 1},   {1, 1},         {1, 16777216},        {4097, 1},        {55, 56}, {64, 64},
        {65, 64}, {1000000, 999}, {40000000, 16777216}, {20000000, 65536}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        hash_file(&peer, cases[i][0], cases[i][1]);
    peer_finish(&peer, 0);
}

/* These digits are a promise: other backends, versions and machines print the same. */
static void test_made_up(void **state)
{
    (void)state;
    static const char *const known[][2] = {
        {"SHA256 n=100003 chunk=999 seed=7",
         "bytes=100003 chunk=999 chunks=101 "
         "root=0e4118ca13cee0061a46b44cac6aa24dd2609dbe615fa5837b8f45f9a7f2a26f"},
        {"TRANSPOSE m=300 n=77 seed=7", "m=300 n=77 dtype=f32 checksum=46269.50360900164"},
    };
    struct peer peer = peer_greeted(), single = peer_on_one_processor();
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        job_line(&peer, known[i][0]);
        job_run(&peer, "done", "");
        assert_output(&peer, known[i][1]);
        job_line(&single, known[i][0]);
        job_run(&single, "done", "");
        assert_output(&single, known[i][1]);
    }
    peer_finish(&peer, 0);
    peer_finish(&single, 0);
}

static void test_bad_input(void **state)
{
    (void)state;
    static const struct {
        const char *line, *file, *words;
    } cases[] = {
        {"SHA256 chunk=0", NULL, "from 1 to 16777216"},
        {"SHA256 chunk=16777217", NULL, "from 1 to 16777216"},
        {"SHA256 n=5", "file", "holds 8 bytes"},
        {"TRANSPOSE m=1048576 n=1048576", NULL, "take a smaller m= or n="},
        {"TRANSPOSE m=0", NULL, "from 1 to 1048576"},
        {"TRANSPOSE m=3 n=1", "a", "a= has 8 bytes; m=3 times n=1 of f32 are 12"},
    };
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int file = make_file("12345678", 8);
        job_line(&peer, cases[i].line);
        if (cases[i].file)
            job_file(&peer, cases[i].file, file);
        job_run(&peer, "failed", cases[i].words);
        close(file);
    }
    peer_finish(&peer, 0);
}

static void test_cancel(void **state)
{
    (void)state;
    static const char *const lines[] = {"SHA256 n=1099511627776", "TRANSPOSE m=9000 n=9000"};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        job_line(&peer, lines[i]);
        assert_cancels(&peer);
    }
    peer_finish(&peer, 0);
}

int main(int argc, char **argv)
{
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transpose), cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_made_up),   cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
