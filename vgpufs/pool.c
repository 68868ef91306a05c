#include "pool.h"

#include "clock.h"
#include "common/log.h"
#include "events.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define SHARE_CHECK_US UINT64_C(250000)
#define QUIT_US        UINT64_C(2000000)

/* The tenants: who may run. */

/* share_bucket returns the bucket of the present second, with those of the time between cleared. */
static uint64_t *share_bucket(struct pool_tenant *tenant, uint64_t now_us)
{
    uint64_t second = now_us / 1000000;
    uint64_t passed = second - tenant->share_second;
    for (uint64_t i = 1; i <= passed && i <= POOL_SHARE_SECONDS; i++)
        tenant->share_us[(tenant->share_second + i) % POOL_SHARE_SECONDS] = 0;
    tenant->share_second = second;
    return &tenant->share_us[second % POOL_SHARE_SECONDS];
}

static bool tenant_over_share(struct pool_tenant *tenant, uint64_t now_us)
{
    if (!tenant->share_us)
        return false;
    share_bucket(tenant, now_us);
    uint64_t used = 0;
    for (size_t i = 0; i < POOL_SHARE_SECONDS; i++)
        used += tenant->share_us[i];
    uint64_t window = UINT64_C(1000000) * POOL_SHARE_SECONDS * tenant->pool->slot_count;
    return used * 100 > window * tenant->share_percent;
}

/* tenant_classify tells the queue whether the tenant's jobs may run. */
static void tenant_classify(struct pool_tenant *tenant, uint64_t now_us)
{
    struct pool *pool = tenant->pool;
    uint64_t most = tenant->max_running ? tenant->max_running : pool->slot_count;
    enum queue_class class = QUEUE_RUNNABLE;
    if (tenant->held || tenant->running >= most)
        class = QUEUE_BLOCKED;
    else if (tenant_over_share(tenant, now_us))
        class = QUEUE_OVER;
    pool->over_share += (class == QUEUE_OVER) - (tenant->queue.class == QUEUE_OVER);
    queue_set_class(&pool->queue, &tenant->queue, class);
}

/* shares_refresh looks, not too often, whether tenants have come back below their share. */
static void shares_refresh(struct pool *pool, uint64_t now_us)
{
    if (!pool->over_share || now_us - pool->shares_seen_us < SHARE_CHECK_US)
        return;
    pool->shares_seen_us = now_us;
    for (struct pool_tenant *tenant = pool->tenants; tenant; tenant = tenant->next)
        if (tenant->queue.class == QUEUE_OVER)
            tenant_classify(tenant, now_us);
}

struct pool_tenant *pool_tenant_create(struct pool *pool, struct vm *vm)
{
    struct pool_tenant *tenant = calloc(1, sizeof(*tenant));
    if (!tenant)
        return NULL;
    tenant->pool = pool;
    tenant->vm = vm;
    tenant->share_percent = 100;
    pthread_mutex_lock(&pool->lock);
    int failed = queue_attach(&pool->queue, &tenant->queue);
    if (!failed) {
        tenant->next = pool->tenants;
        pool->tenants = tenant;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!failed)
        return tenant;
    free(tenant);
    return NULL;
}

void pool_tenant_destroy(struct pool_tenant *tenant)
{
    if (!tenant)
        return;
    free(tenant->share_us);
    free(tenant);
}

void pool_tenant_limit(struct pool_tenant *tenant, uint64_t max_running, unsigned share_percent)
{
    struct pool *pool = tenant->pool;
    uint64_t now = clock_now_us();
    pthread_mutex_lock(&pool->lock);
    tenant->max_running = max_running;
    tenant->share_percent = share_percent;
    if (share_percent < 100 && !tenant->share_us) {
        tenant->share_us = calloc(POOL_SHARE_SECONDS, sizeof(uint64_t));
        tenant->share_second = now / 1000000;
        if (!tenant->share_us)
            log_error("no memory for device_share of vm%u: it is not enforced", tenant->vm->id);
    } else if (share_percent == 100) {
        free(tenant->share_us);
        tenant->share_us = NULL;
    }
    tenant_classify(tenant, now);
    pthread_mutex_unlock(&pool->lock);
}

void pool_tenant_hold(struct pool_tenant *tenant, bool held)
{
    pthread_mutex_lock(&tenant->pool->lock);
    tenant->held = held;
    tenant_classify(tenant, clock_now_us());
    pthread_mutex_unlock(&tenant->pool->lock);
}

/* The timer. */

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
 * timer_arm makes the timer fire at `due_us` if it would fire later. It is never set back: firing
 * too early costs one look, setting it at every job would cost a system call each.
 */
