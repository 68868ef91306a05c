/* A VM's jobs as the state had them: queued ones are queued again, ended ones keep their results.
 */
#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "common/log.h"
#include "kill_point.h"
#include "pool.h"
#include "running.h"
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* job_of makes the job of a row and puts it into the tables. NULL without memory. */
static struct job *job_of(struct vm *vm, const struct state_job *saved)
{
    struct line line = {.bytes = saved->line, .size = saved->line ? strlen(saved->line) : 0};
    struct job *job = job_create(vm, saved->tag, saved->line ? &line : NULL);
    if (!job)
        return NULL;
    job_set_changed(job, clock_change());
    job_set_number(job, saved->number);
    job->journaled = true;
    job->forgotten = saved->hidden;
    bool pending = saved->state == JOB_QUEUED || saved->state == JOB_RUNNING;
    if (!pending && saved->result_size) {
        job_end_get(job)->result_bytes = saved->result_size;
        job->end->read = saved->read;
    }
    job->queue.priority = (uint8_t)(saved->priority < QUEUE_PRIORITIES ? saved->priority : 0);
    job->queue.sequence = saved->sequence;
    job->queue.queued_us = clock_from_real_us(saved->queued_at_us);
    if (!saved->hidden && vm_job_enter(vm, job) != 0) {
        job_unref(job);
        return NULL;
    }
    return job;
}

/* entry_replaced drops what was the newest entry, or the last request; NULL: nothing was. */
static void entry_replaced(struct vm *vm, struct job *job)
{
    if (job)
        vm_row_release(vm, job);
    job_unref(job);
}

/* entry_restore makes the job the newest entry if it became it last, and the last request. */
static void entry_restore(struct vm *vm, struct job *job, const struct state_job *saved)
{
    if (saved->entry && saved->entry >= vm->entries) {
        vm->entries = saved->entry;
        struct job *old = vm->newest.job;
        vm->newest.job = job_ref(job);
        entry_replaced(vm, old);
    }
    if (job->line && saved->request > vm->legacy.restored) { /* a request always is a line */
        struct job *last = vm->legacy.job;
        vm->legacy.job = job_ref(job);
        vm->legacy.restored = saved->request;
        entry_replaced(vm, last);
    }
}

/* queue_again queues the job where it stood. NULL, or why it cannot. */
static const char *queue_again(struct vm *vm, struct job *job, const char *pool_name)
{
    struct command command;
    static _Thread_local char error[COMMAND_MAX_ERROR];
    struct server *server = vm->server;
    struct pool *pool = server_find_pool(server, pool_name);
    if (!pool)
        return "its pool is gone from the configuration";
    job->pool = pool;
    size_t size = strlen(job->line);
    size -= size && job->line[size - 1] == '\n';
    struct line line = command_trim(job->line, size);
    char *copy = strndup(line.bytes, line.size);
    int failure =
        copy ? command_parse(&command, &server->catalogue, copy, line.size, error) : ENOSPC;
    if (!failure) {
        job->workload = command.workload;
        job->timeout_ms = (uint32_t)command.timeout_ms;
        job->queue.deadline_us = job_deadline_us(job->queue.queued_us, command.deadline_ms);
        failure = pool_restore(pool, vm->tenants[pool->index], job);
    } else if (!copy) {
        snprintf(error, sizeof(error), "no memory");
    }
    free(copy);
    return failure ? error : NULL;
}

/* fail_restored ends a job that cannot go on. */
static void fail_restored(struct job *job, enum job_state state, const char *error)
{
    struct job_outcome outcome = {.state = state, .error = error, .output = "", .exit_code = -1};
    vm_job_ended(job, &outcome);
}

/* has_run: did it run when the earlier daemon ended? */
static bool has_run(struct vm *vm, const struct state_job *saved)
{
    return running_was(vm->server->running, saved->vm, saved->number);
}

/* rerun_refused counts the attempt that has ended with the daemon. NULL, or why there is to be no
 * other: a job that ends the daemon would do so for ever. */
static const char *rerun_refused(struct vm *vm, const struct state_job *saved)
{
    static _Thread_local char error[COMMAND_MAX_ERROR];
    uint64_t most = atomic_load(&vm->server->max_reruns);
    unsigned attempts = saved->attempts + 1;
    if (most == 0 || attempts <= most) {
        state_rerun_job(vm->server->state, saved->vm, saved->number, attempts);
        return NULL;
    }
    snprintf(error, sizeof(error),
             "vgpufs ended %u times while it ran, more than max_reruns allows: not run again",
             attempts);
    return error;
}

