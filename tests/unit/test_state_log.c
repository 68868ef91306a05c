/* state: the log of groups. What is durable there is in no table yet. */
#include "scratch.h"
#include "state_file.h"
#include "state_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

/* log_child writes two groups and is killed as soon as they are durable. */
static void log_child(void)
{
    struct text error = {0}, bytes = {0};
    struct state *state = state_open(scratch_path("state"), &error);
    if (!state)
        _exit(2);
    put_jobs(state, 1, 6);
    state_start_job(state, 3, 1);
    if (state_wait(state, state_now(state)) != 0)
        _exit(3);
    text_append(&bytes, "status=done\n\0\xff", 14);
    struct blob *blob = blob_from_text(&bytes);
    state_end_job(state, 3, 1, 3, UINT64_C(1) << 62, blob);
    state_start_job(state, 5, 1);
    state_move_job(state, 6, 1, 0);
    state_cancel_job(state, 5, 1, NULL);
    state_delete_job(state, 4, 1, 0);
    state_put_job_numbers(state, 6, UINT64_C(1) << 39);
    _exit(state_wait(state, state_now(state)));
}

static void test_log_killed(void **unused)
{
    (void)unused;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        log_child();
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (int round = 0; round < 2; round++) { /* once only: an attempt is counted, not noted */
        open_state();
        assert_jobs(3, "vm3 1 t A NOP\n p1 s3 n1 e3 r0 q0 k4611686018427387904\n");
        assert_jobs(4, "");
        assert_jobs(5, "vm5 1 t A NOP\n p1 s2 n1 e5 r0 q0 k0\n");
        assert_jobs(6, "vm6 1 t A NOP\n p0 s1 n0 e6 r0 q0 k0\n");
        assert_vms("vm6 549755813888 1 -\n");
        struct blob *blob = state_load_result(opened, 3, 1);
        assert_non_null(blob);
        assert_int_equal(blob->size, 14);
        assert_memory_equal(blob->data, "status=done\n\0\xff", 14);
        blob_unref(blob);
        close_state();
    }
}

/* What is durable is seen, wherever it is; the newest that the log says of a result counts. */
static void test_log_is_read(void **unused)
{
    (void)unused;
    open_state();
    put_jobs(opened, 1, 8);
    put_result(2, 1, 100, 'a');
    put_result(3, 1, 100, 'b');
    state_delete_job(opened, 3, 1, 100);
    put_result(2, 1, 200, 'c');
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_result(2, 1, 200, 'c');
    assert_null(state_load_result(opened, 3, 1));
    assert_job_count(7);
    assert_result(2, 1, 200, 'c');
}

/* The log takes so much only, and what no log takes comes behind what is in it. */
static void test_log_is_full(void **unused)
{
    (void)unused;
    enum { ROUNDS = 8, COUNT = 1500 };
    open_state();
    for (unsigned round = 0; round < ROUNDS; round++) {
        put_jobs(opened, 1 + round * COUNT, COUNT);
        assert_int_equal(state_wait(opened, state_now(opened)), 0);
    }
    put_jobs(opened, 1 + ROUNDS * COUNT, 8);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    put_jobs(opened, 2 + (ROUNDS + 1) * COUNT, 4 * COUNT); /* more than it takes at once */
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_int_equal(number_of("SELECT count(*) FROM log"), 0);
    put_result(1, 1, 300000, 'x');
    state_delete_job(opened, 1 + ROUNDS * COUNT, 1, 0);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_result(1, 1, 300000, 'x');
    reopen();
    assert_job_count((ROUNDS + 4) * COUNT + 7);
    assert_result(1, 1, 300000, 'x');
}

/* A disk that refuses takes nothing of what is durable, and gets the rest later. */
static void test_log_refused(void **unused)
{
    (void)unused;
    open_state();
    put_jobs(opened, 1, 8);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    put_jobs(opened, 9, 8);
    assert_int_not_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(0);
    reopen();
    assert_job_count(16);
}

/* A disk that is full until so much was given back. */
static off_t given_back_at;

static ssize_t write_if_room(int descriptor, const void *bytes, size_t size, off_t offset)
{
    struct stat reserve;
    /* Single bytes are SQLite's way to make its index of the write-ahead log longer. */
    if (size == 1 || stat(scratch_path("state/reserve"), &reserve) < 0 ||
        reserve.st_size <= given_back_at)
        return pwrite(descriptor, bytes, size, offset);
    errno = ENOSPC;
    return -1;
}

/* The header of the frame that ends a transaction says how large the database is then, in its bytes
 * 4 to 7; the page comes behind it (https://sqlite.org/fileformat2.html#the_write_ahead_log). */
static ssize_t write_group_and_end(int descriptor, const void *bytes, size_t size, off_t offset)
{
    static bool last;
    const unsigned char *header = bytes;
    ssize_t written = pwrite(descriptor, bytes, size, offset);
    if (last)
        _exit(written == (ssize_t)size ? 0 : 4);
    last = size == 24 && (header[4] | header[5] | header[6] | header[7]);
    return written;
}

/* write_child is killed when a group is in the log, and before that is emptied. */
static void write_child(void)
{
    struct text error = {0};
    struct state *state = state_open(scratch_path("state"), &error);
    if (!state)
        _exit(2);
    replace_write(write_group_and_end);
    put_jobs(state, 1, 6);
    state_wait(state, state_now(state));
    _exit(3);
}

/* The log is emptied on a full disk too: into room that was kept for this, and is kept again. */
static void test_log_gets_room(void **unused)
{
    (void)unused;
    enum { LEAST = 2 << 20 }; /* that is kept, whatever was accepted */
    struct stat reserve;
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        write_child();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(number_of("SELECT count(*) FROM log"), 1);
    assert_int_equal(truncate(scratch_path("state/reserve"), LEAST + 1000), 0);
    given_back_at = 0; /* all of it */
    replace_write(write_if_room);
    open_state();
    assert_int_equal(stat(scratch_path("state/reserve"), &reserve), 0);
    assert_true(reserve.st_size >= LEAST);
    assert_job_count(6);
    close_state();
    replace_write(NULL);
    assert_int_equal(number_of("SELECT count(*) FROM log"), 0);
    assert_int_equal(number_of("SELECT count(*) FROM job"), 6);
}

/* Bytes that vgpufs did not write there, and changes that no table takes, are damage. */
static void test_log_damaged(void **unused)
{
    (void)unused;
    static const char *const rows[] = {
        "x'ff'",
        "x'ffffffffffffffffffffff'",
        "x'63010000000101'",                                   /* no such operation */
        "x'0e00000000'",                                       /* nothing of what it needs */
        "x'0e01000000'",                                       /* no value */
        "x'0e0100010001'",                                     /* no byte of the one that it says */
        "x'0e010000ff01'",                                     /* nor of the result */
        "x'0e1100000001010101010101010101010101010101010101'", /* too many values */
        "x'0e0101010000'",                                     /* NULL, and bytes */
        "x'030100000005'",                                     /* a job without a tag */
        "17",
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char sql[160];
        open_state();
        put_jobs(opened, 1, 1);
        close_state();
        snprintf(sql, sizeof(sql), "INSERT INTO log (changes) VALUES (%s)", rows[i]);
        run_sql(sql);
        open_state();
        if (!aside_path("state.db"))
            fail_msg("%s was taken", rows[i]);
        assert_job_count(0);
        close_state();
        scratch_remove();
        scratch_make();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_log_killed),  STATE_TEST(test_log_is_read),   STATE_TEST(test_log_is_full),
        STATE_TEST(test_log_refused), STATE_TEST(test_log_gets_room), STATE_TEST(test_log_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
