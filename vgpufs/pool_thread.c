/* A pool's thread and its life: executors, timers, start and stop. */
#include "pool.h"
#include "pool_internal.h"

#include "clock.h"
#include "common/log.h"
#include "process.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define QUIT_US UINT64_C(2000000)

static uint64_t earliest_due_us(const struct pool *pool)
{
    uint64_t due = queue_next_deadline_us(&pool->queue);
    for (unsigned i = 0; i < pool->slot_count; i++) {
        uint64_t slot_due = slot_due_us(&pool->slots[i]);
        due = slot_due < due ? slot_due : due;
    }
    return due;
}

/*
 * pool_arm_timer makes the timer fire at `due_us` if it would fire later. It is never set back:
 * firing too early costs one look, setting it at every job would cost a system call each.
 */
void pool_arm_timer(struct pool *pool, uint64_t due_us)
{
    if (due_us >= pool->armed_us)
        return;
    pool->armed_us = due_us;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(due_us / 1000000),
                                           .tv_nsec = (long)(due_us % 1000000) * 1000}};
    if (due_us == 0)
        when.it_value.tv_nsec = 1; /* zero would disarm it: timerfd_settime(2) */
    timerfd_settime(pool->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* expired_end ends the jobs whose deadline has passed. */
static void expired_end(struct pool *pool)
{
    for (;;) {
        char error[64];
        pthread_mutex_lock(&pool->lock);
        struct queue_item *item = queue_expired(&pool->queue, clock_now_us());
        struct job *job = item ? container_of(item, struct job, queue) : NULL;
        if (job)
            pool_unqueue(pool, job);
        pthread_mutex_unlock(&pool->lock);
        if (!job)
            return;
        snprintf(error, sizeof(error), "the deadline of %g s in the queue has passed",
                 (double)(item->deadline_us - (int64_t)item->queued_us) / 1e6);
        pool_end_queued(pool, job, JOB_TIMEOUT, error);
    }
}

/* after_slot does what follows when a slot's lock is given up: start the next job, then tell. */
static void after_slot(struct pool *pool, struct ending *ending)
{
    pool_start_one(pool);
    pool_tell(pool, ending);
    pool_dispatch(pool); /* jobs that fail at their start may follow each other for long */
}

/* slot_event lets `handle` work on a slot with the pool locked, and does what follows from it. */
static void slot_event(struct slot *slot, enum pool_event kind)
{
    struct pool *pool = slot->pool;
    struct ending ending;
    ending.run = (struct run){0};
    pthread_mutex_lock(&pool->lock);
    if (kind == POOL_EVENT_ERRORS)
        slot_read_errors(slot);
    else if (kind == POOL_EVENT_DEATH)
        slot_died(slot, &ending);
    else
        slot_read(slot, &ending);
    if (ending.run.job)
        pool_release(pool, ending.run.job);
    pool_arm_timer(pool, slot_due_us(slot));
    pthread_mutex_unlock(&pool->lock);
    after_slot(pool, &ending);
}

static void slots_tick(struct pool *pool)
{
    for (unsigned i = 0; i < pool->slot_count; i++) {
        struct slot *slot = &pool->slots[i];
        struct ending ending;
        ending.run = (struct run){0};
        pthread_mutex_lock(&pool->lock);
        bool lived = slot->state != SLOT_DOWN;
        bool launch = slot_tick(slot, clock_now_us(), &ending);
        bool dead = lived && slot->state == SLOT_DOWN;
        if (ending.run.job)
            pool_release(pool, ending.run.job);
        pthread_mutex_unlock(&pool->lock);
        if (dead)
            enclosure_clear(pool->server->enclosures, slot->name);
        if (launch)
            slot_launch(slot);
        after_slot(pool, &ending);
    }
}

static void pool_tick(struct pool *pool)
{
    uint64_t expirations;
    ssize_t size = read(pool->timer, &expirations, sizeof(expirations));
    (void)size; /* EAGAIN when it was set anew meanwhile: looking once more does no harm */
    pthread_mutex_lock(&pool->lock);
    pool->armed_us = UINT64_MAX;
    pthread_mutex_unlock(&pool->lock);
    expired_end(pool);
    slots_tick(pool);
    pulse_answer(&pool->pulse);
    pthread_mutex_lock(&pool->lock);
    pool_arm_timer(pool, earliest_due_us(pool));
    pthread_mutex_unlock(&pool->lock);
}

static bool pool_has_quit(struct pool *pool, uint64_t since_us)
{
    bool quit = true;
    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < pool->slot_count; i++)
        quit = quit && pool->slots[i].state == SLOT_DOWN;
    quit = (quit || clock_now_us() - since_us > QUIT_US) && pool->quitting;
    pthread_mutex_unlock(&pool->lock);
    return quit;
}

