/* The thread that writes what was asked for, in groups: each is one transaction and one sync. */
#include "state_internal.h"

#include "clock.h"
#include "common/log.h"
#include "kill_point.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* How long the writer waits before it tries again what failed. */
#define RETRY_US UINT64_C(1000000)
/* How long those who were told are waited for, at most. */
#define MOST_GATHER_US 2000
/* So many replies the writer sends itself. */
#define MOST_TOLD 64
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
    int failed = change_apply(state, stamp);
    if (!failed)
        failed = log_apply(state);
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

/* writer_tells: is whoever is due to be told by the writer itself? To wake the announcer takes
 * longer than a few replies, and the writer has nothing to do before those come back with more. */
static bool writer_tells(const struct state *state)
{
    size_t count = 0;
    int error;
    if (state->first && !state->gather_until_us)
        return state->waiters && !state->waiters->next && state->waiters->light;
    for (const struct state_waiter *waiter = state->waiters; waiter; waiter = waiter->next)
        if (waiter_is_due(state, waiter, &error) && (!waiter->light || ++count > MOST_TOLD))
            return false;
    return count > 0;
}

/* written_tell has those told who waited for the group; the state is locked. */
static void written_tell(struct state *state)
{
    pthread_cond_broadcast(&state->written);
    struct state_waiter *due = writer_tells(state) ? due_take(state) : NULL;
    if (due)
        due_tell(state, due);
    else if (state->waiters)
        pthread_cond_signal(&state->due);
}

void *writer_run(void *argument)
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
        written_tell(state);
        if (error && last_attempt)
            break;
        if (error)
            writer_pause(state);
    }
    pthread_mutex_unlock(&state->lock);
    return NULL;
}
