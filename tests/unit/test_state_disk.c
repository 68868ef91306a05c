/* state: a disk that is full or refuses, and what is written of what was asked for meanwhile. */
#include "scratch.h"
#include "state_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static void note_told(struct state_waiter *waiter, int error)
{
    (void)waiter, (void)error;
    fail_msg("nobody was to be called");
}

/* What is written is not on disk by that: who waits for the disk is told so when it refuses. */
static void test_written_is_not_durable(void **unused)
{
    (void)unused;
    int error = 0;
    open_state();
    state_ticket ticket = state_put_directory(opened, 1, 1, "a");
    wait_written();
    assert_false(state_is_durable(opened, ticket));
    scratch_disk_full(1);
    assert_int_not_equal(state_wait(opened, ticket), 0);
    struct state_waiter waiter = {.ticket = ticket, .done = note_told};
    assert_false(state_when(opened, &waiter, &error));
    assert_int_not_equal(error, 0);
    struct state_waiter stored = {.ticket = ticket, .stored = true, .done = note_told};
    assert_false(state_when(opened, &stored, &error));
    assert_int_equal(error, 0);
    scratch_disk_full(0);
}

/* Room that is promised is on the disk, and is given back. */
static void test_room(void **unused)
{
    (void)unused;
    struct stat stat_of;
    open_state();
    assert_true(state_reserve(opened, 50000000));
    assert_int_equal(stat(scratch_path("state/reserve"), &stat_of), 0);
    assert_true(stat_of.st_blocks * 512 >= 50000000);
    scratch_disk_full(1);
    assert_false(state_reserve(opened, 500000000));
    scratch_disk_full(0);
    assert_true(state_reserve(opened, 1000));
    state_unreserve(opened, 50001000);
    assert_int_equal(stat(scratch_path("state/reserve"), &stat_of), 0);
    assert_true(stat_of.st_size < 50000000);
}

/* assert_kept: so much that was promised, and 2 MiB for what nobody asks room for. */
static void assert_kept(uint64_t promised)
{
    struct stat stat_of;
    assert_int_equal(stat(scratch_path("state/reserve"), &stat_of), 0);
    assert_true((uint64_t)stat_of.st_size >= promised + (2 << 20));
    assert_true(stat_of.st_blocks * 512 >= stat_of.st_size);
}

static void test_room_is_always_there(void **unused)
{
    (void)unused;
    enum { MANY = 64, PART = 1 << 20 };
    open_state();
    for (uint64_t i = 1; i <= MANY; i++) {
        assert_true(state_reserve(opened, PART));
        assert_kept(i * PART);
    }
    for (uint64_t i = MANY; i-- > 0;) {
        state_unreserve(opened, PART);
        assert_kept(i * PART);
    }
}

/* What fits is promised, though more would be taken if there were more. */
static void test_room_that_just_fits(void **unused)
{
    (void)unused;
    enum { PROMISED = 40 << 20 };
    struct rlimit limit;
    open_state();
    scratch_disk_full(1); /* sets what is changed here, and has it ignored */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = PROMISED + (3 << 20);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(state_reserve(opened, PROMISED));
    assert_kept(PROMISED);
    assert_false(state_reserve(opened, 4 << 20));
    assert_kept(PROMISED);
}

/* A file with holes, as a copy may be, keeps no room. */
static void test_room_of_holes(void **unused)
{
    (void)unused;
    enum { PROMISED = 40 << 20 };
    open_state();
    close_state();
    assert_int_equal(truncate(scratch_path("state/reserve"), 0), 0);
    assert_int_equal(truncate(scratch_path("state/reserve"), 2 * PROMISED), 0);
    open_state();
    assert_true(state_reserve(opened, PROMISED));
    assert_kept(PROMISED);
}

static off_t size_of(const char *name)
{
    struct stat stat_of;
    assert_int_equal(stat(scratch_path(name), &stat_of), 0);
    return stat_of.st_size;
}

/* What a large group makes of the write-ahead log is given back. */
static void test_log_size(void **unused)
{
    (void)unused;
    enum { SIZE = 24 << 20 };
    struct text text = {0};
    open_state();
    assert_true(text_reserve(&text, SIZE));
    memset(text.data, 'x', SIZE);
    text.size = SIZE;
    struct blob *blob = blob_from_text(&text);
    assert_non_null(blob);
    state_put_directory(opened, 1, 1, "a");
    assert_int_equal(state_wait(opened, state_end_job(opened, 1, 1, 3, 5, blob)), 0);
    blob_unref(blob);
    assert_true(size_of("state/state.db-wal") > SIZE);
    for (uint64_t i = 2; i < 5; i++)
        assert_int_equal(state_wait(opened, state_put_job_numbers(opened, 1, i)), 0);
    assert_true(size_of("state/state.db-wal") <= 16 << 20);
}

