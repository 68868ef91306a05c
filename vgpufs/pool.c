/* A pool's jobs: queueing, starting, ending. */
#include "pool.h"
#include "pool_internal.h"

#include "clock.h"
#include "events.h"
#include "kill_point.h"
#include "running.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Ends of jobs. */

/* count_end: `ended_us` 0 if it never ran. */
static void count_end(struct pool *pool, const struct job *job, enum job_state state,
                      uint64_t ended_us)
{
    struct pool_counters *counters = &pool->counters;
    uint64_t *const by_state[] = {
        [JOB_DONE] = &counters->done,
        [JOB_FAILED] = &counters->failed,
        [JOB_CANCELLED] = &counters->cancelled,
        [JOB_TIMEOUT] = &counters->timeout,
    };
    ++*by_state[state];
    if (!ended_us)
        return;
    uint64_t run_us = ended_us - job->started_us;
    counters->device_us += run_us;
    histogram_add(&pool->run, run_us);
    histogram_add(&pool->wait, job->started_us - job->queue.queued_us);
}

void pool_release(struct pool *pool, const struct job *job)
{
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    uint64_t now = clock_now_us();
    pool->running--;
    tenant->running--;
    atomic_fetch_sub(&job->vm->running, 1);
    if (tenant->share)
        *pool_share_bucket(tenant, now) += now - job->started_us;
    pool_classify(tenant, now);
}

/* tell does it at once; `sync`: first the outputs are to be on disk. */
static void tell(struct pool *pool, struct ending *ending, bool sync)
{
    struct job *job = ending->run.job;
    struct job_outcome *outcome = &ending->outcome;
    if (outcome->state == JOB_DONE && ((sync && run_sync(&ending->run, ending->error) < 0) ||
                                       run_install(&ending->run, ending->error) < 0)) {
        outcome->state = JOB_FAILED;
        outcome->error = ending->error;
    }
    outcome->output = ending->run.output.data ? ending->run.output.data : "";
    outcome->output_size = ending->run.output.size;
    pthread_mutex_lock(&pool->lock);
    count_end(pool, job, outcome->state, outcome->ended_us);
    pthread_cond_broadcast(&pool->slots_changed);
    pthread_mutex_unlock(&pool->lock);
    vm_job_ended(job, outcome);
    run_finish(&ending->run);
}

/* The end of a job whose outputs go to the disk first. */
struct sync_task {
    struct task task;
    struct pool *pool;
    struct pool_tenant *tenant;
    struct ending ending;
};

static void sync_run(struct task *task)
{
    struct sync_task *own = container_of(task, struct sync_task, task);
    struct pool *pool = own->pool;
    tell(pool, &own->ending, true);
    pthread_mutex_lock(&pool->lock);
    own->tenant->syncing--;
    pool_classify(own->tenant, clock_now_us());
    pthread_mutex_unlock(&pool->lock);
    free(own);
    pool_dispatch(pool);
    pthread_mutex_lock(&pool->lock);
    pool->syncing--;
    pthread_cond_broadcast(&pool->slots_changed); /* who stops the pool waits for this */
    pthread_mutex_unlock(&pool->lock);
}

/* sync_later hands the end to the VM's thread for what waits for a disk: neither this thread nor
 * the slot waits. False without memory. */
static bool sync_later(struct pool *pool, const struct ending *ending)
{
    struct sync_task *own = malloc(sizeof(*own));
    if (!own)
        return false;
    struct vm *vm = ending->run.job->vm;
    *own = (struct sync_task){
        .task.run = sync_run, .pool = pool, .tenant = vm->tenants[pool->index], .ending = *ending};
    own->ending.outcome.backend = own->ending.backend;
    own->ending.outcome.device = own->ending.device;
    pthread_mutex_lock(&pool->lock);
    pool->syncing++;
    own->tenant->syncing++;
    pool_classify(own->tenant, clock_now_us());
    pthread_mutex_unlock(&pool->lock);
    worker_hand(&vm->worker, &own->task);
    return true;
}

void pool_tell(struct pool *pool, struct ending *ending)
{
    if (!ending->run.job)
        return;
    bool sync = ending->outcome.state == JOB_DONE && run_has_output(&ending->run) &&
                state_outputs_are_synced(pool->server->state);
    if (!sync || !sync_later(pool, ending))
        tell(pool, ending, sync);
}

void pool_unqueue(struct pool *pool, struct job *job)
{
    queue_remove(&pool->queue, &job->queue);
    atomic_fetch_sub(&job->vm->queued, 1);
}