static void *pool_run(void *argument)
{
    struct pool *pool = argument;
    uint64_t quit_since = 0;
    thread_name("pool", pool->name);
    pool_tick(pool); /* launches the executors */
    for (;;) {
        struct epoll_event events[16];
        int count = epoll_wait(pool->epoll, events, 16, quit_since ? 100 : -1);
        for (int i = 0; i < count; i++) {
            enum pool_event kind = (enum pool_event)(events[i].data.u64 & 7);
            uint64_t value;
            if (kind == POOL_EVENT_TIMER)
                pool_tick(pool);
            else if (kind != POOL_EVENT_WAKE)
                slot_event(&pool->slots[events[i].data.u64 >> 3], kind);
            else if (read(pool->wake, &value, sizeof(value)) > 0)
                quit_since = clock_now_us();
        }
        if (quit_since && pool_has_quit(pool, quit_since))
            return NULL;
    }
}

void pool_ask(struct pool *pool)
{
    pulse_ask(&pool->pulse);
    pthread_mutex_lock(&pool->lock);
    pool_arm_timer(pool, 0);
    pthread_mutex_unlock(&pool->lock);
}

bool pool_is_silent(const struct pool *pool)
{
    return pulse_is_missing(&pool->pulse);
}

/* Life. */

int pool_init(struct pool *pool, struct server *server, unsigned index)
{
    const struct config_pool *config = &server->config->pools[index];
    *pool = (struct pool){
        .server = server,
        .index = index,
        .name = config->name,
        .slot_count = config->slots,
        .armed_us = UINT64_MAX,
        .timer = -1,
        .wake = -1,
    };
    pool->epoll = epoll_create1(EPOLL_CLOEXEC);
    pool->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    pool->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->slots_changed, NULL);
    queue_init(&pool->queue, config->order, config->max_wait_ms * 1000);
    pool_reload(pool, config);
    pool->slots = calloc(pool->slot_count, sizeof(*pool->slots));
    const char *error = strerror(ENOMEM);
    pool->executor = config_split_command(config->executor, &error);
    struct epoll_event timer = {.events = EPOLLIN, .data.u64 = POOL_EVENT_TIMER};
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = POOL_EVENT_WAKE};
    if (!pool->slots || !pool->executor || pool->epoll < 0 || pool->timer < 0 || pool->wake < 0 ||
        epoll_ctl(pool->epoll, EPOLL_CTL_ADD, pool->timer, &timer) < 0 ||
        epoll_ctl(pool->epoll, EPOLL_CTL_ADD, pool->wake, &wake) < 0) {
        log_error("pool %s: %s", pool->name, strerror(errno));
        return -1;
    }
    for (unsigned i = 0; i < pool->slot_count; i++)
        slot_init(&pool->slots[i], pool, i);
    return 0;
}

int pool_start(struct pool *pool)
{
    int error = pthread_create(&pool->thread, NULL, pool_run, pool);
    if (error) {
        log_error("pool %s: cannot start its thread: %s", pool->name, strerror(error));
        return -1;
    }
    pool->has_thread = true;
    return 0;
}

static struct timespec deadline_after(uint64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return until;
}