/* While the disk refuses, waiting fails; later all of it is written, in order. */
static void test_disk_refuses(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    assert_int_equal(mkdirat(state_data_dir(state), "1", 0700), 0);
    close(openat(state_data_dir(state), "1/7", O_CREAT | O_WRONLY, 0600));
    state_put_file(state, 1, 7, "old");
    assert_int_equal(state_wait(state, state_now(state)), 0);

    scratch_disk_full(1);
    state_put_file(state, 1, 8, "new");
    state_put_file(state, 1, 8, "old");
    state_ticket last = state_remove_bytes(state, 1, 7);
    int error = state_wait(state, last);
    assert_true(error == ENOSPC || error == EIO);
    usleep(1500000); /* for the next attempt, which has all of them */
    state_put_job_numbers(state, 1, 10);
    last = state_put_job_numbers(state, 1, 11);
    assert_int_not_equal(state_wait(state, last), 0);
    /* The bytes are there as long as the old name may come back. */
    assert_int_equal(faccessat(state_data_dir(state), "1/7", F_OK, 0), 0);

    scratch_disk_full(0);
    for (int tries = 0; state_wait(state, last) != 0; tries++) {
        assert_true(tries < 100);
        usleep(100000);
    }
    assert_int_not_equal(faccessat(state_data_dir(state), "1/7", F_OK, 0), 0);
    reopen();
    assert_vms("vm1 11 1 -\n");
    assert_files(1, "8=old\n");
}

static void put_many(unsigned count)
{
    for (uint64_t i = 1; i <= count; i++)
        state_put_job_numbers(opened, 1, i);
}

/* Only what is not written yet counts, and while the disk refuses that is bounded closely: for each
 * VM by itself, so that none can use up what the others may. */
static void test_behind(void **unused)
{
    (void)unused;
    enum { MANY = 20000 };
    open_state();
    put_many(MANY);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    put_many(1);
    assert_int_not_equal(state_wait(opened, state_now(opened)), 0);
    assert_false(state_is_behind(opened, 1));
    put_many(MANY);
    assert_true(state_is_behind(opened, 1));
    assert_false(state_is_behind(opened, 2));
    scratch_disk_full(0);
    for (int tries = 0; state_wait(opened, state_now(opened)) != 0; tries++) {
        assert_true(tries < 100);
        usleep(100000);
    }
    assert_false(state_is_behind(opened, 1));
}

static void check_numbers(void *context, const struct state_vm *vm)
{
    assert_int_equal(vm->next_job, vm->id + 1);
    ++*(unsigned *)context;
}

/* What is asked for while a group fails comes behind that group, and is not forgotten. */
static void test_nothing_lost(void **unused)
{
    (void)unused;
    enum { COUNT = 5000 };
    unsigned count = 0;
    open_state();
    scratch_disk_full(1);
    for (unsigned vm = 1; vm <= COUNT; vm++) {
        state_put_job_numbers(opened, vm, 1);
        state_put_job_numbers(opened, vm, vm + 1);
    }
    scratch_disk_full(0);
    reopen();
    state_load_vms(opened, check_numbers, &count);
    assert_int_equal(count, COUNT);
}

/*
 * An attempt that met the full disk may fail after the close was asked for: there is one more.
 * The rounds are for the moment at which that happens.
 */
static void test_close_after_failure(void **unused)
{
    (void)unused;
    enum { ROUNDS = 100, COUNT = 50 };
    for (unsigned round = 1; round <= ROUNDS; round++) {
        unsigned count = 0;
        open_state();
        scratch_disk_full(1);
        for (unsigned vm = 1; vm <= COUNT; vm++)
            state_put_job_numbers(opened, (round - 1) * COUNT + vm, (round - 1) * COUNT + vm + 1);
        scratch_disk_full(0);
        reopen();
        state_load_vms(opened, check_numbers, &count);
        assert_int_equal(count, round * COUNT);
        close_state();
    }
}

/* With a disk that never comes back, closing does not hang, and nothing is written by halves. */
static void test_close_without_disk(void **unused)
{
    (void)unused;
    open_state();
    state_put_job_numbers(opened, 1, 5);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    state_put_job_numbers(opened, 1, 6);
    state_put_file(opened, 1, 1, "a");
    close_state();
    scratch_disk_full(0);
    open_state();
    assert_vms("vm1 5 1 -\n");
    assert_files(1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_written_is_not_durable), STATE_TEST(test_room),
        STATE_TEST(test_room_is_always_there),   STATE_TEST(test_room_that_just_fits),
        STATE_TEST(test_room_of_holes),          STATE_TEST(test_log_size),
        STATE_TEST(test_disk_refuses),           STATE_TEST(test_behind),
        STATE_TEST(test_nothing_lost),           STATE_TEST(test_close_after_failure),
        STATE_TEST(test_close_without_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
