/* Submitting: a batch of lines -> jobs in queues, all of them or none. */
#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "events.h"
#include "pool.h"
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line on its way to becoming a job. */
struct draft {
    const struct line *line;
    struct job *job;   /* new, or the one that the tag names (a reference) */
    bool is_new;       /* must be entered into the tables */
    bool is_duplicate; /* the same line under the same tag: nothing to enqueue */
    bool has_claim;
    struct claim claim;
    struct identity identity;
    const struct workload_info *workload;
    uint64_t timeout_ms, deadline_ms;
};

/* One line, to a host with so many pools, costs no allocation for its drafts. */
#define FEW_POOLS 8

struct submission {
    struct vm *vm;
    enum submit_via via;
    struct job *target; /* of VIA_COMMAND; else NULL */
    struct draft *drafts;
    size_t count;
    size_t entered;      /* so many drafts are in the tables */
    uint64_t first_job;  /* vm->next_job before them */
    uint64_t *per_pool;  /* new jobs for each pool */
    size_t admitted;     /* so many pools have made room */
    bool starts;         /* some pool may start what it was given at once */
    uint64_t room_bytes; /* set aside on the disk */
    struct state_batch batch;
    struct draft one;
    uint64_t few[FEW_POOLS];
    size_t failed; /* index of the draft that is at fault */
    char *error;   /* COMMAND_MAX_ERROR bytes: why, in words */
};

static int fail(struct submission *submission, size_t index, int number, const char *text)
{
    submission->failed = index;
    if (text != submission->error)
        snprintf(submission->error, COMMAND_MAX_ERROR, "%s", text);
    return number;
}

/* draft_parse checks a line and makes its job. Needs no lock. */
static int draft_parse(struct submission *submission, size_t index)
{
    struct draft *draft = &submission->drafts[index];
    struct vm *vm = submission->vm;
    struct job *target = submission->target;
    struct command command;
    int failure = command_parse(&command, &vm->server->catalogue, draft->line->bytes,
                                draft->line->size, submission->error);
    if (failure)
        return fail(submission, index, failure, submission->error);
    if (target && command.tag && strcmp(command.tag, job_tag(target)) != 0)
        return fail(submission, index, EINVAL, "tag= differs from the directory's name");
    draft->has_claim = command.has_claim;
    draft->claim = command.claim;
    draft->workload = command.workload;
    draft->timeout_ms = command.timeout_ms;
    draft->deadline_ms = command.deadline_ms;
    draft->job = target ? job_ref(target) : job_create(vm, command.tag, draft->line);
    draft->is_new = !target;
    return draft->job ? 0 : fail(submission, index, ENOSPC, "no memory for the job");
}

/* same_line: would the two lines be the same command to a reader? */
static bool same_line(const char *accepted, const struct line *line)
{
    struct line a = command_trim(accepted, strcspn(accepted, "\n"));
    struct line b = command_trim(line->bytes, line->size);
    return a.size == b.size && memcmp(a.bytes, b.bytes, a.size) == 0;
}

static int draft_identify(struct submission *submission, size_t index)
{
    struct draft *draft = &submission->drafts[index];
    struct vm *vm = submission->vm;
    draft->identity = vm->identity;
    if (draft->has_claim) {
        int failure = identity_judge(vm->server->config, &vm->config, &draft->claim,
                                     &draft->identity, submission->error, COMMAND_MAX_ERROR);
        vm->counters.identity_rejected += failure != 0;
        if (failure)
            return fail(submission, index, failure, submission->error);
    } else if (vm->config.identity_required && !vm->identity_set &&
               !identity_is_fixed(&vm->config)) {
        return fail(submission, index, EACCES,
                    "an identity is required first: run vgpu-identity in the guest");
    }
    const struct pool *pool = &vm->server->pools[draft->identity.pool];
    uint64_t max_run_ms = atomic_load(&pool->max_run_ms);
    if (draft->timeout_ms > max_run_ms) {
        snprintf(submission->error, COMMAND_MAX_ERROR, "timeout= is at most %g seconds in pool %s",
                 (double)max_run_ms / 1000, pool->name);
        return fail(submission, index, EINVAL, submission->error);
    }
    return 0;
}

/*
 * draft_enter settles what the tag means and puts a new job into the tables, so that a second line
 * of the same batch finds it.
 */