bool pool_wait_ready(struct pool *pool, uint64_t ms, struct text *error)
{
    struct timespec until = deadline_after(ms);
    bool failed = false;
    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < pool->slot_count && !failed; i++) {
        const struct slot *slot = &pool->slots[i];
        int waited = 0;
        while (!slot->answered && waited == 0)
            waited = pthread_cond_timedwait(&pool->slots_changed, &pool->lock, &until);
        if (!slot->answered)
            log_warning("executor %s has not said hello yet: starting without it", slot->name);
        failed = slot->answered && slot->failure[0];
        if (failed)
            text_printf(error, "pool %s: %s", pool->name, slot->failure);
    }
    pthread_mutex_unlock(&pool->lock);
    return !failed;
}

bool pool_wait_idle(struct pool *pool, uint64_t ms)
{
    struct timespec until = deadline_after(ms);
    int waited = 0;
    pthread_mutex_lock(&pool->lock);
    while (pool->running && waited == 0)
        waited = pthread_cond_timedwait(&pool->slots_changed, &pool->lock, &until);
    bool idle = pool->running == 0;
    pthread_mutex_unlock(&pool->lock);
    return idle;
}

void pool_stop_dispatch(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_mutex_unlock(&pool->lock);
}

void pool_drop_queue(struct pool *pool)
{
    for (struct queue_item *item; (item = queue_oldest(&pool->queue));) {
        struct job *job = container_of(item, struct job, queue);
        pool_unqueue(pool, job);
        job_unref(job);
    }
}

/* slot_stop ends the slot's executor, and takes its job out of it. */
static void slot_stop(struct slot *slot)
{
    struct pool *pool = slot->pool;
    struct ending ending;
    struct run abandoned = {0};
    ending.run = (struct run){0};
    pthread_mutex_lock(&pool->lock);
    pool->quitting = pool->stopping = true;
    /* A restart that was planned is no fault of the job's: it goes on, whatever on_restart says. */
    bool again =
        (pool->server->on_restart == ON_RESTART_RERUN || atomic_load(&pool->server->leaving)) &&
        !slot->run.cancelled;
    if (slot->run.job && !slot->run.preparing && again)
        pool_put_back(pool, slot, &abandoned);
    slot_quit(slot, &ending);
    if (ending.run.job)
        pool_release(pool, ending.run.job);
    pool_arm_timer(pool, 0);
    pthread_mutex_unlock(&pool->lock);
    run_finish(&abandoned);
    pool_tell(pool, &ending);
}

void pool_stop(struct pool *pool)
{
    uint64_t one = 1;
    if (!pool->has_thread)
        return;
    for (unsigned i = 0; i < pool->slot_count; i++)
        slot_stop(&pool->slots[i]);
    ssize_t size = write(pool->wake, &one, sizeof(one));
    (void)size; /* an eventfd takes it */
    pthread_join(pool->thread, NULL);
    pool->has_thread = false;
    pthread_mutex_lock(&pool->lock);
    while (pool->syncing)
        pthread_cond_wait(&pool->slots_changed, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void pool_finish(struct pool *pool)
{
    for (unsigned i = 0; pool->slots && i < pool->slot_count; i++)
        link_close(&pool->slots[i].link);
    free(pool->slots);
    free(pool->executor);
    queue_finish(&pool->queue);
    int descriptors[] = {pool->epoll, pool->timer, pool->wake};
    for (size_t i = 0; i < sizeof(descriptors) / sizeof(descriptors[0]); i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    pthread_cond_destroy(&pool->slots_changed);
    pthread_mutex_destroy(&pool->lock);
}

void pool_reload(struct pool *pool, const struct config_pool *config)
{
    pthread_mutex_lock(&pool->lock);
    queue_set_order(&pool->queue, config->order, config->max_wait_ms * 1000);
    pool->max_queued = config->max_queued;
    pool->max_result_bytes = config->max_result_bytes;
    atomic_store(&pool->max_run_ms, config->max_run_ms);
    pthread_mutex_unlock(&pool->lock);
}