void pool_end_queued(struct pool *pool, struct job *job, enum job_state state, const char *error)
{
    struct job_outcome outcome = {.state = state, .error = error, .output = "", .exit_code = -1};
    pthread_mutex_lock(&pool->lock);
    count_end(pool, job, state, 0);
    pthread_mutex_unlock(&pool->lock);
    vm_job_ended(job, &outcome);
    job_unref(job);
}

/* Starting jobs. */

/* usable_slot returns a slot that may be given a job, or NULL. */
static struct slot *usable_slot(struct pool *pool)
{
    for (unsigned i = 0; i < pool->slot_count && !pool->held && !pool->stopping; i++)
        /* One that still has a starter lost its executor and got a new one meanwhile. */
        if (pool->slots[i].state == SLOT_IDLE && !pool->slots[i].run.preparing)
            return &pool->slots[i];
    return NULL;
}

/* take_next gives the next job to a free slot. NULL if there is none of either. */
static struct slot *take_next(struct pool *pool)
{
    struct slot *slot = usable_slot(pool);
    if (!slot)
        return NULL;
    uint64_t now = clock_now_us();
    pool_refresh_shares(pool, now);
    struct queue_item *item = queue_next(&pool->queue, now);
    if (!item)
        return NULL;
    struct job *job = container_of(item, struct job, queue);
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    queue_take(&pool->queue, item);
    atomic_fetch_sub(&job->vm->queued, 1);
    atomic_fetch_add(&job->vm->running, 1);
    pool->running++;
    tenant->running++;
    pool_classify(tenant, now);
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

void pool_put_back(struct pool *pool, struct slot *slot, struct run *abandoned)
{
    struct job *job = slot->run.job;
    struct pool_tenant *tenant = job->vm->tenants[pool->index];
    pool_release(pool, job);
    running_clear(pool->server->running, job->note);
    job->note = 0;
    queue_requeue(&pool->queue, &tenant->queue, &job->queue);
    atomic_fetch_add(&job->vm->queued, 1);
    job->started_us = 0;
    atomic_store_explicit(&job->state, JOB_QUEUED, memory_order_release);
    if (job->journaled && pool->server->on_restart == ON_RESTART_FAIL)
        state_unstart_job(pool->server->state, job->vm->id, job->number);
    slot->run.job = NULL; /* the reference is the queue's again */
    *abandoned = slot->run;
    slot->run = (struct run){0};
    pthread_cond_broadcast(&pool->slots_changed);
    if (job->queue.deadline_us)
        pool_arm_timer(pool, queue_next_deadline_us(&pool->queue));
}

/* A job on its way to its executor. */
struct start {
    struct state_waiter waiter;
    struct slot *slot;
    struct text frame;
    int prepared; /* -1: it must fail with `error` */
    char error[COMMAND_MAX_ERROR];
};

/* start_locked sends the prepared job; or ends it, or puts it back. */
static void start_locked(const struct start *start, struct ending *ending, struct run *abandoned)
{
    struct slot *slot = start->slot;
    int prepared = start->prepared;
    const char *error = start->error;
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
        /* If this fails the process is given up, and the job told why when it is waited for. */
        slot_send(slot, &start->frame);
        run->limit_us = clock_now_us() + run->limit_ms * 1000;
        pool_arm_timer(pool, slot_due_us(slot));
    } else {
        pool_put_back(pool, slot, abandoned);
    }
    if (ending->run.job)
        pool_release(pool, ending->run.job);
}

/* start_finish sends the job and frees `start`. */
static void start_finish(struct start *start)
{
    struct pool *pool = start->slot->pool;
    struct ending ending;
    struct run abandoned = {0};
    ending.run = (struct run){0};
    pthread_mutex_lock(&pool->lock);
    start_locked(start, &ending, &abandoned);
    pthread_mutex_unlock(&pool->lock);
    text_finish(&start->frame);
    free(start);
    run_finish(&abandoned);
    pool_tell(pool, &ending);
}

static void start_noted(struct state_waiter *waiter, int error)
{
    struct start *start = container_of(waiter, struct start, waiter);
    struct pool *pool = start->slot->pool;
    (void)
        error; /* only while the daemon ends: then the executor is gone, and the job is put back */
    start_finish(start);
    pool_dispatch(pool);
}

/*
 * start_note: a job that must not run twice is noted as running before it does. False if there is
 * nothing to wait for.
 */
