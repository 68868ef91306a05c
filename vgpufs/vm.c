#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "common/log.h"
#include "events.h"
#include "nfs_wait.h"
#include "nodes.h"
#include "parked.h"
#include "pool.h"
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many job numbers are reserved at first, and at most, in one go. */
#define FIRST_BLOCK 256
#define MOST_BLOCK  65536

/* How long after an NFS server was given a listing the guest may still be told its directory's time
 * with it: the server asks for that when it has read the listing. A look again too many costs the
 * guest two calls a file, one too few an old listing. */
#define LISTING_US 1000000

static void identity_restore(struct vm *vm, const char *saved)
{
    struct claim claim;
    char error[COMMAND_MAX_ERROR];
    vm->identity = identity_default(vm->server->config, &vm->config);
    if (!saved)
        return;
    if (identity_parse(saved, &claim, error, sizeof(error)) == 0 &&
        identity_judge(vm->server->config, &vm->config, &claim, &vm->identity, error,
                       sizeof(error)) == 0) {
        vm->identity_set = true;
        return;
    }
    log_warning("vm%u: its identity of earlier is not allowed any more: %s", vm->id, error);
}

static void numbers_ask(struct vm *vm, uint64_t count)
{
    uint64_t more = count > vm->number_block ? count : vm->number_block;
    vm->asked_job += more;
    vm->number_block = vm->number_block < MOST_BLOCK ? vm->number_block * 2 : MOST_BLOCK;
    vm->reservation = state_put_job_numbers(vm->server->state, vm->id, vm->asked_job);
}

static struct data_limits data_limits(const struct config_vm *config)
{
    return (struct data_limits){config->data_quota_bytes, config->max_data_files,
                                config->max_data_open};
}

struct vm *vm_create(struct server *server, const struct config_vm *config,
                     const struct state_vm *saved)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return NULL;
    vm->tenants = calloc(server->pool_count, sizeof(struct pool_tenant *));
    pthread_mutex_init(&vm->lock, NULL);
    worker_init(&vm->worker);
    worker_init(&vm->lister);
    listing_kept_init(&vm->listed_jobs);
    listing_kept_init(&vm->listed_data);
    nfs_lines_init(&vm->nfs_lines);
    nfs_views_init(&vm->nfs_views);
    vm->server = server;
    vm->id = config->id;
    vm->uid = config->uid;
    vm->config = *config;
    vm->config.address = NULL;
    vm->changed = clock_change();
    vm->submit_changed = vm->jobs_changed = vm->list_changed = vm->changed;
    vm->number_block = FIRST_BLOCK;
    vm->next_job = vm->reserved_job = vm->asked_job = saved->next_job;
    numbers_ask(vm, 0);
    identity_restore(vm, saved->identity);
    struct data_limits limits = data_limits(config);
    data_init(&vm->data, server->state, vm->id, saved->next_file, &limits);
    openings_limit(&vm->openings, config->max_open, config->max_open_bytes);
    for (size_t i = 0; vm->tenants && i < server->pool_count; i++) {
        vm->tenants[i] = pool_tenant_create(&server->pools[i], vm);
        if (!vm->tenants[i]) {
            vm_destroy(vm);
            return NULL;
        }
        pool_tenant_limit(vm->tenants[i], config->max_running, config->device_share_percent);
    }
    if (vm->tenants)
        return vm;
    vm_destroy(vm);
    return NULL;
}

static void jobs_forget(struct vm *vm)
{
    struct table_entry *entry = table_next(&vm->jobs_by_number, NULL), *next;
    for (; entry; entry = next) {
        next = table_next(&vm->jobs_by_number, entry);
        vm_job_leave(vm, container_of(entry, struct job, by_number));
    }
}

void vm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    vm->destroyed = true;
    vm_newest_set(vm, NULL);
    job_unref(vm->legacy.job);
    for (unsigned i = 0; i < VM_TOLD_JOBS; i++)
        job_unref(vm->told_jobs[i]);
    jobs_forget(vm);
    table_finish(&vm->jobs_by_number);
    table_finish(&vm->jobs_by_tag);
    table_finish(&vm->parked);
    blob_unref(vm->identity_written);
    blob_unref(vm->request_written);
    blob_unref(vm->told);
    for (size_t i = 0; vm->tenants && i < vm->server->pool_count; i++)
        pool_tenant_destroy(vm->tenants[i]);
    free(vm->tenants);
    data_finish(&vm->data);
    nfs_lines_finish(&vm->nfs_lines);
    nfs_views_finish(&vm->nfs_views);
    worker_finish(&vm->worker);
    worker_finish(&vm->lister);
    listing_kept_finish(&vm->listed_jobs);
    listing_kept_finish(&vm->listed_data);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