static void timer_arm(struct pool *pool, uint64_t due_us)
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

/* Ends of jobs. */

static void count_end(struct pool *pool, const struct job *job, enum job_state state, bool ran)
{
    struct pool_counters *counters = &pool->counters;
    uint64_t *const by_state[] = {
        [JOB_DONE] = &counters->done,
        [JOB_FAILED] = &counters->failed,
        [JOB_CANCELLED] = &counters->cancelled,
        [JOB_TIMEOUT] = &counters->timeout,
    };
    ++*by_state[state];
    if (!ran)
        return;
    uint64_t run_us = clock_now_us() - job->started_us;
    counters->device_us += run_us;
    histogram_add(&pool->run, run_us);
    histogram_add(&pool->wait, job->started_us - job->queue.queued_us);
}

/* tenant_release gives back what a running job had taken. */
static void tenant_release(struct pool *pool, const struct job *job)
{
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    uint64_t now = clock_now_us();
    pool->running--;
    tenant->running--;
    atomic_fetch_sub(&job->vm->running, 1);
    if (tenant->share_us)
        *share_bucket(tenant, now) += now - job->started_us;
    tenant_classify(tenant, now);
}

/* ending_tell does the rest of a job's end, with no lock held. */
static void ending_tell(struct pool *pool, struct ending *ending)
{
    struct job *job = ending->run.job;
    struct job_outcome *outcome = &ending->outcome;
    if (!job)
        return;
    if (outcome->state == JOB_DONE && run_install(&ending->run, ending->error) < 0) {
        outcome->state = JOB_FAILED;
        outcome->error = ending->error;
    }
    outcome->output = ending->run.output.data ? ending->run.output.data : "";
    outcome->output_size = ending->run.output.size;
    pthread_mutex_lock(&pool->lock);
    count_end(pool, job, outcome->state, true);
    pthread_cond_broadcast(&pool->slots_changed);
    pthread_mutex_unlock(&pool->lock);
    vm_job_ended(job, outcome);
    run_finish(&ending->run);
}

/* queued_take takes a queued job out; the caller gets the queue's reference and the right to end
 * it. The pool is locked. */
static void queued_take(struct pool *pool, struct job *job)
{
    queue_remove(&pool->queue, &job->queue);
    atomic_fetch_sub(&job->vm->queued, 1);
}

/* queued_end ends a job that never ran; no lock is held. */
static void queued_end(struct pool *pool, struct job *job, enum job_state state, const char *error)
{
    struct job_outcome outcome = {.state = state, .error = error, .output = "", .exit_code = -1};
    pthread_mutex_lock(&pool->lock);
    count_end(pool, job, state, false);
    pthread_mutex_unlock(&pool->lock);
    vm_job_ended(job, &outcome);
    job_unref(job);
}

/* Starting jobs. */

static struct slot *idle_slot(struct pool *pool)
{
    for (unsigned i = 0; i < pool->slot_count; i++)
        /* One that still has a starter lost its executor and got a new one meanwhile. */
        if (pool->slots[i].state == SLOT_IDLE && !pool->slots[i].run.preparing)
            return &pool->slots[i];
    return NULL;
}

/* take_next gives the next job to a free slot. NULL if there is none of either. */
static struct slot *take_next(struct pool *pool)
{
    uint64_t now = clock_now_us();
    if (pool->held || pool->stopping)
        return NULL;
    shares_refresh(pool, now);
    struct slot *slot = idle_slot(pool);
    struct queue_item *item = slot ? queue_next(&pool->queue, now) : NULL;
    if (!item)
        return NULL;
    struct job *job = container_of(item, struct job, queue);
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    queue_take(&pool->queue, item);
    atomic_fetch_sub(&job->vm->queued, 1);
    atomic_fetch_add(&job->vm->running, 1);
    pool->running++;
    tenant->running++;
    tenant_classify(tenant, now);
    job->started_us = now;
    atomic_store_explicit(&job->state, JOB_RUNNING, memory_order_release);
    uint64_t limit = atomic_load(&pool->max_run_ms);
    slot->state = SLOT_BUSY;
    slot->run = (struct run){
        .job = job,
        .attempt = ++pool->last_attempt,
        .max_output_bytes = pool->max_result_bytes,
        .preparing = true,
        .limit_ms = job->timeout_ms && job->timeout_ms < limit ? job->timeout_ms : limit,
        .kill_us = UINT64_MAX,
    };
    return slot;
}

