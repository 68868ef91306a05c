/*
 * A state in a scratch directory for each test, and what is in it as text. Each function fails the
 * test if it cannot do what it says. Not thread-safe, but `opened` is.
 */
#ifndef STATE_FIXTURE_H
#define STATE_FIXTURE_H

#include "state.h"

/* The state that is open; the fixture closes it. NULL: none. */
extern struct state *opened;

int state_enter(void **unused);
int state_leave(void **unused);
#define STATE_TEST(test) cmocka_unit_test_setup_teardown(test, state_enter, state_leave)

struct state *open_state(void);
void close_state(void);
/* reopen closes, which writes what is still to be written, and opens again. */
struct state *reopen(void);
/* assert_no_state: it cannot be opened, and one line holds both pieces. */
void assert_no_state(const char *path, const char *piece, const char *other);

/* What was loaded, one line for each. */
void assert_vms(const char *expected);
void assert_files(unsigned vm, const char *expected);
void assert_executors(const char *expected);
void assert_jobs(unsigned vm, const char *expected);

/* put_jobs asks for one job of each VM from `first` on; assert_job_count: so many of these are
 * there. */
void put_jobs(struct state *state, unsigned first, unsigned count);
void assert_job_count(unsigned expected);
/* put_result ends a job with so many bytes. */
void put_result(unsigned vm, uint64_t number, size_t size, char fill);
void assert_result(unsigned vm, uint64_t number, size_t size, char fill);
/* wait_written waits until vm1's job is in the database, and asks for nothing. */
void wait_written(void);

#endif