void vm_reload(struct vm *vm, const struct config_vm *config)
{
    char error[COMMAND_MAX_ERROR];
    pthread_mutex_lock(&vm->lock);
    vm->config = *config;
    vm->config.address = NULL;
    atomic_store(&vm->uid, config->uid);
    struct claim claim = {.priority = vm->identity.priority, .vm_id = vm->id};
    strcpy(claim.pool, vm->server->pools[vm->identity.pool].name);
    if (!vm->identity_set || identity_judge(vm->server->config, &vm->config, &claim, &vm->identity,
                                            error, sizeof(error)) != 0) {
        vm->identity = identity_default(vm->server->config, &vm->config);
        vm->identity_set = false;
    }
    for (size_t i = 0; i < vm->server->pool_count; i++)
        pool_tenant_limit(vm->tenants[i], config->max_running, config->device_share_percent);
    vm_touch(vm);
    pthread_mutex_unlock(&vm->lock);
    struct data_limits limits = data_limits(config);
    data_set_limits(&vm->data, &limits);
    openings_limit(&vm->openings, config->max_open, config->max_open_bytes);
    atomic_store(&vm->gone, false);
}

bool vm_numbers_are_short(struct vm *vm, uint64_t count)
{
    pthread_mutex_lock(&vm->lock);
    bool are_short = vm->reserved_job - vm->next_job < count;
    if (are_short && vm->asked_job - vm->next_job >= count &&
        state_is_durable(vm->server->state, vm->reservation)) {
        vm->reserved_job = vm->asked_job;
        are_short = false;
    }
    pthread_mutex_unlock(&vm->lock);
    return are_short;
}

int vm_lock_numbers(struct vm *vm, uint64_t count)
{
    struct state *state = vm->server->state;
    pthread_mutex_lock(&vm->lock);
    while (vm->reserved_job - vm->next_job < count) {
        if (vm->asked_job - vm->next_job < count)
            numbers_ask(vm, count);
        uint64_t asked = vm->asked_job;
        state_ticket ticket = vm->reservation;
        pthread_mutex_unlock(&vm->lock);
        int error = state_wait(state, ticket);
        if (error)
            return ENOSPC;
        pthread_mutex_lock(&vm->lock);
        if (vm->reserved_job < asked)
            vm->reserved_job = asked;
    }
    /* Ask ahead, so that hardly anybody ever waits above. */
    if (vm->asked_job - vm->next_job - count < vm->number_block / 4)
        numbers_ask(vm, 0);
    return 0;
}

void vm_numbers_skip(struct vm *vm, uint64_t number)
{
    if (number < vm->next_job)
        return;
    vm->next_job = number + 1;
    if (vm->reserved_job < vm->next_job)
        vm->reserved_job = vm->next_job;
    if (vm->asked_job >= vm->next_job)
        return;
    log_error("vm%u: the state has job %" PRIu64 ", and calls its number unused: counting goes on "
              "behind it",
              vm->id, number);
    vm->asked_job = vm->next_job;
    numbers_ask(vm, 0);
}

int vm_numbers_ready(struct vm *vm)
{
    int error = vm_lock_numbers(vm, 1);
    if (!error)
        pthread_mutex_unlock(&vm->lock);
    return error;
}

void vm_save_numbers(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    state_put_job_numbers(vm->server->state, vm->id, vm->next_job);
    pthread_mutex_unlock(&vm->lock);
}

void vm_touch(struct vm *vm)
{
    vm->changed = clock_change();
    if (!vm->listed_us)
        return;
    vm->list_changed = vm->changed;
    if (clock_now_us() - vm->listed_us > LISTING_US)
        vm->listed_us = 0;
}

void vm_touch_submit(struct vm *vm)
{
    vm_touch(vm);
    vm->submit_changed = vm->changed;
}

void vm_note_listing(struct vm *vm)
{
    vm->listed_us = clock_now_us();
}

