#include "state.h"
#include "state_internal.h"

#include "clock.h"
#include "common/log.h"
#include "kill_point.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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
/* How long what nobody waits for is collected. */
#define LAZY_MS 50
/* The same with durability = sync: who submits goes on to wait at close(), the job may end before
 * that, and then one sync does for both. */
#define SYNC_US  2000
#define RETRY_US UINT64_C(1000000)
/* How long those who were told are waited for, at most. */
#define MOST_GATHER_US 2000
/* How often what came meanwhile joins a group before it is synced. */
#define MOST_JOINS 4

/* timed_wait waits on the condition, at most until `due_us` of the monotonic clock. */
static void timed_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t due_us)
{
    struct timespec until = {.tv_sec = (time_t)(due_us / 1000000),
                             .tv_nsec = (long)(due_us % 1000000) * 1000};
    if (due_us == UINT64_MAX)
        pthread_cond_wait(condition, lock);
    else
        pthread_cond_timedwait(condition, lock, &until);
}

/* Asking. */

static uint64_t delay_us(const struct state *state, enum haste haste)
{
    if (haste == FIRM)
        return 0;
    if (haste == LAZY || state->durability == DURABILITY_NONE)
        return LAZY_MS * 1000;
    return state->durability == DURABILITY_GROUP ? state->group_ms * 1000 : SYNC_US;
}

/* hurry has the writer begin at `due_us` at the latest; the state is locked. */
static void hurry(struct state *state, uint64_t due_us)
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
    uint64_t now = clock_now_us();
    changes_owe(state, first);
    pthread_mutex_lock(&state->lock);
    state_ticket ticket = state->newest += count;
    if (first) {
        *state->last = first;
        state->last = &last->next;
        state->haste = haste > state->haste ? haste : state->haste;
        hurry(state, now + delay_us(state, haste));
    }
    pthread_mutex_unlock(&state->lock);
    KILL_POINT("asked");
    return ticket;
}

/* Writing. */

/* names_sync has the folders on disk in which these changes' data files are: a name must not
 * come back without its file. 0 or an errno. */
static int names_sync(const struct state *state, const struct change *change)
{
    uint64_t synced = 0; /* a VM: no VM is 0 */
    for (; change; change = change->next) {
        char folder[24];
        if (change->operation != PUT_FILE || change->numbers[0] == synced)
            continue;
        synced = change->numbers[0];
        snprintf(folder, sizeof(folder), "%" PRIu64, synced);
        if (directory_sync(state->data_dir, folder) < 0 && errno != ENOENT)
            return errno;
    }
    return 0;
}

/*
 * log_renew empties the write-ahead log after a failure. When a sync fails, the kernel may forget
 * what it could not write, and call the next one a success (fsync(2), NOTES): of what lies in the
 * log unsynced, part could then be missing for good, and with it all that comes behind. Here it is
 * copied into the database from memory, and synced there.
 */
static int log_renew(struct state *state)
{
    if (!state->log_in_doubt)
        return 0;
    if (sqlite3_wal_checkpoint_v2(state->database, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) !=
        SQLITE_OK)
        return -1;
    state->log_in_doubt = false;
    return 0;
}

/* What becomes one transaction. */
struct group {
    struct change *first, **last;
    state_ticket ticket; /* of the last change */
    enum haste haste;
    bool full;      /* synced */
    bool direct;    /* into the tables, whatever it is */
    size_t waiters; /* so many light ones wait for it */
};

/* group_take moves all that was asked for to the group's end; the state is locked. */
static void group_take(struct state *state, struct group *group)
{
    if (state->first) {
        *group->last = state->first;
        group->last = state->last;
    }
    group->ticket = state->newest;
    group->haste = state->haste > group->haste ? state->haste : group->haste;
    group->waiters += state->fresh;
    state->fresh = 0;
    state->first = NULL;
    state->last = &state->first;
    state->due_us = UINT64_MAX;
    state->haste = LAZY;
}

/* changes_apply: 0, -1 and the database knows why, or an errno. `joins` more times, what was asked
 * for meanwhile goes into the same transaction: the next sync, which it would have to wait for,
 * takes longer than this one's statements. */
static int changes_apply(struct state *state, struct group *group, unsigned joins)
{
    const struct change *change = group->first;
    for (;;) {
        int error = group->full ? names_sync(state, change) : 0;
        if (error)
            return error;
        for (; change; change = change->next)
            if (change_apply(state, change) < 0)
                return -1;
        if (joins-- == 0)
            return 0;
        struct change **joined = group->last;
        pthread_mutex_lock(&state->lock);
        group_take(state, group);
        pthread_mutex_unlock(&state->lock);
        change = *joined;
        if (!change)
            return 0;
    }
}