static int draft_enter(struct submission *submission, size_t index)
{
    struct draft *draft = &submission->drafts[index];
    struct vm *vm = submission->vm;
    struct job *existing =
        draft->is_new && draft->job->tag_is_chosen ? vm_tag_lookup(vm, job_tag(draft->job)) : NULL;
    if (existing) {
        job_unref(draft->job);
        draft->job = job_ref(existing);
        draft->is_new = false;
    }
    if (!draft->is_new && draft->job->forgotten)
        return fail(submission, index, ESTALE, "the job's directory was removed");
    if (draft->is_new) {
        job_set_number(draft->job, vm->next_job);
        if (vm_job_enter(vm, draft->job) != 0)
            return fail(submission, index, ENOSPC, "no memory for the job");
        job_ref(draft->job);
        vm->next_job++;
        return 0;
    }
    if (draft->job->line) {
        if (!same_line(draft->job->line, draft->line)) {
            snprintf(submission->error, COMMAND_MAX_ERROR, "tag %s is in use for another command",
                     job_tag(draft->job));
            return fail(submission, index, EEXIST, submission->error);
        }
        draft->is_duplicate = true;
        return 0;
    }
    if (job_set_line(draft->job, draft->line) < 0)
        return fail(submission, index, ENOSPC, "no memory for the job");
    return 0;
}

/* drafts_withdraw undoes draft_enter for the first `entered` drafts. */
static void drafts_withdraw(struct submission *submission)
{
    for (size_t i = submission->entered; i-- > 0;) {
        struct draft *draft = &submission->drafts[i];
        if (draft->is_duplicate)
            continue;
        if (draft->is_new) {
            vm_job_leave(submission->vm, draft->job);
        } else {
            job_drop_line(draft->job);
        }
    }
    submission->vm->next_job = submission->first_job;
    submission->entered = 0;
}

static int check_limits(struct submission *submission)
{
    struct vm *vm = submission->vm;
    uint64_t enqueued = 0;
    for (size_t i = 0; i < submission->count; i++)
        enqueued += !submission->drafts[i].is_duplicate;
    uint64_t queued = atomic_load(&vm->queued);
    if (enqueued &&
        (queued >= vm->config.max_queued || enqueued > vm->config.max_queued - queued)) {
        snprintf(submission->error, COMMAND_MAX_ERROR,
                 "vm%u may have %llu jobs queued and has %llu", vm->id,
                 (unsigned long long)vm->config.max_queued, (unsigned long long)queued);
        return fail(submission, submission->count - 1, EDQUOT, submission->error);
    }
    return 0;
}

/* make_room comes last: what it forgets does not come back. */
static int make_room(struct submission *submission)
{
    struct vm *vm = submission->vm;
    if (!vm_make_room(vm, 0)) { /* the new ones are in the tables already */
        snprintf(submission->error, COMMAND_MAX_ERROR,
                 "vm%u may have %llu job directories: remove some", vm->id,
                 (unsigned long long)vm->config.max_jobs);
        return fail(submission, submission->count - 1, EDQUOT, submission->error);
    }
    return 0;
}

static int admit(struct submission *submission)
{
    struct server *server = submission->vm->server;
    for (size_t i = 0; i < submission->count; i++)
        if (!submission->drafts[i].is_duplicate)
            submission->per_pool[submission->drafts[i].identity.pool]++;
    for (size_t i = 0; i < server->pool_count; i++) {
        /* Of a pool that gets none, not even the lock is wanted: it may be busy, or hang. */
        uint64_t count = submission->per_pool[i];
        if (count && pool_admit(&server->pools[i], count) != 0) {
            snprintf(submission->error, COMMAND_MAX_ERROR, "the queue of pool %s is full",
                     server->pools[i].name);
            return fail(submission, submission->count - 1, ENOSPC, submission->error);
        }
        submission->admitted = i + 1;
    }
    return 0;
}

/* draft_room is what the job is promised on the disk. */
static uint32_t draft_room(const struct draft *draft)
{
    return VM_JOB_ROOM + 2 * (uint32_t)draft->line->size;
}