void vm_note_change(struct vm *vm, struct job *job)
{
    pthread_mutex_lock(&vm->lock);
    vm_touch_submit(vm);
    if (job)
        job_set_changed(job, vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

void vm_newest_set(struct vm *vm, struct job *job)
{
    if (job)
        job_ref(job);
    /* Who polls the VM's result may have something to read now, or another job to wait for. */
    struct job *old = vm->newest.job;
    if (old && old != job) {
        watchers_notify(vm->server, old);
        nfs_wait_moved(vm, old);
    }
    blob_unref(vm->newest.rejection);
    vm->newest = (struct newest){.job = job};
    if (old)
        vm_row_release(vm, old);
    job_unref(old);
}

void vm_newest_clear(struct vm *vm, struct blob *rejection)
{
    vm_newest_set(vm, NULL);
    vm->newest.rejection = rejection;
    vm->newest.rejected_us = clock_now_us();
    /* A flood of wrong lines must not fill the memory; the next entry takes this one's place. */
    vm->entries++;
    if (!state_is_behind(vm->server->state, vm->id))
        state_put_rejection(vm->server->state, vm->id, vm->entries, rejection);
}

/* blank_header makes the bytes of a result that no job stands behind, or one without a command. */
static void blank_header(const struct vm *vm, const struct job *job, const char *status,
                         const char *error, struct text *text)
{
    text_printf(text, "status=%s", status);
    if (job)
        text_printf(text, " job=%" PRIu64 " tag=%s", job->number, job_tag(job));
    else
        text_puts(text, " job=- tag=-");
    text_printf(text,
                " command=- pool=%s priority=%u backend=- device=- wait_us=- "
                "run_us=- bytes=0",
                vm->server->pools[vm->identity.pool].name, vm->identity.priority);
    if (error) {
        text_puts(text, " error=\"");
        text_escape(text, error, strlen(error), COMMAND_MAX_ERROR);
        text_puts(text, "\"");
    }
    text_puts(text, "\n");
}

/* result_load reads a result that is only in the state. A small one stays in memory from then on.
 */
static struct blob *result_load(struct vm *vm, struct job *job)
{
    struct blob *result = state_load_result(vm->server->state, vm->id, job->number);
    if (!result)
        return NULL;
    result->job = job->number;
    if (result->size <= VM_SMALL_RESULT)
        job->end->result = blob_ref(result);
    return result;
}

struct blob *vm_result_now(struct vm *vm, struct job *job, struct job **pending)
{
    struct text text = {0};
    *pending = NULL;
    if (!job && vm->newest.rejection)
        return blob_ref(vm->newest.rejection);
    if (!job)
        job = vm->newest.job;
    if (job && job_result(job)) /* it has ended, or its line was rejected */
        return blob_ref(job_result(job));
    if (job && job_result_bytes(job))
        return result_load(vm, job);
    if (!job || job_state(job) == JOB_NEW) {
        blank_header(vm, job, "idle", NULL, &text);
        return blob_from_text(&text);
    }
    *pending = job_ref(job);
    return NULL;
}

void vm_told(struct vm *vm, struct job *job, struct blob *bytes)
{
    struct blob **told = job ? &job->told : &vm->told;
    blob_unref(*told);
    *told = blob_ref(bytes);
    if (!job || bytes->size <= VM_SMALL_RESULT)
        return;
    /* It can be read from the state again, and then is the same: only some stay in memory. */
    struct job **place = &vm->told_jobs[vm->told_turn++ % VM_TOLD_JOBS];
    if (*place && *place != job) {
        blob_unref((*place)->told);
        (*place)->told = NULL;
    }
    job_ref(job);
    job_unref(*place);
    *place = job;
}

/* last_error_set notes an error; the VM is locked. */
static void last_error_set(struct vm *vm, int number, const struct line *line, const char *text)
{
    struct last_error *last = &vm->last_error;
    size_t size = line->size < sizeof(last->line) ? line->size : sizeof(last->line) - 1;
    last->time = time(NULL);
    last->number = number;
    /* A NUL would end the string early and hide what follows it: it shows as another byte. */
    for (size_t i = 0; i < size; i++)
        last->line[i] = line->bytes[i] ? line->bytes[i] : '\x01';
    last->line[size] = '\0';
    snprintf(last->text, sizeof(last->text), "%s", text);
    vm_touch_submit(vm);
}

int vm_note_error(struct vm *vm, int number, const char *about, const char *text)
{
    struct line line = {.bytes = about, .size = strlen(about)};
    pthread_mutex_lock(&vm->lock);
    last_error_set(vm, number, &line, text);
    pthread_mutex_unlock(&vm->lock);
    return number;
}

static void legacy_refuse(struct vm *vm, const char *text)
{
    snprintf(vm->legacy.error, sizeof(vm->legacy.error), "%s", text);
    if (!state_is_behind(vm->server->state, vm->id))
        state_put_refused_request(vm->server->state, vm->id, vm->entries, text);
}

int vm_reject(struct vm *vm, enum submit_via via, struct job *target, int number,
              const struct line *line, const char *text)
{
    struct text content = {0};
    pthread_mutex_lock(&vm->lock);
    last_error_set(vm, number, line, text);
    if (target && job_state(target) == JOB_NEW) {
        blank_header(vm, target, "rejected", text, &content);
        struct job_end *end = job_end_get(target);
        blob_unref(end->result);
        end->result = blob_from_text(&content);
        end->result_bytes = end->result ? end->result->size : 0;
        job_set_changed(target, clock_change());
        if (end->result && target->journaled && !state_is_behind(vm->server->state, vm->id))
            state_end_job(vm->server->state, vm->id, target->number, JOB_NEW, 0, end->result);
    }
    blank_header(vm, NULL, "rejected", text, &content);
    vm_newest_clear(vm, blob_from_text(&content));
    vm->counters.rejected++;
    /* While a request is pending, response.txt goes on to speak of that one. */
    if (via == VIA_REQUEST && (!vm->legacy.job || job_has_ended(vm->legacy.job)))
        legacy_refuse(vm, text);
    struct last_error copy = vm->last_error;
    pthread_mutex_unlock(&vm->lock);
    events_rejected(vm->server, vm->id, copy.line, copy.text);
    return number;
}

/* identity_check judges the claim. 0 and *identity, or an errno and `error` in words; the VM is
 * locked. */
static int identity_check(struct vm *vm, const struct line *line, struct identity *identity,
                          char *error)
{
    struct claim claim;
    if (memchr(line->bytes, '\0', line->size)) {
        snprintf(error, COMMAND_MAX_ERROR, "a NUL byte is no part of an identity");
        return EINVAL;
    }
    int failure = identity_parse(line->bytes, &claim, error, COMMAND_MAX_ERROR);
    if (failure)
        return failure;
    if (state_is_behind(vm->server->state, vm->id)) {
        snprintf(error, COMMAND_MAX_ERROR, "the state cannot be written: see the host's log");
        return ENOSPC;
    }
    failure =
        identity_judge(vm->server->config, &vm->config, &claim, identity, error, COMMAND_MAX_ERROR);
    vm->counters.identity_rejected += failure != 0;
    return failure;
}

/* identity_store makes the line's claim the VM's identity; the VM is locked. */
static void identity_store(struct vm *vm, const struct line *line, const struct identity *identity)
{
    struct text written = {0}, saved = {0};
    text_append(&written, line->bytes, line->size);
    text_append(&written, "\n", line->newline);
    blob_unref(vm->identity_written);
    vm->identity_written = blob_from_text(&written);
    vm->identity = *identity;
    vm->identity_set = true;
    text_printf(&saved, "%s:%u:%u", vm->server->pools[identity->pool].name, identity->priority,
                vm->id);
    if (!saved.failed)
        state_put_identity(vm->server->state, vm->id, saved.data);
    text_finish(&saved);
    vm_touch(vm);
}

int vm_set_identity(struct vm *vm, const struct line *batch, size_t count)
{
    char error[COMMAND_MAX_ERROR] = "";
    struct identity identity;
    size_t judged = 0;
    int failure = 0;
    pthread_mutex_lock(&vm->lock);
    for (; judged < count && !failure; judged++)
        failure = identity_check(vm, &batch[judged], &identity, error);
    if (!failure && count) /* the last one holds */
        identity_store(vm, &batch[count - 1], &identity);
    pthread_mutex_unlock(&vm->lock);
    return failure ? vm_reject(vm, VIA_SUBMIT, NULL, failure, &batch[judged - 1], error) : 0;
}

void vm_hold(struct vm *vm, bool held)
{
    pthread_mutex_lock(&vm->lock);
    atomic_store(&vm->held, held);
    state_put_vm_held(vm->server->state, vm->id, held);
    if (!held)
        vm->crashes_in_row = 0;
    for (size_t i = 0; i < vm->server->pool_count; i++)
        pool_tenant_hold(vm->tenants[i], held);
    vm_touch(vm);
    pthread_mutex_unlock(&vm->lock);
    for (size_t i = 0; i < vm->server->pool_count && !held; i++)
        pool_dispatch(&vm->server->pools[i]);
}

void vm_purge(struct vm *vm)
{
    vm_cancel(vm, "all", "purged by the administrator");
    pthread_mutex_lock(&vm->lock);
    vm_newest_clear(vm, NULL);
    jobs_forget(vm);
    vm->jobs_changed = clock_change();
    struct job *request = vm->legacy.job;
    vm->legacy = (struct legacy){0};
    if (request)
        vm_row_release(vm, request);
    job_unref(request);
    state_put_refused_request(vm->server->state, vm->id, vm->entries, NULL);
    blob_unref(vm->identity_written);
    blob_unref(vm->request_written);
    vm->identity_written = vm->request_written = NULL;
    vm->identity = identity_default(vm->server->config, &vm->config);
    vm->identity_set = false;
    vm->last_error = (struct last_error){0};
    state_put_identity(vm->server->state, vm->id, NULL);
    vm_touch(vm);
    pthread_mutex_unlock(&vm->lock);
    data_purge(&vm->data, notify_file_gone, vm);
}
