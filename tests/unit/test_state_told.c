/* state: which thread tells those who wait for a group. */
#include "scratch.h"
#include "state_fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

#define MOST_WAITERS 65

static struct state_waiter waiters[MOST_WAITERS];
static char tellers[MOST_WAITERS][16];
static sem_t told;

static void note_teller(struct state_waiter *waiter, int error)
{
    pthread_getname_np(pthread_self(), tellers[waiter - waiters], sizeof(tellers[0]));
    assert_int_equal(error, 0);
    sem_post(&told);
}

/* How many wait for one group, and whether the last of them is light as the others are. */
struct crowd {
    size_t count;
    bool light;
};

/* crowd_waits runs while the database is read, so that no group is written before all wait. */
static void crowd_waits(void *context, const struct state_job *job)
{
    const struct crowd *crowd = context;
    int error;
    if (job->vm != 1)
        return;
    put_jobs(opened, 2, 1);
    for (size_t i = 0; i < crowd->count; i++) {
        waiters[i] = (struct state_waiter){.ticket = state_now(opened),
                                           .light = crowd->light || i + 1 < crowd->count,
                                           .done = note_teller};
        assert_true(state_when(opened, &waiters[i], &error));
    }
}

static void assert_tellers(size_t count, bool light, const char *expected)
{
    struct crowd crowd = {count, light};
    sem_init(&told, 0, 0);
    open_state();
    put_jobs(opened, 1, 1);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_int_equal(state_load_jobs(opened, 1, crowd_waits, &crowd), 0);
    for (size_t i = 0; i < count; i++)
        while (sem_wait(&told) < 0)
            continue;
    for (size_t i = 0; i < count; i++)
        assert_string_equal(tellers[i], expected);
    close_state();
    sem_destroy(&told);
}

static void test_writer_tells_few(void **unused)
{
    (void)unused;
    assert_tellers(1, true, "state write");
    assert_tellers(8, true, "state write");
    assert_tellers(MOST_WAITERS - 1, true, "state write");
}

static void test_announcer_tells_many(void **unused)
{
    (void)unused;
    assert_tellers(MOST_WAITERS, true, "state tell");
}

/* What takes a lock, or asks for more, would have the writer wait for itself. */
static void test_announcer_tells_the_heavy(void **unused)
{
    (void)unused;
    assert_tellers(1, false, "state tell");
    assert_tellers(8, false, "state tell");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_writer_tells_few),
        STATE_TEST(test_announcer_tells_many),
        STATE_TEST(test_announcer_tells_the_heavy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
