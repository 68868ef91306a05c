#include "state.h"
#include "state_internal.h"

#include "clock.h"
#include "common/log.h"
#include "kill_point.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* How many of its changes one VM may have the writer keep in memory while the disk refuses. */
#define MOST_REFUSED 1024
/* And how much of it at any time: from the first on its writers are slowed down, from the second on
 * its changes are refused. */
#define CROWDED_BYTES   (UINT64_C(32) << 20)
#define MOST_OWED_BYTES (UINT64_C(128) << 20)
/* The same with durability = sync: who submits goes on to wait at close(), the job may end before
 * that, and then one sync does for both. */
#define SYNC_US 2000

/* Asking. */

static uint64_t delay_us(const struct state *state, enum haste haste)
{
    if (haste == FIRM)
        return 0;
    if (haste == LAZY || state->durability == DURABILITY_NONE)
        return LAZY_MS * 1000;
    return state->durability == DURABILITY_GROUP ? state->group_ms * 1000 : SYNC_US;
}

void hurry(struct state *state, uint64_t due_us)
{
    if (due_us >= state->due_us)
        return;
    state->due_us = due_us;
    pthread_cond_signal(&state->asked);
}

state_ticket change_ask(struct state *state, struct change *first, struct change *last,
                        size_t count)
{
    enum haste haste = LAZY;
    for (const struct change *change = first; change; change = change->next)
        if (operation_haste(change->operation) > haste)
            haste = operation_haste(change->operation);
    changes_owe(state, first);
    pthread_mutex_lock(&state->lock);
    state_ticket ticket = state->newest += count;
    if (first) {
        *state->last = first;
        state->last = &last->next;
        /* What was asked for earlier, and as hastily, is due earlier. */
        if (state->due_us == UINT64_MAX || haste > state->haste)
            hurry(state, clock_now_us() + delay_us(state, haste));
        state->haste = haste > state->haste ? haste : state->haste;
    }
    pthread_mutex_unlock(&state->lock);
    KILL_POINT("asked");
    return ticket;
}

/* Waiting. */

bool waiter_is_due(const struct state *state, const struct state_waiter *waiter, int *error)
{
    *error = 0;
    if (waiter->ticket <= (waiter->stored ? state->stored : state->durable))
        return true;
    *error = state->failure ? state->failure : EIO;
    return state->giving_up || (state->failure && !waiter->patient);
}

/* want has the writer sync what is up to the ticket; the state is locked. */
static void want(struct state *state, state_ticket ticket)
{
    if (ticket <= state->durable || ticket <= state->wanted)
        return;
    state->wanted = ticket;
    hurry(state, 0);
}

int state_wait(struct state *state, state_ticket ticket)
{
    pthread_mutex_lock(&state->lock);
    want(state, ticket);
    while (state->durable < ticket && !state->failure)
        pthread_cond_wait(&state->written, &state->lock);
    int error = state->durable >= ticket ? 0 : state->failure;
    pthread_mutex_unlock(&state->lock);
    return error;
}

bool state_is_durable(struct state *state, state_ticket ticket)
{
    pthread_mutex_lock(&state->lock);
    bool durable = state->durable >= ticket;
    pthread_mutex_unlock(&state->lock);
    return durable;
}

bool state_when(struct state *state, struct state_waiter *waiter, int *error)
{
    pthread_mutex_lock(&state->lock);
    if (!waiter->stored)
        want(state, waiter->ticket);
    bool waits = !waiter_is_due(state, waiter, error);
    if (waits) {
        waiter->next = state->waiters;
        state->waiters = waiter;
        state->fresh += waiter->light;
        if (state->fresh == state->expected)
            pthread_cond_signal(&state->asked);
    }
    pthread_mutex_unlock(&state->lock);
    return waits;
}

struct state_waiter *due_take(struct state *state)
{
    struct state_waiter *due = NULL, **link = &state->waiters;
    while (*link) {
        struct state_waiter *waiter = *link;
        int error;
        if (!waiter_is_due(state, waiter, &error)) {
            link = &waiter->next;
            continue;
        }
        *link = waiter->next;
        waiter->ticket = (state_ticket)error;
        waiter->next = due; /* the list is newest first: this turns it round */
        due = waiter;
    }
    return due;
}

void due_tell(struct state *state, struct state_waiter *due)
{
    state->telling++;
    pthread_mutex_unlock(&state->lock);
    KILL_POINT("announcing");
    for (struct state_waiter *next; due; due = next) {
        next = due->next;
        due->done(due, (int)due->ticket);
    }
    KILL_POINT("announced");
    pthread_mutex_lock(&state->lock);
    state->telling--;
    pthread_cond_broadcast(&state->written);
}

