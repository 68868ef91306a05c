/* state: what was asked for is there again after a restart. */
#include "clock.h"
#include "scratch.h"
#include "state_file.h"
#include "state_fixture.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static void test_empty(void **unused)
{
    (void)unused;
    open_state();
    assert_vms("");
    assert_files(1, "");
    assert_executors("");
    reopen();
    assert_vms("");
}

static void test_vms(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_job_numbers(state, 3, 257);
    state_put_file_numbers(state, 3, 1025);
    state_put_identity(state, 3, "pool=A priority=2 vm_id=3");
    state_put_identity(state, 4, "B:0:4"); /* its numbers begin at 1 */
    state_put_file_numbers(state, 65535, INT64_MAX);
    state = reopen();
    assert_vms("vm3 257 1025 pool=A priority=2 vm_id=3\nvm4 1 1 B:0:4\n"
               "vm65535 1 9223372036854775807 -\n");
    /* Each of the three alone; the others stay. */
    state_put_job_numbers(state, 3, 513);
    state_put_identity(state, 4, "B:1:4");
    state_put_identity(state, 4, NULL);
    state = reopen();
    assert_vms("vm3 513 1025 pool=A priority=2 vm_id=3\nvm4 1 1 -\n"
               "vm65535 1 9223372036854775807 -\n");
    state_put_identity(state, 3, "A:1:3");
    state_put_file_numbers(state, 3, 2049);
    reopen();
    assert_vms("vm3 513 2049 A:1:3\nvm4 1 1 -\nvm65535 1 9223372036854775807 -\n");
}

static void test_files(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_file(state, 1, 1, "a");
    state_put_file(state, 1, 2, "b");
    state_put_file(state, 2, 1, "a"); /* another VM's name is another name */
    state = reopen();
    assert_files(1, "1=a\n2=b\n");
    assert_files(2, "1=a\n");
    assert_files(3, "");
    state_delete_file(state, 1, 1);
    state_delete_file(state, 1, 99);
    state_put_file(state, 1, 2, "c");
    state = reopen();
    assert_files(1, "2=c\n");
    assert_files(2, "1=a\n");
}

/* A rename takes the name away from who had it, in the same statement. */
static void test_rename_replaces(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_file(state, 1, 1, "target");
    state_put_file(state, 1, 2, "temporary");
    state_put_file(state, 1, 3, "other");
    state_put_file(state, 1, 2, "target");
    state = reopen();
    assert_files(1, "2=target\n3=other\n");
    /* Two change their names over a third one. */
    state_put_file(state, 1, 2, "x");
    state_put_file(state, 1, 3, "target");
    state_put_file(state, 1, 2, "other");
    reopen();
    assert_files(1, "2=other\n3=target\n");
}

/* Any bytes but NUL and '/' may be in a name. */
static void test_names(void **unused)
{
    (void)unused;
    char longest[256], expected[1024];
    memset(longest, 'x', 255);
    longest[255] = '\0';
    struct state *state = open_state();
    state_put_file(state, 1, 1, "'); DROP TABLE file; --");
    state_put_file(state, 1, 2, "\xff\xfe\x01\n ?1");
    state_put_file(state, 1, 3, "\xc3\xa4");
    state_put_file(state, 1, 4, longest);
    state_put_file(state, 1, 5, "17");
    state_put_file(state, 1, 6, "A");
    state_put_file(state, 1, 7, "a");
    reopen();
    snprintf(expected, sizeof(expected),
             "1='); DROP TABLE file; --\n2=\xff\xfe\x01\n ?1\n3=\xc3\xa4\n4=%s\n5=17\n6=A\n7=a\n",
             longest);
    assert_files(1, expected);
}

static void test_executors(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_executor(state, 100, 5);
    state_put_executor(state, 200, UINT64_MAX);
    state_put_executor(state, 300, 7);
    state_put_executor(state, 100, 6); /* the pid was used again */
    state_delete_executor(state, 300);
    state_delete_executor(state, 999);
    reopen();
    assert_executors("100@6\n200@18446744073709551615\n");
}

/* What was due late by a rule that no longer holds is due at once. */
static void test_new_durability(void **unused)
{
    (void)unused;
    enum { HOUR_MS = 3600000 };
    open_state();
    state_set_durability(opened, DURABILITY_GROUP, HOUR_MS);
    put_jobs(opened, 1, 1);
    state_ticket ticket = state_now(opened);
    state_set_durability(opened, DURABILITY_SYNC, 0);
    for (int tries = 0; !state_is_durable(opened, ticket); tries++) {
        assert_true(tries < 3000);
        usleep(10000);
    }
}