/* put_back returns a job to the queue whose executor was lost before the job reached it. */
static void put_back(struct pool *pool, struct slot *slot)
{
    struct job *job = slot->run.job;
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    tenant_release(pool, job);
    queue_requeue(&pool->queue, &tenant->queue, &job->queue);
    atomic_fetch_add(&job->vm->queued, 1);
    job->started_us = 0;
    atomic_store_explicit(&job->state, JOB_QUEUED, memory_order_release);
    slot->run.job = NULL; /* the reference is the queue's again */
}

/*
 * start_locked sends the prepared job; or ends it, or puts it back. `prepared` is -1 when it must
 * fail with `error`.
 */
static void start_locked(struct slot *slot, int prepared, const char *error,
                         const struct text *frame, struct ending *ending, struct run *abandoned)
{
    struct pool *pool = slot->pool;
    struct run *run = &slot->run;
    run->preparing = false;
    if (run->file_count && !slot->descriptors && prepared == 0) {
        prepared = -1;
        error = "this pool's executor runs elsewhere and cannot get data files";
    }
    if (run->cancelled) {
        slot_end(slot, JOB_CANCELLED, run->cancel_error, ending);
    } else if (prepared < 0) {
        slot_end(slot, JOB_FAILED, error, ending);
    } else if (slot->state == SLOT_BUSY) {
        /* If this fails the connection is broken: its end will be read, and the job told why. */
        slot_send(slot, frame);
        run->limit_us = clock_now_us() + run->limit_ms * 1000;
        timer_arm(pool, run->limit_us);
    } else {
        put_back(pool, slot);
        *abandoned = slot->run;
        slot->run = (struct run){0};
    }
    if (ending->run.job)
        tenant_release(pool, ending->run.job);
}

static void slot_start(struct slot *slot)
{
    struct pool *pool = slot->pool;
    struct text frame = {0};
    char error[COMMAND_MAX_ERROR];
    struct ending ending;
    struct run abandoned = {0};
    ending.run = (struct run){0};
    events_processing(pool->server, slot->run.job);
    int prepared = run_prepare(&slot->run, &pool->server->catalogue, &frame, error);
    pthread_mutex_lock(&pool->lock);
    start_locked(slot, prepared, error, &frame, &ending, &abandoned);
    pthread_mutex_unlock(&pool->lock);
    text_finish(&frame);
    run_finish(&abandoned);
    ending_tell(pool, &ending);
}

void pool_dispatch(struct pool *pool)
{
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        struct slot *slot = take_next(pool);
        pthread_mutex_unlock(&pool->lock);
        if (!slot)
            return;
        slot_start(slot);
    }
}

int pool_admit(struct pool *pool, uint64_t count)
{
    int error = 0;
    pthread_mutex_lock(&pool->lock);
    uint64_t taken = queue_count(&pool->queue) + pool->admitted;
    bool full = taken >= pool->max_queued || count > pool->max_queued - taken;
    if (count && (full || queue_reserve(&pool->queue, taken + count) < 0))
        error = ENOSPC;
    else
        pool->admitted += count;
    pthread_mutex_unlock(&pool->lock);
    return error;
}

void pool_unadmit(struct pool *pool, uint64_t count)
{
    pthread_mutex_lock(&pool->lock);
    pool->admitted -= count;
    pthread_mutex_unlock(&pool->lock);
}

void pool_enqueue(struct pool *pool, struct pool_tenant *tenant, struct job *job, unsigned priority)
{
    uint64_t now = clock_now_us();
    job_ref(job);
    job->queue.deadline_us = job->deadline_ms ? now + job->deadline_ms * UINT64_C(1000) : 0;
    job->queue.priority = (uint8_t)priority;
    atomic_store_explicit(&job->state, JOB_QUEUED, memory_order_release);
    pthread_mutex_lock(&pool->lock);
    pool->admitted--;
    queue_push(&pool->queue, &tenant->queue, &job->queue, priority, now);
    atomic_fetch_add(&job->vm->queued, 1);
    if (job->queue.deadline_us)
        timer_arm(pool, job->queue.deadline_us);
    pthread_mutex_unlock(&pool->lock);
}

/* What the administrator and the guests do to queued jobs. */

void pool_cancel(struct pool *pool, struct job *job, const char *error)
{
    pthread_mutex_lock(&pool->lock);
    bool queued = job->queue.tenant != NULL;
    if (queued)
        queued_take(pool, job);
    for (unsigned i = 0; i < pool->slot_count && !queued; i++) {
        struct slot *slot = &pool->slots[i];
        if (slot->run.job != job)
            continue;
        slot_ask_cancel(slot, error);
        timer_arm(pool, slot->run.kill_us);
    }
    pthread_mutex_unlock(&pool->lock);
    if (queued)
        queued_end(pool, job, JOB_CANCELLED, error);
}