int statement_run(sqlite3_stmt *statement)
{
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? 0 : -1;
}

/* group_put writes the group into the log, and *logged, or else all of it into the tables, behind
 * what is in the log. 0, -1 and the database knows why, or an errno. */
static int group_put(struct state *state, struct group *group, const struct change *stamp,
                     bool *logged)
{
    *logged = false;
    if (group->full && !group->direct) {
        pthread_mutex_lock(&state->lock);
        group_take(state, group); /* what came since the writer woke up */
        pthread_mutex_unlock(&state->lock);
        *logged = log_takes(state, group->first);
    }
    if (*logged)
        return log_write(state, stamp, group->first);
    int failed = log_apply(state);
    return failed ? failed : changes_apply(state, group, group->full ? MOST_JOINS : 0);
}

/* group_done: it is committed. */
static void group_done(struct state *state, struct group *group, bool logged)
{
    changes_pay(state, group->first);
    if (!logged) {
        log_forget(state);
        return;
    }
    log_keep(state, group->first);
    group->first = NULL;
}

/* group_apply makes one transaction of the whole list. 0, or an errno and nothing was written. */
static int group_apply(struct state *state, struct group *group)
{
    struct change *stamp = change_stamp();
    /* SQLite leaves out the sync of a commit whose rows are as they were: then what was written
     * before it without a sync would be called durable and is not. */
    struct change *mark = group->full && state->unsynced ? change_mark() : NULL;
    int failed = database_sync(state, group->full);
    if (!failed)
        failed = log_renew(state);
    if (!failed)
        failed = statement_run(state->begin);
    KILL_POINT("group-begun");
    if (!failed)
        failed = change_apply(state, stamp);
    if (!failed && mark)
        failed = change_apply(state, mark);
    bool logged = false;
    if (!failed)
        failed = group_put(state, group, stamp, &logged);
    changes_free(stamp);
    changes_free(mark);
    KILL_POINT("group-applied");
    if (!failed && statement_run(state->commit) == 0) {
        state->unsynced = !group->full;
        KILL_POINT("group-committed");
        group_done(state, group, logged);
        return 0;
    }
    int error = failed > 0 ? failed : database_errno(state->database);
    if (failed > 0)
        log_error("state: cannot write the folder of data files: %s", strerror(error));
    else if (error != ENOSPC || !reserve_release(&state->reserve))
        log_error(
            "state: cannot write: %s: free space on the disk of state_dir or mend it; retrying",
            sqlite3_errmsg(state->database));
    else
        error = EAGAIN;
    sqlite3_exec(state->database, "ROLLBACK", NULL, NULL, NULL);
    state->log_in_doubt |= failed <= 0 && error == EIO;
    return error;
}

/* group_write tries again as long as there is room that was kept for this. */
static int group_write(struct state *state, struct group *group)
{
    int error;
    pthread_mutex_lock(&state->database_lock);
    do {
        error = group_apply(state, group);
    } while (error == EAGAIN);
    pthread_mutex_unlock(&state->database_lock);
    if (!error)
        reserve_refill(&state->reserve);
    return error;
}

/*
 * gather_plan: a group was written, and whoever waited for it may be back with more before long. To
 * begin the next one with the first of them would have the others wait for two syncs; clients that
 * do not come back within half the time of one are not waited for again.
 */
static void gather_plan(struct state *state, const struct group *group, uint64_t begun_us)
{
    uint64_t now = clock_now_us(), took = now - begun_us;
    state->expected = group->waiters + state->fresh;
    state->gather_until_us = 0;
    if (state->skips > 0)
        state->skips--;
    else if (group->full && state->expected > 1)
        state->gather_until_us = now + (took / 2 < MOST_GATHER_US ? took / 2 : MOST_GATHER_US);
}

/* gather_waits: are more of them to be waited for? */
static bool gather_waits(struct state *state, uint64_t now)
{
    if (!state->gather_until_us)
        return false;
    if (state->fresh < state->expected && now < state->gather_until_us)
        return true;
    state->gather_until_us = 0;
    if (state->fresh >= state->expected) {
        state->in_vain = 0;
    } else {
        state->in_vain += state->in_vain < 6;
        state->skips = 1u << state->in_vain;
    }
    return false;
}