static void test_jobs(void **unused)
{
    (void)unused;
    struct state_batch batch = {0};
    open_state();
    for (uint64_t i = 1; i <= 4; i++) {
        struct state_job job = {.vm = 2,
                                .number = i,
                                .tag = i == 1 ? "one" : "t",
                                .pool = "A",
                                .line = "NOP\n",
                                .priority = 2,
                                .state = 1,
                                .sequence = 10000 - i,
                                .entry = i + 5,
                                .request = i >= 3 ? i + 5 : 0};
        state_batch_add(&batch, &job);
    }
    state_put_batch(opened, &batch);
    state_start_job(opened, 2, 3);
    state_start_job(opened, 2, 4); /* and put back before it reached an executor */
    state_unstart_job(opened, 2, 4);
    state_move_job(opened, 2, 4, 0);
    put_result(2, 1, 100, 'a');
    put_result(2, 2, 300000, 'b');
    state_read_job(opened, 2, 1, 5000);
    reopen();
    /* Unfinished ones by arrival, ended ones by the time that they are kept from. */
    assert_jobs(2, "vm2 4 t A NOP\n p0 s1 n0 e9 r9 q9996 k0\n"
                   "vm2 3 t A NOP\n p2 s2 n1 e8 r8 q9997 k0\n"
                   "vm2 2 t A NOP\n p2 s3 n0 e7 r0 q9998 k998\n"
                   "vm2 1 one A NOP\n p2 s3 n0 e6 r0 q9999 k5000 read\n");
    assert_jobs(1, "");
    assert_result(2, 1, 100, 'a');
    assert_result(2, 2, 300000, 'b');
    assert_null(state_load_result(opened, 2, 3));
    state_hide_job(opened, 2, 3);
    state_renew_job(opened, 2, 3, 19, true);
    state_renew_job(opened, 2, 4, 20, false);
    state_delete_job(opened, 2, 1, 100);
    state_delete_job(opened, 2, 2, 300000);
    reopen();
    assert_jobs(0, "vm2 4 t A NOP\n p0 s1 n0 e20 r9 q9996 k0\n"
                   "vm2 3 t A NOP\n p2 s2 n1 e19 r19 q9997 k0 hidden\n");
    assert_null(state_load_result(opened, 2, 2));
}

/* A large result has a row of its own, which is not copied whenever the job's is, and which goes
 * with the job; it counts as what it is while it is not written. */
static void test_large_result(void **unused)
{
    (void)unused;
    open_state();
    state_put_directory(opened, 1, 1, "a");
    put_result(1, 1, 300000, 'x');
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_false(state_is_behind(opened, 1));
    close_state();
    assert_int_equal(number_of("SELECT count(*) FROM result WHERE length(bytes) = 300000"), 1);
    assert_int_equal(number_of("SELECT count(*) FROM job WHERE result IS NULL"), 1);
    open_state();
    assert_result(1, 1, 300000, 'x');
    state_delete_job(opened, 1, 1, 300000);
    close_state();
    assert_int_equal(number_of("SELECT count(*) FROM result"), 0);
}

/* Who submits without waiting gets no sync of its own, but is not forgotten either. */
static void test_unawaited(void **unused)
{
    (void)unused;
    struct state_batch batch = {0};
    struct state_job job = {.vm = 1, .number = 1, .tag = "1", .pool = "A", .line = "NOP"};
    open_state();
    state_set_durability(opened, DURABILITY_SYNC, 0);
    state_batch_add(&batch, &job);
    state_put_batch(opened, &batch);
    wait_written();
}

static void test_tickets(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    assert_int_equal(state_wait(state, 0), 0);
    state_ticket last = state_now(state);
    for (uint64_t i = 1; i <= 100; i++) {
        state_ticket ticket = state_put_job_numbers(state, 1, i);
        assert_true(ticket > last);
        assert_int_equal(state_now(state), ticket);
        last = ticket;
    }
    assert_int_equal(state_wait(state, last), 0);
    assert_int_equal(state_wait(state, state_now(state)), 0);
}

/* What state_wait has promised is there though nobody closed: the process was killed. */
static void test_killed(void **unused)
{
    (void)unused;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct text error = {0};
        struct state *state = state_open(scratch_path("state"), &error);
        if (!state)
            _exit(2);
        state_put_job_numbers(state, 7, 4711);
        state_put_file(state, 7, 1, "kept");
        _exit(state_wait(state, state_now(state)));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    open_state();
    assert_vms("vm7 4711 1 -\n");
    assert_files(7, "1=kept\n");
}

#define WRITERS 4
#define WRITES  200

static void *write_numbers(void *argument)
{
    unsigned vm = (unsigned)(uintptr_t)argument;
    for (uint64_t i = 1; i <= WRITES; i++) {
        state_ticket ticket = state_put_job_numbers(opened, vm, i);
        if (i % 10 == 0 && state_wait(opened, ticket) != 0)
            return NULL;
    }
    return argument;
}

