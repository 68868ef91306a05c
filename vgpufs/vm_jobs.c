/* A VM's jobs: their directories, and how long they are kept. */
#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "common/log.h"
#include "events.h"
#include "parked.h"
#include "pool.h"
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* number_hash: the numbers follow each other, so that as they are each falls into the bucket beside
 * the last one's. */
static uint64_t number_hash(uint64_t number)
{
    return number;
}

static struct job *number_lookup(struct vm *vm, uint64_t number)
{
    struct table_entry *entry = table_find(&vm->jobs_by_number, number_hash(number));
    for (; entry; entry = table_find_next(entry)) {
        struct job *job = container_of(entry, struct job, by_number);
        if (job->number == number)
            return job;
    }
    return NULL;
}

struct job *vm_tag_lookup(struct vm *vm, const char *tag)
{
    if (tag[0] <= '9') { /* no tag that was chosen: a number, which its job's is in decimal */
        struct job *job = number_lookup(vm, strtoull(tag, NULL, 10));
        return job && strcmp(job_tag(job), tag) == 0 ? job : NULL;
    }
    struct table_entry *entry = table_find(&vm->jobs_by_tag, table_hash_string(tag));
    for (; entry; entry = table_find_next(entry)) {
        struct job *job = container_of(entry, struct job, by_tag);
        if (strcmp(job_tag(job), tag) == 0)
            return job;
    }
    return NULL;
}

struct job *vm_find_tag(struct vm *vm, const char *tag)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = vm_tag_lookup(vm, tag);
    if (job)
        job_ref(job);
    pthread_mutex_unlock(&vm->lock);
    return job;
}

struct job *vm_find_number(struct vm *vm, uint64_t number)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = number_lookup(vm, number);
    if (job)
        job_ref(job);
    pthread_mutex_unlock(&vm->lock);
    return job;
}

int vm_job_enter(struct vm *vm, struct job *job)
{
    if (table_insert(&vm->jobs_by_number, &job->by_number, number_hash(job->number)) < 0)
        return ENOSPC;
    if (!job->tag_is_chosen)
        return 0;
    if (table_insert(&vm->jobs_by_tag, job->by_tag, table_hash_string(job_tag(job))) < 0) {
        table_remove(&vm->jobs_by_number, &job->by_number);
        return ENOSPC;
    }
    return 0;
}

void vm_job_leave(struct vm *vm, struct job *job)
{
    if (job->end && job->end->listed)
        vm_ended_leave(vm, job);
    table_remove(&vm->jobs_by_number, &job->by_number);
    if (job->tag_is_chosen)
        table_remove(&vm->jobs_by_tag, job->by_tag);
    job->forgotten = true;
    if (job->journaled && !vm->destroyed && (job == vm->newest.job || job == vm->legacy.job))
        state_hide_job(vm->server->state, vm->id, job->number);
    vm_row_release(vm, job);
    job_unref(job);
}

void vm_row_release(struct vm *vm, struct job *job)
{
    if (!job->journaled || !job->forgotten || vm->destroyed || job == vm->newest.job ||
        job == vm->legacy.job)
        return;
    job->journaled = false;
    state_delete_job(vm->server->state, vm->id, job->number, job_result_bytes(job));
}

static struct ended_list *ended_list(struct vm *vm, const struct job *job)
{
    return job->end->read ? &vm->ended_read : &vm->ended;
}

void vm_ended_enter(struct vm *vm, struct job *job)
{
    struct ended_list *list = ended_list(vm, job);
    struct job_end *end = job->end;
    end->previous = list->last;
    end->next = NULL;
    *(list->last ? &list->last->end->next : &list->first) = job;
    list->last = job;
    list->count++;
    end->kept_us = clock_now_us();
    end->listed = true;
}

void vm_ended_leave(struct vm *vm, struct job *job)
{
    struct ended_list *list = ended_list(vm, job);
    struct job_end *end = job->end;
    *(end->next ? &end->next->end->previous : &list->last) = end->previous;
    *(end->previous ? &end->previous->end->next : &list->first) = end->next;
    list->count--;
    end->listed = false;
}

/* forget_one forgets an ended job, one that was read if there is any. False if none has ended. */
static bool forget_one(struct vm *vm)
{
    struct job *job = vm->ended_read.first ? vm->ended_read.first : vm->ended.first;
    if (!job)
        return false;
    vm_job_leave(vm, job);
    vm->jobs_changed = clock_change();
    return true;
}