/* The announcer calls back who waits, while the writer goes on with the next group. */
static void *announcer_run(void *argument)
{
    struct state *state = argument;
    pthread_mutex_lock(&state->lock);
    thread_name("state", "tell");
    for (;;) {
        pulse_answer(&state->announcer_pulse);
        struct state_waiter *due = due_take(state);
        if (!due && state->stopping)
            break;
        if (due)
            due_tell(state, due);
        else
            pthread_cond_wait(&state->due, &state->lock);
    }
    pthread_mutex_unlock(&state->lock);
    return NULL;
}

void state_settle(struct state *state)
{
    /* What is told may ask for more. */
    while (state_wait(state, state_now(state)) == 0) {
        pthread_mutex_lock(&state->lock);
        bool quiet = !state->waiters && !state->telling && state->durable == state->newest;
        if (!quiet)
            pthread_cond_signal(&state->due);
        if (!quiet && (state->waiters || state->telling))
            pthread_cond_wait(&state->written, &state->lock);
        pthread_mutex_unlock(&state->lock);
        if (quiet)
            break;
    }
    pthread_mutex_lock(&state->lock);
    state->giving_up = true;
    pthread_cond_signal(&state->due);
    while (state->waiters || state->telling)
        pthread_cond_wait(&state->written, &state->lock);
    pthread_mutex_unlock(&state->lock);
}

void state_ask(struct state *state)
{
    pulse_ask(&state->writer_pulse);
    pulse_ask(&state->announcer_pulse);
    pthread_mutex_lock(&state->lock);
    pthread_cond_signal(&state->asked);
    pthread_cond_signal(&state->due);
    pthread_mutex_unlock(&state->lock);
}

bool state_is_silent(const struct state *state)
{
    return pulse_is_missing(&state->writer_pulse) || pulse_is_missing(&state->announcer_pulse);
}

bool state_is_crowded(struct state *state, unsigned vm)
{
    if (atomic_load(&state->owed[vm].bytes) < CROWDED_BYTES)
        return false;
    pthread_mutex_lock(&state->lock);
    hurry(state, 0); /* however seldom groups are written otherwise */
    pthread_mutex_unlock(&state->lock);
    return true;
}

bool state_is_behind(struct state *state, unsigned vm)
{
    const struct owed *owed = &state->owed[vm];
    if (atomic_load(&owed->bytes) >= MOST_OWED_BYTES)
        return true;
    return atomic_load(&owed->changes) >= MOST_REFUSED && state_is_failing(state);
}

bool state_is_failing(struct state *state)
{
    return state->failure != 0;
}

state_ticket state_now(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    state_ticket ticket = state->newest;
    pthread_mutex_unlock(&state->lock);
    return ticket;
}

void state_set_durability(struct state *state, enum config_durability durability, uint64_t group_ms)
{
    pthread_mutex_lock(&state->lock);
    state->durability = durability;
    state->group_ms = group_ms;
    if (state->first)
        hurry(state, 0); /* when it was due by the old rule may be late by the new one */
    pthread_mutex_unlock(&state->lock);
}

bool state_jobs_are_synced(struct state *state)
{
    return state->durability == DURABILITY_SYNC;
}

bool state_outputs_are_synced(struct state *state)
{
    return state->durability != DURABILITY_NONE;
}

int directory_sync(int at, const char *path)
{
    int directory = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -1;
    int result = fsync(directory), error = errno;
    close(directory);
    errno = error;
    return result;
}

int state_data_dir(const struct state *state)
{
    return state->data_dir;
}

/* Opening. */

/* directory_open makes the folder if it is missing, so that a power cut does not take it away. */
static int directory_open(int at, const char *path)
{
    bool made = mkdirat(at, path, 0700) == 0;
    if (!made && errno != EEXIST)
        return -1;
    int directory = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0 && made && directory_sync(directory, "..") < 0) {
        close(directory);
        return -1;
    }
    return directory;
}