static void test_threads(void **unused)
{
    (void)unused;
    pthread_t threads[WRITERS];
    open_state();
    for (uintptr_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_numbers, (void *)(i + 1)), 0);
    for (uintptr_t i = 0; i < WRITERS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_int_equal((uintptr_t)result, i + 1);
    }
    reopen();
    assert_vms("vm1 200 1 -\nvm2 200 1 -\nvm3 200 1 -\nvm4 200 1 -\n");
}

static void count_file(void *context, uint64_t number, const char *name)
{
    (void)name;
    if (++*(unsigned *)context % 100 == 0) /* as the daemon does for bytes that are gone */
        state_delete_file(opened, 2, number);
}

/* While one VM is loaded, what another one asked for is being written. */
static void test_load_while_writing(void **unused)
{
    (void)unused;
    enum { FILES = 1000 };
    pthread_t writer;
    void *result;
    char name[16];
    open_state();
    for (uint64_t i = 1; i <= FILES; i++) {
        snprintf(name, sizeof(name), "%" PRIu64, i);
        state_put_file(opened, 1, i, name);
    }
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_numbers, (void *)1), 0);
    for (unsigned i = 0; i < 100; i++) {
        unsigned count = 0;
        assert_int_equal(state_load_files(opened, 1, count_file, &count), 0);
        assert_int_equal(count, FILES);
    }
    pthread_join(writer, &result);
    assert_int_equal((uintptr_t)result, 1);
    reopen();
    assert_vms("vm1 200 1 -\n");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they need address space */
/* Without memory for a change the daemon ends: what it would go on to promise would be lost. */
static void test_no_memory(void **unused)
{
    (void)unused;
    enum { MANY = 64 << 20 };
    int status;
    char *identity = malloc(MANY);
    assert_non_null(identity);
    memset(identity, 'x', MANY - 1);
    identity[MANY - 1] = '\0';
    open_state();
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        setrlimit(RLIMIT_AS, &none); /* there is no more than what it has */
        state_put_identity(opened, 1, identity);
        _exit(EXIT_SUCCESS);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    free(identity);
}
#endif

/*
 * A daemon whose clock is an hour ahead: it stamps changes. Its successor's clock is right, and its
 * stamps are newer for all that, whether the last stamp is in the log of groups, went into the
 * tables with it, or was made after the last change and written at the end.
 */
enum ending { KILLED, KILLED_READING, CLOSED };

static void ignore_job(void *context, const struct state_job *job)
{
    (void)context;
    (void)job;
}

static void stamp_ahead(int result, uint64_t restored_ns, enum ending ending)
{
    struct text error = {0};
    struct state *state = state_open(scratch_path("state"), &error);
    if (!state)
        _exit(2);
    clock_change_restore(restored_ns);
    clock_change();
    put_jobs(state, 1, 6);
    if (state_wait(state, state_now(state)) != 0)
        _exit(3);
    if (ending == KILLED_READING && state_load_jobs(state, 0, ignore_job, NULL) != 0)
        _exit(4);
    if (ending == CLOSED)
        clock_change();
    uint64_t last = clock_change_last();
    if (ending == CLOSED)
        state_close(state);
    _exit(write(result, &last, sizeof(last)) == sizeof(last) ? 0 : 5);
}

static void check_stamps(enum ending ending)
{
    int result[2], status;
    uint64_t last = 0, now = clock_change_last();
    struct timespec time = clock_change();
    uint64_t ahead = ((uint64_t)time.tv_sec + 3600) * 1000000000u;
    assert_int_equal(pipe(result), 0);
    assert_true(now < ahead);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        stamp_ahead(result[1], ahead, ending);
    close(result[1]);
    assert_int_equal(read(result[0], &last, sizeof(last)), sizeof(last));
    close(result[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(last > ahead);
    assert_true(clock_change_last() < ahead);

    open_state();
    assert_true(clock_change_last() >= last);
    time = clock_change();
    assert_true((uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec > last);
    close_state();
}

static void test_stamps_over_a_restart(void **unused)
{
    (void)unused;
    check_stamps(CLOSED);
    check_stamps(KILLED);
    check_stamps(KILLED_READING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_empty),
        STATE_TEST(test_vms),
        STATE_TEST(test_files),
        STATE_TEST(test_rename_replaces),
        STATE_TEST(test_names),
        STATE_TEST(test_executors),
        STATE_TEST(test_new_durability),
        STATE_TEST(test_jobs),
        STATE_TEST(test_large_result),
        STATE_TEST(test_unawaited),
        STATE_TEST(test_tickets),
        STATE_TEST(test_killed),
        STATE_TEST(test_threads),
        STATE_TEST(test_load_while_writing),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        STATE_TEST(test_no_memory),
#endif
        STATE_TEST(test_stamps_over_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