bool vm_make_room(struct vm *vm, uint64_t count)
{
    /* All or nothing: what is refused must not cost the results of earlier jobs. */
    uint64_t ended = vm->ended.count + vm->ended_read.count;
    if (count > vm->config.max_jobs ||
        vm->jobs_by_number.count - ended > vm->config.max_jobs - count)
        return false;
    while (vm->jobs_by_number.count > vm->config.max_jobs - count)
        if (!forget_one(vm))
            return false;
    return true;
}

static void expire_list(struct vm *vm, struct ended_list *list, uint64_t now)
{
    while (list->first && now - list->first->end->kept_us > vm->config.retain_for_ms * 1000) {
        vm_job_leave(vm, list->first);
        vm->jobs_changed = clock_change();
    }
}

void vm_retain(struct vm *vm)
{
    uint64_t now = clock_now_us();
    while (vm->ended.count + vm->ended_read.count > vm->config.retain_jobs)
        forget_one(vm);
    expire_list(vm, &vm->ended, now);
    expire_list(vm, &vm->ended_read, now);
}

void vm_expire(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm_retain(vm);
    pthread_mutex_unlock(&vm->lock);
}

void vm_job_read(struct vm *vm, uint64_t number)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = number_lookup(vm, number);
    if (job && job->end && job->end->listed && !job->end->read) {
        vm_ended_leave(vm, job);
        job->end->read = true;
        vm_ended_enter(vm, job);
        state_read_job(vm->server->state, vm->id, number, clock_real_us());
    }
    pthread_mutex_unlock(&vm->lock);
}

/* mkdir_words says in words what vm_mkdir returns. */
static const char *mkdir_words(int error)
{
    switch (error) {
    case EINVAL:
        return "a tag is a letter and up to 63 of A-Z a-z 0-9 . _ -, not 'all'";
    case EEXIST:
        return "there is such a job already";
    case EDQUOT:
        return "max_jobs job directories are there, and none of them has ended: remove some";
    case EROFS:
        return "no jobs are accepted now: the host drains";
    default:
        return "the state cannot be written: see the host's log";
    }
}

static int make_directory(struct vm *vm, const char *tag, struct job **made)
{
    if (!command_tag_is_valid(tag))
        return EINVAL;
    struct job *job = job_create(vm, tag, NULL);
    int error = job ? vm_lock_numbers(vm, 1) : ENOSPC;
    if (error) {
        job_unref(job);
        return error;
    }
    if (atomic_load(&vm->gone) || atomic_load(&vm->server->draining))
        error = EROFS;
    else if (vm_tag_lookup(vm, tag))
        error = EEXIST;
    else if (state_is_behind(vm->server->state, vm->id))
        error = ENOSPC;
    else if (!vm_make_room(vm, 1))
        error = EDQUOT;
    if (!error) {
        job_set_number(job, vm->next_job);
        error = vm_job_enter(vm, job);
    }
    if (!error) {
        vm->next_job++;
        state_put_directory(vm->server->state, vm->id, job->number, job_tag(job));
        job->journaled = true;
        vm->jobs_changed = clock_change();
        job_set_changed(job, vm->jobs_changed);
        *made = job_ref(job);
    }
    pthread_mutex_unlock(&vm->lock);
    if (error)
        job_unref(job);
    return error;
}

int vm_mkdir(struct vm *vm, const char *tag, struct job **made)
{
    int error = make_directory(vm, tag, made);
    return error ? vm_note_error(vm, error, tag, mkdir_words(error)) : 0;
}

int vm_rmdir(struct vm *vm, const char *tag)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = vm_tag_lookup(vm, tag);
    if (!job) {
        pthread_mutex_unlock(&vm->lock);
        return ENOENT;
    }
    job_ref(job);
    if (vm->newest.job == job)
        vm_newest_clear(vm, NULL);
    vm_job_leave(vm, job);
    vm->jobs_changed = clock_change();
    vm_touch(vm);
    bool pending = job->pool && !job_has_ended(job);
    pthread_mutex_unlock(&vm->lock);
    if (pending)
        pool_cancel(job->pool, job, "its directory was removed");
    job_unref(job);
    return 0;
}

/* A list of jobs that is worked on after the lock is given up. */
struct job_array {
    struct job **jobs;
    size_t count;
};