bool pool_set_priority(struct pool *pool, struct job *job, unsigned priority)
{
    pthread_mutex_lock(&pool->lock);
    bool moved = job->queue.tenant != NULL;
    if (moved)
        queue_set_priority(&pool->queue, &job->queue, priority);
    pthread_mutex_unlock(&pool->lock);
    return moved;
}

uint64_t pool_position(struct pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->lock);
    uint64_t position = job->queue.tenant ? queue_position(&pool->queue, &job->queue) : 0;
    pthread_mutex_unlock(&pool->lock);
    return position;
}

void pool_hold(struct pool *pool, bool held)
{
    pthread_mutex_lock(&pool->lock);
    pool->held = held;
    pthread_mutex_unlock(&pool->lock);
    if (!held)
        pool_dispatch(pool);
}

/* The thread. */

/* expired_end ends the jobs whose deadline has passed. */
static void expired_end(struct pool *pool)
{
    for (;;) {
        char error[64];
        pthread_mutex_lock(&pool->lock);
        struct queue_item *item = queue_expired(&pool->queue, clock_now_us());
        struct job *job = item ? container_of(item, struct job, queue) : NULL;
        if (job)
            queued_take(pool, job);
        pthread_mutex_unlock(&pool->lock);
        if (!job)
            return;
        snprintf(error, sizeof(error), "the deadline of %g s in the queue has passed",
                 (double)job->deadline_ms / 1000);
        queued_end(pool, job, JOB_TIMEOUT, error);
    }
}

/* after_slot does what follows when a slot's lock is given up: start the next job, then tell. */
static void after_slot(struct pool *pool, struct ending *ending)
{
    pool_dispatch(pool);
    ending_tell(pool, ending);
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
    else
        slot_read(slot, &ending);
    if (ending.run.job)
        tenant_release(pool, ending.run.job);
    timer_arm(pool, slot_due_us(slot));
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
        bool launch = slot_tick(slot, clock_now_us(), &ending);
        if (ending.run.job)
            tenant_release(pool, ending.run.job);
        pthread_mutex_unlock(&pool->lock);
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
    pthread_mutex_lock(&pool->lock);
    timer_arm(pool, earliest_due_us(pool));
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
    pool_tick(pool); /* launches the executors */
    for (;;) {
        struct epoll_event events[16];
        int count = epoll_wait(pool->epoll, events, 16, quit_since ? 100 : -1);
        for (int i = 0; i < count; i++) {
            enum pool_event kind = (enum pool_event)(events[i].data.u64 & 3);
            uint64_t value;
            if (kind == POOL_EVENT_TIMER)
                pool_tick(pool);
            else if (kind != POOL_EVENT_WAKE)
                slot_event(&pool->slots[events[i].data.u64 >> 2], kind);
            else if (read(pool->wake, &value, sizeof(value)) > 0)
                quit_since = clock_now_us();
        }
        if (quit_since && pool_has_quit(pool, quit_since))
            return NULL;
    }
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

void pool_wait_idle(struct pool *pool, uint64_t ms)
{
    struct timespec until = deadline_after(ms);
    int waited = 0;
    pthread_mutex_lock(&pool->lock);
    while (pool->running && waited == 0)
        waited = pthread_cond_timedwait(&pool->slots_changed, &pool->lock, &until);
    pthread_mutex_unlock(&pool->lock);
}

void pool_stop_dispatch(struct pool *pool, const char *error)
{
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        pool->stopping = true;
        struct queue_item *item = pool->queue.newest;
        struct job *job = item ? container_of(item, struct job, queue) : NULL;
        if (job)
            queued_take(pool, job);
        pthread_mutex_unlock(&pool->lock);
        if (!job)
            return;
        queued_end(pool, job, JOB_CANCELLED, error);
    }
}

void pool_stop(struct pool *pool, const char *error)
{
    uint64_t one = 1;
    if (!pool->has_thread)
        return;
    for (unsigned i = 0; i < pool->slot_count; i++) {
        struct ending ending;
        ending.run = (struct run){0};
        pthread_mutex_lock(&pool->lock);
        pool->quitting = pool->stopping = true;
        slot_quit(&pool->slots[i], error, &ending);
        if (ending.run.job)
            tenant_release(pool, ending.run.job);
        timer_arm(pool, 0);
        pthread_mutex_unlock(&pool->lock);
        ending_tell(pool, &ending);
    }
    ssize_t size = write(pool->wake, &one, sizeof(one));
    (void)size; /* an eventfd takes it */
    pthread_join(pool->thread, NULL);
    pool->has_thread = false;
    pool_stop_dispatch(pool, error); /* a job that was put back meanwhile */
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
