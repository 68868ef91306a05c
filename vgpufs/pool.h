/*
 * A pool: takes the next job when a slot is free, enforces time limits and
 * shares, and keeps an executor alive in each slot. One thread a pool waits for
 * executors and timers; who submits a job also dispatches it if a slot is free.
 *
 * Thread-safe. Pools share nothing. Ends of jobs are told to vm_job_ended, the
 * one completion callback, with no lock held.
 */
#ifndef VGPUFS_POOL_H
#define VGPUFS_POOL_H

#include "config.h"
#include "histogram.h"
#include "pulse.h"
#include "queue.h"
#include "slot.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct job;
struct server;
struct vm;

/* The device share is measured over this many seconds, one bucket each. */
#define POOL_SHARE_SECONDS 60

/* Device time by seconds of the monotonic clock: `second` is that of the newest bucket. Numbers of
 * 64 bits and nothing else: it is handed over as it is (stats_save.c). */
struct pool_share {
    uint64_t second, used_us[POOL_SHARE_SECONDS];
};

/* A VM as a pool sees it. The VM owns it; the pool's lock guards it. */
struct pool_tenant {
    struct queue_tenant queue;
    struct pool *pool;
    struct vm *vm;
    struct pool_tenant *next; /* all of the pool's */
    unsigned running;
    unsigned syncing;     /* jobs that are done, whose outputs are on their way to the disk */
    uint64_t max_running; /* 0: as many as there are slots */
    unsigned share_percent;
    bool held;
    struct pool_share *share; /* NULL while share_percent is 100 */
};

/* Which of a slot's descriptors an epoll event is about; its data is slot index << 3 | kind. */
enum pool_event {
    POOL_EVENT_FRAMES,
    POOL_EVENT_ERRORS,
    POOL_EVENT_DEATH,
    POOL_EVENT_TIMER,
    POOL_EVENT_WAKE,
};

struct pool_counters {
    uint64_t done, failed, cancelled, timeout, device_us, executor_restarts;
};

struct pool {
    struct server *server;
    unsigned index;
    const char *name;
    pthread_t thread;
    bool has_thread;
    struct pulse pulse;          /* of its thread */
    int epoll, timer, wake;      /* descriptors; -1 while not made */
    char **executor;             /* the words of its command line */
    _Atomic uint64_t max_run_ms; /* the longest run time of a job */

    pthread_mutex_t lock; /* guards all below */
    struct queue queue;
    struct pool_tenant *tenants;
    struct slot *slots;
    unsigned slot_count, running;
    unsigned syncing;  /* of all tenants */
    uint64_t admitted; /* accepted jobs that are not in the queue yet */
    uint64_t max_queued, max_result_bytes;
    bool held, stopping;
    bool quitting;                /* the executors are to end, then the thread */
    unsigned over_share;          /* tenants of class QUEUE_OVER */
    uint64_t shares_seen_us;      /* when their shares were looked at last */
    uint64_t armed_us;            /* when the timer fires; UINT64_MAX: never */
    pthread_cond_t slots_changed; /* an executor said hello, or failed */
    uint64_t last_attempt;
    struct pool_counters counters;
    struct histogram wait, run;
};

/* pool_init makes a pool without a thread. Returns -1 and logs if it cannot. */
int pool_init(struct pool *pool, struct server *server, unsigned index);
/* pool_start starts its thread and its executors. -1 and logs if it cannot. */
int pool_start(struct pool *pool);
/*
 * pool_wait_ready waits until every slot's executor has said hello or failed, at most `ms`. False,
 * and *error in one line, if one has failed; the time running out is only logged.
 */
bool pool_wait_ready(struct pool *pool, uint64_t ms, struct text *error);
/* pool_stop_dispatch: nothing more is started; what is queued stays there. */
void pool_stop_dispatch(struct pool *pool);
/* pool_drop_queue forgets what is queued; the state has it. */
void pool_drop_queue(struct pool *pool);
/* pool_wait_idle waits until no job runs, at most `ms`: does none? */
bool pool_wait_idle(struct pool *pool, uint64_t ms);
/* pool_stop ends the executors and the thread; a job that still runs is put back into the queue, or
 * fails, as on_restart says (if the next daemon goes on with the mount, it is always put back).
 * pool_finish frees. */
void pool_stop(struct pool *pool);
void pool_finish(struct pool *pool);
/* pool_ask wakes the thread for an answer; pool_is_silent: there is none yet. */
void pool_ask(struct pool *pool);
bool pool_is_silent(const struct pool *pool);
/* pool_reload takes new limits. */
void pool_reload(struct pool *pool, const struct config_pool *config);

struct pool_tenant *pool_tenant_create(struct pool *pool, struct vm *vm);
/* pool_tenant_destroy accepts NULL; nothing of the tenant's may be queued or running. */
void pool_tenant_destroy(struct pool_tenant *tenant);
void pool_tenant_limit(struct pool_tenant *tenant, uint64_t max_running, unsigned share_percent);
/* pool_tenant_used adds what the VM has had of the device before; what no clock and no device could
 * have counted is left out. */
void pool_tenant_used(struct pool_tenant *tenant, const struct pool_share *before);
void pool_tenant_hold(struct pool_tenant *tenant, bool held);

/*
 * Submitting: pool_admit makes room for `count` jobs (0 or ENOSPC); then each is given to
 * pool_enqueue, which takes a reference, or pool_unadmit gives the room back. Where that says that
 * a slot is free, pool_dispatch then starts what can be started; it must be called without any lock
 * held. Where it does not, whoever frees a slot, or lets the pool go on, does that.
 */
int pool_admit(struct pool *pool, uint64_t count);
void pool_unadmit(struct pool *pool, uint64_t count);
bool pool_enqueue(struct pool *pool, struct pool_tenant *tenant, struct job *job, unsigned priority,
                  uint64_t now_us);
void pool_dispatch(struct pool *pool);
/* pool_restore queues a job as it stood before a restart: queue.sequence, .priority and .queued_us
 * are set. It takes a reference. 0 or ENOSPC without memory. */
int pool_restore(struct pool *pool, struct pool_tenant *tenant, struct job *job);

/*
 * pool_cancel ends a queued job now and a running one soon (it is asked, then its executor is
 * killed). No effect on one that has ended. `error` may be NULL.
 */
void pool_cancel(struct pool *pool, struct job *job, const char *error);
/* pool_set_priority: false if the job is not queued. */
bool pool_set_priority(struct pool *pool, struct job *job, unsigned priority);
/* pool_position returns 0 if the job is not queued. */
uint64_t pool_position(struct pool *pool, struct job *job);
void pool_hold(struct pool *pool, bool held);

#endif
