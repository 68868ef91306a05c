/* The end of a job: its result, written into the state, then shown to who waits for it. */
#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "common/log.h"
#include "events.h"
#include "kill_point.h"
#include "parked.h"
#include "pool.h"
#include "running.h"
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* What a result says when there is no memory to say it. Never freed: it begins with a reference. */
static struct blob *result_without_memory(void)
{
    static char words[] =
        "status=failed job=- tag=- command=- pool=- priority=- backend=- "
        "device=- wait_us=- run_us=- bytes=0 error=\"no memory for the result\"\n";
    static struct blob blob = {.references = 1, .size = sizeof(words) - 1, .data = words};
    return blob_ref(&blob);
}

static void count_end(struct vm *vm, const struct job *job)
{
    const struct job_end *end = job->end;
    struct vm_counters *counters = &vm->counters;
    uint64_t *const by_state[] = {
        [JOB_DONE] = &counters->done,
        [JOB_FAILED] = &counters->failed,
        [JOB_CANCELLED] = &counters->cancelled,
        [JOB_TIMEOUT] = &counters->timeout,
    };
    ++*by_state[end->state];
    if (job->started_us)
        counters->device_us += end->ended_us - job->started_us;
    if (end->crashed) {
        counters->crashes++;
        vm->crashes_in_row++;
    } else if (end->state == JOB_DONE) {
        vm->crashes_in_row = 0;
    }
}

/* end_show makes the end visible and answers who waits for it. */
static void end_show(struct job *job)
{
    struct job_end *end = job->end;
    struct vm *vm = job->vm;
    pthread_mutex_lock(&vm->lock);
    end->shown = true;
    end->result = blob_ref(end->written);
    end->result_bytes = end->written->size;
    job_set_changed(job, clock_change());
    atomic_store_explicit(&job->state, (unsigned char)end->state, memory_order_release);
    count_end(vm, job);
    vm_touch(vm);
    struct parked *waiters = parked_detach(vm, job);
    watchers_notify(vm->server, job);
    if (!job->forgotten)
        vm_ended_enter(vm, job);
    uint64_t crashes = vm->crashes_in_row;
    bool hold =
        vm->config.max_crashes && crashes >= vm->config.max_crashes && !atomic_load(&vm->held);
    vm_retain(vm);
    pthread_mutex_unlock(&vm->lock);

    events_responded(vm->server, job);
    KILL_POINT("answering");
    if (parked_answer(waiters, end->written))
        vm_job_read(vm, job->number);
    KILL_POINT("answered");
    if (hold) {
        log_warning("vm%u is held after %" PRIu64
                    " crashes in a row: 'vgpuctl release vm%u' lets it go on",
                    vm->id, crashes, vm->id);
        vm_hold(vm, true);
    }
}

/* end_finish: the state has the end, or never will (`error`: the daemon ends without a disk). */
static void end_finish(struct job *job, int error)
{
    struct vm *vm = job->vm;
    struct job_end *end = job->end;
    pthread_mutex_lock(&vm->lock);
    uint64_t room = job->room_bytes + end->room_bytes;
    job->room_bytes = 0;
    end->room_bytes = 0;
    if (!error && job->journaled && end->result && end->result->size > VM_SMALL_RESULT) {
        blob_unref(end->result); /* it can be read back */
        end->result = NULL;
    }
    pthread_mutex_unlock(&vm->lock);
    running_clear(vm->server->running, job->note);
    state_unreserve(vm->server->state, room);
    blob_unref(end->written);
    job_unref(job); /* vm_job_ended's */
}

static void end_written(struct state_waiter *waiter, int error)
{
    struct job_end *end = container_of(waiter, struct job_end, waiter);
    struct job *job = end->job;
    KILL_POINT("ended");
    if (!end->shown && !error)
        end_show(job);
    end_finish(job, error);
}

/*
 * result_cut keeps of a large output what there is room for on the disk: all of it, but when the
 * disk is full no more than was set aside when the job was accepted.
 */
static void result_cut(struct job *job, struct job_outcome *outcome)
{
    if (outcome->output_size <= VM_SMALL_RESULT)
        return;
    uint64_t more = 2 * (uint64_t)outcome->output_size; /* in the log and in the table */
    if (state_reserve(job->vm->server->state, more)) {
        job->end->room_bytes += more;
        return;
    }
    outcome->output_size = VM_SMALL_RESULT;
    outcome->truncated = true;
}

static struct blob *result_make(struct job *job, const struct job_outcome *outcome)
{
    struct text text = {0};
    struct job_outcome written = *outcome;
    result_cut(job, &written);
    job_render_result(job, &written, &text);
    struct blob *result = blob_from_text(&text);
    if (!result)
        return result_without_memory();
    result->job = job->number;
    return result;
}

/* end_journal asks for the end to be written; the VM is locked. */
static void end_journal(struct job *job)
{
    struct job_end *end = job->end;
    end->waiter = (struct state_waiter){
        .ticket = state_end_job(job->vm->server->state, job->vm->id, job->number, end->state,
                                clock_to_real_us(end->ended_us), end->written),
        .patient = true,
        .done = end_written,
    };
}

void vm_job_ended(struct job *job, const struct job_outcome *outcome)
{
    struct vm *vm = job->vm;
    struct state *state = vm->server->state;
    int error = EIO;
    pthread_mutex_lock(&vm->lock);
    job_ref(job);
    struct job_end *end = job_end_get(job);
    *end = (struct job_end){
        .job = job,
        .ended_us = outcome->ended_us ? outcome->ended_us : clock_now_us(),
        .state = (unsigned char)outcome->state,
        .crashed = outcome->crashed,
    };
    end->written = result_make(job, outcome);
    bool journaled = job->journaled;
    if (journaled)
        end_journal(job);
    pthread_mutex_unlock(&vm->lock);
    KILL_POINT("end-asked");
    /* A result that was seen stays what it is, also after a crash: it is shown when it is on disk,
     * unless the administrator wants it sooner. */
    if (journaled && state_jobs_are_synced(state)) {
        if (!state_when(state, &end->waiter, &error))
            end_written(&end->waiter, error);
        return;
    }
    end_show(job);
    end->waiter.stored = true;
    if (!journaled || !state_when(state, &end->waiter, &error))
        end_finish(job, error);
}