/* go_on does with an unfinished job what is to be done. The VM is not locked. */
static void go_on(struct vm *vm, struct job *job, const struct state_job *saved)
{
    atomic_store(&job->state, JOB_QUEUED);
    /* Were there no room left, it would be kept all the same: it was accepted. */
    job->room_bytes = VM_JOB_ROOM + 2 * strlen(job->line);
    if (!state_reserve(vm->server->state, job->room_bytes))
        job->room_bytes = 0;
    if (saved->hidden) {
        fail_restored(job, JOB_CANCELLED, "its directory was removed");
        return;
    }
    if (saved->cancel) {
        fail_restored(job, JOB_CANCELLED, saved->cancel[0] ? saved->cancel : NULL);
        return;
    }
    if (saved->state == JOB_RUNNING && vm->server->on_restart == ON_RESTART_FAIL) {
        fail_restored(job, JOB_FAILED, "vgpufs ended while it ran");
        return;
    }
    const char *error = has_run(vm, saved) ? rerun_refused(vm, saved) : NULL;
    if (!error)
        error = queue_again(vm, job, saved->pool);
    if (error)
        fail_restored(job, JOB_FAILED, error);
}

/* is_sound: can there be such a job at all? */
static bool is_sound(const struct state_job *saved)
{
    char own[24];
    snprintf(own, sizeof(own), "%" PRIu64, saved->number);
    return saved->number >= 1 && saved->number <= STATE_MAX_NUMBER && saved->state <= JOB_TIMEOUT &&
           (saved->state == JOB_NEW) == !saved->line && (!saved->line || saved->pool) &&
           (saved->state < JOB_DONE || saved->result_size) && /* or its readers would wait */
           (command_tag_is_valid(saved->tag) || strcmp(saved->tag, own) == 0);
}

void vm_restore(struct vm *vm, const struct state_job *saved)
{
    KILL_POINT("restoring");
    bool ended = saved->state >= JOB_DONE, fresh = saved->state == JOB_NEW;
    pthread_mutex_lock(&vm->lock);
    bool sound = is_sound(saved) && !vm_tag_lookup(vm, saved->tag);
    struct job *job = sound ? job_of(vm, saved) : NULL;
    if (job)
        vm_numbers_skip(vm, job->number);
    if (job)
        entry_restore(vm, job_ref(job), saved); /* the reference is ours */
    if (job && ended) {
        atomic_store(&job->state, (unsigned char)saved->state);
        job->pool = server_find_pool(vm->server, saved->pool);
        if (!saved->hidden) {
            vm_ended_enter(vm, job);
            job->end->kept_us = clock_from_real_us(saved->kept_at_us);
        }
    }
    pthread_mutex_unlock(&vm->lock);
    if (!job) {
        log_error("vm%u: job %" PRIu64 " of the state cannot be taken: it is left there", vm->id,
                  saved->number);
        return;
    }
    if (!ended && !fresh)
        go_on(vm, job, saved);
    pthread_mutex_lock(&vm->lock);
    if (saved->hidden)
        entry_replaced(vm, job); /* no table has it */
    pthread_mutex_unlock(&vm->lock);
    job_unref(job);
}

void vm_restored(struct vm *vm, const struct state_vm *saved)
{
    struct text rejection = {0};
    if (saved->held)
        vm_hold(vm, true);
    pthread_mutex_lock(&vm->lock);
    if (saved->entry > vm->entries) {
        struct job *old = vm->newest.job;
        vm->newest = (struct newest){.rejected_us = clock_now_us()};
        if (saved->rejection) {
            text_puts(&rejection, saved->rejection);
            vm->newest.rejection = blob_from_text(&rejection);
        }
        vm->entries = saved->entry;
        entry_replaced(vm, old);
    }
    struct job *request = vm->legacy.job;
    if (saved->request_error && (!request || saved->request_entry > vm->legacy.restored))
        snprintf(vm->legacy.error, sizeof(vm->legacy.error), "%s", saved->request_error);
    if (request && request->line) {
        struct text written = {0};
        text_puts(&written, request->line);
        vm->request_written = blob_from_text(&written);
    }
    pthread_mutex_unlock(&vm->lock);
}

void vm_told_save(struct vm *vm, struct handover *handover)
{
    struct handover_told told = {.vm = vm->id, .content = handover_add_blob(handover, vm->told)};
    if (told.content)
        handover_add(handover, &handover->told, &told, sizeof(told));
}

void vm_told_restore(struct server *server, const struct handover *handover,
                     const struct handover_told *told)
{
    struct vm *vm = server_find_vm(server, (unsigned)told->vm);
    if (!vm)
        return; /* it is gone from the configuration */
    pthread_mutex_lock(&vm->lock);
    blob_unref(vm->told);
    vm->told = handover_blob(handover, told->content);
    atomic_store(&vm->nfs_reads, true);
    pthread_mutex_unlock(&vm->lock);
}