/* take_room sets room aside on the disk for what will be written about the jobs. */
static int take_room(struct submission *submission)
{
    struct state *state = submission->vm->server->state;
    uint64_t bytes = 0;
    for (size_t i = 0; i < submission->count; i++)
        bytes += submission->drafts[i].is_duplicate ? 0 : draft_room(&submission->drafts[i]);
    if (state_is_failing(state) || state_is_behind(state, submission->vm->id))
        return fail(submission, submission->count - 1, ENOSPC,
                    "the state cannot be written: see the host's log");
    if (!state_reserve(state, bytes))
        return fail(submission, submission->count - 1, ENOSPC,
                    "the disk of the host's state_dir is full");
    submission->room_bytes = bytes;
    return 0;
}

/* prepare does all that can fail, with the VM locked. */
static int prepare(struct submission *submission)
{
    struct vm *vm = submission->vm;
    if (atomic_load(&vm->server->draining) || atomic_load(&vm->gone))
        return fail(submission, 0, EROFS,
                    atomic_load(&vm->server->stopping)
                        ? "vgpufs is stopping: try again later"
                        : "no jobs are accepted now: the host drains");
    if (submission->via == VIA_REQUEST && vm->legacy.job && !job_has_ended(vm->legacy.job))
        return fail(submission, 0, EDQUOT,
                    "request.txt takes one job at a time, and the last one has not ended");
    if (submission->via == VIA_REQUEST && submission->count > 1)
        return fail(submission, 1, EINVAL, "request.txt takes one line at a time");
    int failure = 0;
    for (size_t i = 0; i < submission->count && !failure; i++) {
        failure = draft_identify(submission, i);
        if (!failure)
            failure = draft_enter(submission, i);
        submission->entered += !failure;
    }
    if (!failure)
        failure = check_limits(submission);
    if (!failure)
        failure = admit(submission);
    if (!failure)
        failure = take_room(submission);
    if (!failure)
        failure = make_room(submission);
    return failure;
}

static void note_request(struct submission *submission)
{
    struct vm *vm = submission->vm;
    const struct draft *last = &submission->drafts[submission->count - 1];
    struct text written = {0};
    struct job *before = vm->legacy.job;
    vm->legacy.job = job_ref(last->job);
    if (before)
        vm_row_release(vm, before);
    job_unref(before);
    vm->legacy.error[0] = '\0';
    text_append(&written, last->line->bytes, last->line->size);
    text_append(&written, "\n", last->line->newline);
    blob_unref(vm->request_written);
    vm->request_written = blob_from_text(&written);
}

/* journal adds a job that was just queued to what is to be written. */
static void journal(struct submission *submission, struct job *job, uint64_t queued_at_us)
{
    struct state_job row = {
        .vm = submission->vm->id,
        .number = job->number,
        .tag = job_tag(job),
        .pool = job->pool->name,
        .line = job->line,
        .priority = job->queue.priority,
        .state = JOB_QUEUED,
        .sequence = job->queue.sequence,
        .entry = submission->vm->entries,
        .request = submission->via == VIA_REQUEST ? submission->vm->entries : 0,
        .queued_at_us = queued_at_us,
    };
    state_batch_add(&submission->batch, &row);
    job->journaled = true;
}

/* renew makes a job that was accepted before the newest entry again. */
static void renew(struct submission *submission, struct job *job)
{
    if (job->journaled)
        state_renew_job(submission->vm->server->state, submission->vm->id, job->number,
                        submission->vm->entries, submission->via == VIA_REQUEST);
}

/* commit enqueues all that is new. Nothing can fail any more. */
static void commit(struct submission *submission)
{
    struct vm *vm = submission->vm;
    /* One reading of each clock for all: of many lines it would be a good part of the work. */
    uint64_t now = clock_now_us(), real_us = clock_real_us();
    vm_touch_submit(vm);
    struct timespec changed = vm->changed;
    for (size_t i = 0; i < submission->count; i++) {
        struct draft *draft = &submission->drafts[i];
        struct job *job = draft->job;
        vm->entries++;
        if (draft->is_duplicate) {
            renew(submission, job);
            continue;
        }
        struct pool *pool = &vm->server->pools[draft->identity.pool];
        job_end_drop(job); /* of a line that was rejected before */
        job->room_bytes = draft_room(draft);
        job->pool = pool;
        job->workload = draft->workload;
        job->timeout_ms = (uint32_t)draft->timeout_ms;
        job->queue.deadline_us = job_deadline_us(now, draft->deadline_ms);
        vm->jobs_changed = changed;
        job_set_changed(job, changed);
        vm->counters.submitted++;
        submission->starts |= pool_enqueue(pool, vm->tenants[draft->identity.pool], job,
                                           draft->identity.priority, now);
        journal(submission, job, real_us);
    }
    if (submission->batch.count)
        state_put_batch(vm->server->state, &submission->batch);
    vm_newest_set(vm, submission->drafts[submission->count - 1].job);
    if (submission->via == VIA_REQUEST)
        note_request(submission);
}