/* pending_jobs collects references to all jobs that are queued or running. */
static struct job_array pending_jobs(struct vm *vm)
{
    struct job_array array = {.jobs = calloc(vm->jobs_by_number.count + 1, sizeof(struct job *))};
    struct table_entry *entry = NULL;
    while (array.jobs && (entry = table_next(&vm->jobs_by_number, entry))) {
        struct job *job = container_of(entry, struct job, by_number);
        if (job->pool && !job_has_ended(job))
            array.jobs[array.count++] = job_ref(job);
    }
    return array;
}

/* Newest first, so that the queue has nothing of this VM to start while it is emptied. */
static int newer_first(const void *a, const void *b)
{
    const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;
    return x->number < y->number ? 1 : x->number > y->number ? -1 : 0;
}

static int cancel_all(struct vm *vm, const char *why)
{
    pthread_mutex_lock(&vm->lock);
    struct job_array array = pending_jobs(vm);
    pthread_mutex_unlock(&vm->lock);
    if (!array.jobs)
        return ENOSPC;
    qsort(array.jobs, array.count, sizeof(*array.jobs), newer_first);
    for (size_t i = 0; i < array.count; i++) {
        pool_cancel(array.jobs[i]->pool, array.jobs[i], why);
        job_unref(array.jobs[i]);
    }
    free(array.jobs);
    return 0;
}

/* find_submitted returns a reference to the job and its pool (NULL while JOB_NEW), or NULL. */
static struct job *find_submitted(struct vm *vm, const char *tag, struct pool **pool)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = vm_tag_lookup(vm, tag);
    if (job)
        job_ref(job);
    *pool = job ? job->pool : NULL;
    pthread_mutex_unlock(&vm->lock);
    return job;
}

int vm_cancel(struct vm *vm, const char *tag, const char *why)
{
    struct pool *pool;
    if (strcmp(tag, "all") == 0)
        return cancel_all(vm, why);
    struct job *job = find_submitted(vm, tag, &pool);
    if (!job)
        return EINVAL;
    if (pool)
        pool_cancel(pool, job, why);
    job_unref(job);
    return 0;
}

int vm_set_priority(struct vm *vm, const char *tag, unsigned priority)
{
    struct pool *pool;
    struct job *job = find_submitted(vm, tag, &pool);
    pthread_mutex_lock(&vm->lock); /* so that the state has the changes in the pool's order */
    bool moved = pool && pool_set_priority(pool, job, priority);
    if (moved && job->journaled)
        state_move_job(vm->server->state, vm->id, job->number, priority);
    pthread_mutex_unlock(&vm->lock);
    job_unref(job);
    return moved ? 0 : EINVAL;
}

/* ctl_parse reads `cancel TAG` or `cancel all`. 0, or EINVAL and `error` in words. */
static int ctl_parse(struct vm *vm, const struct line *line, char tag[COMMAND_MAX_TAG + 1],
                     char *error)
{
    static const char verb[] = "cancel";
    struct line word = command_trim(line->bytes, line->size);
    size_t verb_size = sizeof(verb) - 1;
    snprintf(error, COMMAND_MAX_ERROR, "ctl takes cancel TAG or cancel all");
    if (word.size <= verb_size || memcmp(word.bytes, verb, verb_size) != 0)
        return EINVAL;
    struct line name = command_trim(word.bytes + verb_size, word.size - verb_size);
    if (name.bytes == word.bytes + verb_size || name.size > COMMAND_MAX_TAG)
        return EINVAL;
    memcpy(tag, name.bytes, name.size);
    tag[name.size] = '\0';
    struct job *job = strcmp(tag, "all") == 0 ? NULL : vm_find_tag(vm, tag);
    bool found = job || strcmp(tag, "all") == 0;
    job_unref(job);
    if (!found)
        snprintf(error, COMMAND_MAX_ERROR, "vm%u has no job %s", vm->id, tag);
    return found ? 0 : EINVAL;
}

int vm_ctl(struct vm *vm, const struct line *batch, size_t count)
{
    char error[COMMAND_MAX_ERROR], tag[COMMAND_MAX_TAG + 1];
    for (size_t i = 0; i < count; i++) {
        int failure = ctl_parse(vm, &batch[i], tag, error);
        if (failure)
            return vm_reject(vm, VIA_SUBMIT, NULL, failure, &batch[i], error);
    }
    for (size_t i = 0; i < count; i++)
        if (ctl_parse(vm, &batch[i], tag, error) == 0) /* it may be forgotten by now */
            vm_cancel(vm, tag, "cancelled by the VM");
    return 0;
}