/* directory_lock returns state_dir as a descriptor, with its lock held by the state. */
static int directory_lock(struct state *state, const char *state_dir, struct text *error)
{
    int directory = directory_open(AT_FDCWD, state_dir);
    if (directory < 0) {
        text_printf(error, "cannot use state_dir %s: %s: create it or name another", state_dir,
                    strerror(errno));
        return -1;
    }
    state->lock_fd = openat(directory, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (state->lock_fd < 0) {
        text_printf(error, "cannot write in state_dir %s: %s", state_dir, strerror(errno));
    } else if (flock(state->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        text_printf(error, "another vgpufs uses state_dir %s: stop it or name another state_dir",
                    state_dir);
    } else {
        return directory;
    }
    close(directory);
    return -1;
}

/* database_hide: SQLite makes its files as the umask says, and others beside them alike. Executors
 * may have a user of their own, and state_dir may let them in. */
static void database_hide(int directory)
{
    static const char *const files[] = {"state.db", "state.db-wal", "state.db-shm"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        if (fchmodat(directory, files[i], 0600, 0) < 0 && errno != ENOENT)
            log_warning("state_dir: %s: cannot make it private: %s", files[i], strerror(errno));
}

/* rooms_open opens what lies in state_dir. */
static int rooms_open(struct state *state, int directory, const char *state_dir, struct text *error)
{
    /* It has the room that the database may need to open; and that comes before data/, which it
     * takes with it when it is damaged. */
    reserve_open(&state->reserve, directory);
    int opened = database_open(state, state_dir, error);
    database_hide(directory);
    if (opened < 0)
        return -1;
    state->data_dir = directory_open(directory, "data");
    if (state->data_dir < 0) {
        text_printf(error, "cannot write in state_dir %s: %s", state_dir, strerror(errno));
        return -1;
    }
    return 0;
}

static int threads_start(struct state *state, struct text *error)
{
    state->has_writer = pthread_create(&state->writer, NULL, writer_run, state) == 0;
    state->has_announcer = pthread_create(&state->announcer, NULL, announcer_run, state) == 0;
    if (state->has_writer && state->has_announcer)
        return 0;
    text_puts(error, "cannot start the threads that write the state");
    return -1;
}

static struct state *state_make(void)
{
    struct state *state = calloc(1, sizeof(*state));
    struct owed *owed = calloc(CONFIG_MAX_VM_ID + 1, sizeof(*owed));
    pthread_condattr_t monotonic;
    if (!state || !owed) {
        free(state);
        free(owed);
        return NULL;
    }
    state->owed = owed;
    state->lock_fd = state->data_dir = state->reserve.file = -1;
    state->last = &state->first;
    state->due_us = UINT64_MAX;
    state->unsynced = true; /* by whoever was here before */
    pthread_mutex_init(&state->database_lock, NULL);
    pthread_mutex_init(&state->reader_lock, NULL);
    pthread_mutex_init(&state->reserve.lock, NULL);
    pthread_mutex_init(&state->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&state->asked, &monotonic);
    pthread_cond_init(&state->written, NULL);
    pthread_cond_init(&state->due, NULL);
    pthread_condattr_destroy(&monotonic);
    return state;
}

struct state *state_open(const char *state_dir, struct text *error)
{
    struct state *state = state_make();
    if (!state) {
        text_puts(error, "no memory");
        return NULL;
    }
    int directory = directory_lock(state, state_dir, error);
    int result = directory < 0 ? -1 : rooms_open(state, directory, state_dir, error);
    if (directory >= 0)
        close(directory);
    if (result == 0 && threads_start(state, error) == 0)
        return state;
    state_close(state);
    return NULL;
}

static void threads_stop(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    state->stopping = state->giving_up = true;
    pthread_cond_signal(&state->asked);
    pthread_mutex_unlock(&state->lock);
    if (state->has_writer)
        pthread_join(state->writer, NULL);
    pthread_mutex_lock(&state->lock);
    pthread_cond_signal(&state->due);
    pthread_mutex_unlock(&state->lock);
    if (state->has_announcer)
        pthread_join(state->announcer, NULL);
}

void state_close(struct state *state)
{
    if (!state)
        return;
    if (state->has_writer) { /* stamps that were given out since the last group was written */
        struct change *stamp = change_stamp();
        change_ask(state, stamp, stamp, 1);
    }
    threads_stop(state);
    changes_free(state->first);
    text_finish(&state->log_packed);
    database_close(state);
    reserve_close(&state->reserve);
    if (state->data_dir >= 0)
        close(state->data_dir);
    if (state->lock_fd >= 0)
        close(state->lock_fd);
    pthread_cond_destroy(&state->due);
    pthread_cond_destroy(&state->written);
    pthread_cond_destroy(&state->asked);
    pthread_mutex_destroy(&state->lock);
    pthread_mutex_destroy(&state->reserve.lock);
    pthread_mutex_destroy(&state->reader_lock);
    pthread_mutex_destroy(&state->database_lock);
    free(state->owed);
    free(state);
}