/* submit_drafts takes the parsed drafts through the locked part. */
static int submit_drafts(struct submission *submission)
{
    struct vm *vm = submission->vm;
    if (vm_lock_numbers(vm, submission->count) != 0)
        return fail(submission, 0, ENOSPC, "the state cannot be written: see the host's log");
    submission->first_job = vm->next_job;
    int failure = prepare(submission);
    if (!failure) {
        commit(submission);
    } else {
        drafts_withdraw(submission);
        for (size_t i = 0; i < submission->admitted; i++)
            if (submission->per_pool[i])
                pool_unadmit(&vm->server->pools[i], submission->per_pool[i]);
        state_unreserve(vm->server->state, submission->room_bytes);
    }
    pthread_mutex_unlock(&vm->lock);
    return failure;
}

static void submission_finish(struct submission *submission)
{
    for (size_t i = 0; submission->drafts && i < submission->count; i++)
        job_unref(submission->drafts[i].job);
    if (submission->drafts != &submission->one)
        free(submission->drafts);
    if (submission->per_pool != submission->few)
        free(submission->per_pool);
}

/* refuse notes the failure as the VM's newest entry. */
static int refuse(struct submission *submission, int failure)
{
    struct vm *vm = submission->vm;
    char text[COMMAND_MAX_ERROR + 64];
    if (submission->count > 1)
        snprintf(text, sizeof(text), "line %zu of %zu: %s", submission->failed + 1,
                 submission->count, submission->error);
    else
        snprintf(text, sizeof(text), "%s", submission->error);
    return vm_reject(vm, submission->via, submission->target, failure,
                     submission->drafts[submission->failed].line, text);
}

/* is_hopeless: can the VM never have so many jobs? */
static bool is_hopeless(struct vm *vm, size_t count)
{
    pthread_mutex_lock(&vm->lock);
    uint64_t most = vm->config.max_queued + vm->config.max_jobs;
    pthread_mutex_unlock(&vm->lock);
    return count > most;
}

int vm_submit(struct vm *vm, enum submit_via via, struct job *target, const struct line *batch,
              size_t count)
{
    char error[COMMAND_MAX_ERROR];
    struct submission submission = {
        .vm = vm,
        .via = via,
        .target = target,
        .count = count,
        .error = error,
    };
    int failure = 0;
    size_t pools = vm->server->pool_count;
    submission.drafts = count == 1 ? &submission.one : calloc(count, sizeof(struct draft));
    submission.per_pool = pools <= FEW_POOLS ? submission.few : calloc(pools, sizeof(uint64_t));
    if (count > 1 && is_hopeless(vm, count)) { /* before a job is made for each line */
        submission_finish(&submission);
        return vm_reject(vm, via, target, EDQUOT, &batch[count - 1],
                         "more lines than this VM may have jobs queued and retained");
    }
    if (!submission.drafts || !submission.per_pool) {
        submission_finish(&submission);
        return ENOSPC;
    }
    for (size_t i = 0; i < count; i++)
        submission.drafts[i].line = &batch[i];
    for (size_t i = 0; i < count && !failure; i++)
        failure = draft_parse(&submission, i);
    if (!failure)
        failure = submit_drafts(&submission);
    if (failure)
        refuse(&submission, failure);
    for (size_t i = 0; i < count && !failure; i++)
        if (!submission.drafts[i].is_duplicate)
            events_enqueued(vm->server, submission.drafts[i].job);
    for (size_t i = 0; i < vm->server->pool_count && submission.starts; i++)
        if (submission.per_pool[i])
            pool_dispatch(&vm->server->pools[i]);
    submission_finish(&submission);
    return failure;
}