static bool start_note(struct start *start)
{
    struct job *job = start->slot->run.job;
    struct vm *vm = job->vm;
    struct state *state = vm->server->state;
    int error;
    if (vm->server->on_restart != ON_RESTART_FAIL)
        return false;
    pthread_mutex_lock(&vm->lock); /* behind its acceptance */
    bool noted = job->journaled;
    state_ticket ticket = noted ? state_start_job(state, vm->id, job->number) : 0;
    pthread_mutex_unlock(&vm->lock);
    start->waiter = (struct state_waiter){.ticket = ticket, .patient = true, .done = start_noted};
    return noted && state_jobs_are_synced(state) && state_when(state, &start->waiter, &error);
}

static void slot_start(struct slot *slot)
{
    struct pool *pool = slot->pool;
    struct start *start = malloc(sizeof(*start));
    struct run abandoned = {0};
    if (!start) { /* the pool's thread tries again when its timer or an executor wakes it */
        pthread_mutex_lock(&pool->lock);
        pool_put_back(pool, slot, &abandoned);
        slot->state = slot->state == SLOT_BUSY ? SLOT_IDLE : slot->state;
        pthread_mutex_unlock(&pool->lock);
        return;
    }
    start->slot = slot;
    start->frame = (struct text){0};
    slot->run.job->note =
        running_note(pool->server->running, slot->run.job->vm->id, slot->run.job->number);
    events_processing(pool->server, slot->run.job);
    start->prepared =
        run_prepare(&slot->run, &pool->server->catalogue, &start->frame, start->error);
    KILL_POINT("starting");
    if (!start_note(start))
        start_finish(start);
}

bool pool_start_one(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct slot *slot = take_next(pool);
    pthread_mutex_unlock(&pool->lock);
    if (slot)
        slot_start(slot);
    return slot != NULL;
}

void pool_dispatch(struct pool *pool)
{
    while (pool_start_one(pool))
        continue;
}

int pool_admit(struct pool *pool, uint64_t count)
{
    int error = 0;
    pthread_mutex_lock(&pool->lock);
    uint64_t taken = queue_count(&pool->queue) + pool->admitted;
    bool full = taken >= pool->max_queued || count > pool->max_queued - taken;
    if (full || queue_reserve(&pool->queue, taken + count) < 0)
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

bool pool_enqueue(struct pool *pool, struct pool_tenant *tenant, struct job *job, unsigned priority,
                  uint64_t now_us)
{
    job_ref(job);
    job->queue.priority = (uint8_t)priority;
    atomic_store_explicit(&job->state, JOB_QUEUED, memory_order_release);
    pthread_mutex_lock(&pool->lock);
    pool->admitted--;
    queue_push(&pool->queue, &tenant->queue, &job->queue, priority, now_us);
    atomic_fetch_add(&job->vm->queued, 1);
    if (job->queue.deadline_us)
        pool_arm_timer(pool, queue_next_deadline_us(&pool->queue));
    bool starts = usable_slot(pool) != NULL;
    pthread_mutex_unlock(&pool->lock);
    return starts;
}

int pool_restore(struct pool *pool, struct pool_tenant *tenant, struct job *job)
{
    int error = 0;
    pthread_mutex_lock(&pool->lock);
    if (queue_reserve(&pool->queue, queue_count(&pool->queue) + pool->admitted + 1) < 0) {
        error = ENOSPC;
    } else {
        job_ref(job);
        queue_restore(&pool->queue, &tenant->queue, &job->queue);
        atomic_fetch_add(&job->vm->queued, 1);
        if (job->queue.deadline_us)
            pool_arm_timer(pool, queue_next_deadline_us(&pool->queue));
    }
    pthread_mutex_unlock(&pool->lock);
    return error;
}

/* What the administrator and the guests do to queued jobs. */

void pool_cancel(struct pool *pool, struct job *job, const char *error)
{
    pthread_mutex_lock(&pool->lock);
    bool queued = job->queue.tenant != NULL;
    if (queued)
        pool_unqueue(pool, job);
    for (unsigned i = 0; i < pool->slot_count && !queued; i++) {
        struct slot *slot = &pool->slots[i];
        if (slot->run.job != job)
            continue;
        if (!slot->run.cancelled && job->journaled)
            state_cancel_job(pool->server->state, job->vm->id, job->number, error);
        slot_ask_cancel(slot, error);
        pool_arm_timer(pool, slot->run.kill_us);
    }
    pthread_mutex_unlock(&pool->lock);
    if (queued)
        pool_end_queued(pool, job, JOB_CANCELLED, error);
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
    state_put_pool_held(pool->server->state, pool->name, held);
    pthread_mutex_unlock(&pool->lock);
    if (!held)
        pool_dispatch(pool);
}
