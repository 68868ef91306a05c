/* state: which groups the writer makes. Only writing to the disk takes time, by a clock of ours. */
#include "clock.h"
#include "scratch.h"
#include "state_file.h"
#include "state_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static _Atomic uint64_t now_us, write_us;
static atomic_uint groups;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool at_gate;

uint64_t __wrap_clock_now_us(void);

uint64_t __wrap_clock_now_us(void)
{
    return now_us;
}

/* The frame that ends a transaction says how large the database is then: its header's bytes 4 to 7
 * (https://sqlite.org/fileformat2.html#the_write_ahead_log). */
static ssize_t write_slowly(int descriptor, const void *bytes, size_t size, off_t offset)
{
    const unsigned char *header = bytes;
    if (size == 24 && (header[4] | header[5] | header[6] | header[7])) {
        at_gate = true;
        pthread_mutex_lock(&gate);
        pthread_mutex_unlock(&gate);
        at_gate = false;
        now_us += write_us;
        groups++;
    }
    return pwrite(descriptor, bytes, size, offset);
}

static void await(bool (*condition)(void))
{
    for (int tries = 0; !condition(); tries++) {
        assert_true(tries < 6000);
        usleep(5000);
    }
}

static bool writer_is_at_gate(void)
{
    return at_gate;
}

static bool all_have_answered(void)
{
    return !state_is_silent(opened);
}

/* writer_passes: all that it would do by itself now it has done. When it answers it may be about to
 * write; when it answers again it has. */
static void writer_passes(void)
{
    for (int i = 0; i < 2; i++) {
        state_ask(opened);
        await(all_have_answered);
    }
}

/* Submitters, each of whom waits for the disk. */
enum { SUBMITTERS = 3 };
static struct submitter {
    struct state_waiter waiter;
    atomic_bool told;
} submitters[SUBMITTERS];

static void submitter_told(struct state_waiter *waiter, int error)
{
    if (!error) /* the waiter is the first member */
        ((struct submitter *)waiter)->told = true;
}

static void other_told(struct state_waiter *waiter, int error)
{
    (void)waiter, (void)error;
}

static void submit(unsigned i)
{
    static uint64_t number; /* rows that are as they were are not written again */
    int error;
    struct submitter *submitter = &submitters[i];
    submitter->told = false;
    submitter->waiter =
        (struct state_waiter){.ticket = state_put_job_numbers(opened, 1 + i, ++number),
                              .light = true,
                              .done = submitter_told};
    assert_true(state_when(opened, &submitter->waiter, &error));
}

static bool first_is_told(void)
{
    return submitters[0].told;
}

static bool all_are_told(void)
{
    for (unsigned i = 0; i < SUBMITTERS; i++)
        if (!submitters[i].told)
            return false;
    return true;
}

/* submit_together has all of them in one group: the disk is busy with another one meanwhile. */
static void submit_together(void)
{
    int error;
    pthread_mutex_lock(&gate);
    struct state_waiter other = {.ticket = state_put_job_numbers(opened, 100, 7),
                                 .done = other_told}; /* not light: none that comes back */
    await(writer_is_at_gate);
    assert_true(state_when(opened, &other, &error));
    for (unsigned i = 0; i < SUBMITTERS; i++)
        submit(i);
    pthread_mutex_unlock(&gate);
    await(all_are_told);
    writer_passes();
}

static void open_slowly(uint64_t us)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    /* Its conditions wait by the real one, which never comes there. */
    now_us = ((uint64_t)time.tv_sec + 100000) * 1000000;
    write_us = us;
    open_state();
    replace_write(write_slowly);
}

static void begin(uint64_t us)
{
    open_slowly(us);
    submit_together();
    groups = 0;
}

static void end(void)
{
    close_state();
    replace_write(NULL);
}

/* Who was told and comes back shares a sync with the others who were. */
static void test_who_comes_back_is_gathered(void **unused)
{
    (void)unused;
    begin(10000);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < SUBMITTERS; i++) {
            submit(i);
            if (i < SUBMITTERS - 1) {
                writer_passes();
                assert_int_equal(groups, round - 1);
            }
        }
        await(all_are_told);
        writer_passes();
        assert_int_equal(groups, round);
    }
    end();
}

static void stay_away(uint64_t disk_us, uint64_t gather_us)
{
    begin(disk_us);
    submit(0);
    writer_passes();
    now_us += gather_us - 1;
    writer_passes();
    assert_int_equal(groups, 0);
    pthread_mutex_lock(&gate);
    now_us += 1;
    state_ask(opened); /* a clock that went by itself would wake it */
    await(writer_is_at_gate);
    submit(1);
    submit(2);
    pthread_mutex_unlock(&gate);
    await(all_are_told);
    submit(0); /* and nobody else */
    await(first_is_told);
    writer_passes();
    assert_int_equal(groups, 3);
    end();
}

/* Who does not come back is waited for half as long as the disk took, 2 ms at most, and not again
 * so soon. */
static void test_who_stays_away_is_not_awaited(void **unused)
{
    (void)unused;
    stay_away(1000, 500);
    stay_away(10000, 2000);
}

/* logged: so many rows are in the log, which time does not empty here, when all asked for is on
 * disk. The group was asked for while the disk was busy. */
static long logged(void)
{
    pthread_mutex_unlock(&gate);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    pthread_mutex_lock(&gate);
    return number_of("SELECT count(*) FROM log");
}

static void put_long_jobs(unsigned first, unsigned count)
{
    static char line[200001];
    struct state_batch batch = {0};
    memset(line, 'x', sizeof(line) - 1);
    for (unsigned vm = first; vm < first + count; vm++) {
        struct state_job job = {.vm = vm, .number = 1, .tag = "t", .pool = "A", .line = line};
        state_batch_add(&batch, &job);
    }
    state_put_batch(opened, &batch);
}

/* Groups of jobs go into the log, if it takes them; else into the tables, and all of it before. */
static void test_what_the_log_takes(void **unused)
{
    (void)unused;
    enum { MORE_CHANGES = 4097 };
    open_slowly(10000);
    pthread_mutex_lock(&gate);
    put_jobs(opened, 1, 3); /* few */
    assert_int_equal(logged(), 0);
    put_jobs(opened, 1, 4);
    assert_int_equal(logged(), 1);
    put_jobs(opened, 5, 1); /* few, but behind others */
    assert_int_equal(logged(), 2);
    struct state_batch batch = {0};
    for (unsigned vm = 1; vm <= MORE_CHANGES; vm++)
        state_batch_add(&batch, &(struct state_job){.vm = vm, .number = 2, .tag = "", .pool = ""});
    state_put_batch(opened, &batch);
    assert_int_equal(logged(), 0);
    put_long_jobs(1, 4);
    assert_int_equal(logged(), 1);
    put_long_jobs(5, 4); /* 1.6 MB in all */
    assert_int_equal(logged(), 0);
    put_long_jobs(9, 4);
    assert_int_equal(logged(), 1);
    pthread_mutex_unlock(&gate);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_who_comes_back_is_gathered),
        STATE_TEST(test_who_stays_away_is_not_awaited),
        STATE_TEST(test_what_the_log_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