/* writer_wait waits until there is something to write. False at the end. */
static bool writer_wait(struct state *state)
{
    for (;;) {
        pulse_answer(&state->writer_pulse);
        bool work = state->first || state->wanted > state->durable || state->log_first;
        if (state->stopping)
            return state->first || state->log_first;
        uint64_t now = clock_now_us(), until = state->due_us;
        if (work && now >= state->due_us && !gather_waits(state, now))
            return true;
        if (work && now >= state->due_us)
            until = state->gather_until_us;
        if (!work) /* or who asks next would not wake us */
            until = state->due_us = UINT64_MAX;
        timed_wait(&state->asked, &state->lock, until);
    }
}

/* writer_pause waits a second, or until the state is to be closed, before the next attempt. */
static void writer_pause(struct state *state)
{
    uint64_t until = clock_now_us() + RETRY_US;
    while (!state->stopping && clock_now_us() < until)
        timed_wait(&state->asked, &state->lock, until);
}

/* waiter_is_due: is there nothing more to wait for? Then *error is its answer. */
static bool waiter_is_due(const struct state *state, const struct state_waiter *waiter, int *error)
{
    *error = 0;
    if (waiter->ticket <= (waiter->stored ? state->stored : state->durable))
        return true;
    *error = state->failure ? state->failure : EIO;
    return state->giving_up || (state->failure && !waiter->patient);
}

/*
 * only_waiter_tell answers one that waits alone and is light: to wake the announcer for it takes
 * longer. The state is locked.
 */
static void only_waiter_tell(struct state *state)
{
    struct state_waiter *only = state->waiters;
    int error;
    if (!only || only->next || !only->light || !waiter_is_due(state, only, &error))
        return;
    state->waiters = NULL;
    state->telling++;
    pthread_mutex_unlock(&state->lock);
    only->done(only, error);
    pthread_mutex_lock(&state->lock);
    state->telling--;
    pthread_cond_broadcast(&state->written);
}

static void *writer_run(void *argument)
{
    struct state *state = argument;
    pthread_mutex_lock(&state->lock);
    thread_name("state", "write");
    while (writer_wait(state)) {
        struct group group = {.last = &group.first};
        /* An attempt that began before the close may have met a disk that has room again. */
        bool last_attempt = group.direct = state->stopping;
        group.full = last_attempt || state->haste == FIRM || state->wanted > state->durable ||
                     (state->haste == JOURNAL && state->durability != DURABILITY_NONE);
        group_take(state, &group);
        pthread_mutex_unlock(&state->lock);
        uint64_t begun_us = clock_now_us();
        int error = group_write(state, &group);
        if (!error) {
            bytes_remove(state, group.first);
            changes_free(group.first);
        }
        pthread_mutex_lock(&state->lock);
        state->failure = error;
        if (!error) {
            state->stored = group.ticket;
            state->durable = group.full ? group.ticket : state->durable;
            gather_plan(state, &group, begun_us);
            if (state->log_first)
                hurry(state, clock_now_us() + LAZY_MS * 1000);
        } else { /* back in front of what came meanwhile */
            if (group.first) {
                *group.last = state->first;
                state->last = state->first ? state->last : group.last;
                state->first = group.first;
            }
            state->haste = group.haste > state->haste ? group.haste : state->haste;
            state->due_us = 0;
        }
        pthread_cond_broadcast(&state->written);
        only_waiter_tell(state);
        if (state->waiters)
            pthread_cond_signal(&state->due);
        if (error && last_attempt)
            break;
        if (error)
            writer_pause(state);
    }
    pthread_mutex_unlock(&state->lock);
    return NULL;
}

/* Waiting. */

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

/* due_take takes those off the list that are to be told; their error goes into `ticket`. */
static struct state_waiter *due_take(struct state *state)
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
        if (!due) {
            pthread_cond_wait(&state->due, &state->lock);
            continue;
        }
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
    pthread_mutex_lock(&state->lock);
    bool failing = state->failure != 0;
    pthread_mutex_unlock(&state->lock);
    return failing;
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
    pthread_mutex_unlock(&state->lock);
}

bool state_jobs_are_synced(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    bool synced = state->durability == DURABILITY_SYNC;
    pthread_mutex_unlock(&state->lock);
    return synced;
}

bool state_outputs_are_synced(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    bool synced = state->durability != DURABILITY_NONE;
    pthread_mutex_unlock(&state->lock);
    return synced;
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

/* rooms_open opens what lies in state_dir. */
static int rooms_open(struct state *state, int directory, const char *state_dir, struct text *error)
{
    /* It has the room that the database may need to open; and that comes before data/, which it
     * takes with it when it is damaged. */
    reserve_open(&state->reserve, directory);
    if (database_open(state, state_dir, error) < 0)
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
