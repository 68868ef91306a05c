/* What a VM's status files say. */
#include "vm.h"
#include "vm_internal.h"

#include "clock.h"
#include "pool.h"
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void render_progress(const struct job *job, struct text *text)
{
    unsigned progress = atomic_load(&job->progress);
    if (job_state(job) == JOB_RUNNING && progress != UINT16_MAX)
        text_printf(text, " progress=%u.%02u", progress / 10000, progress % 10000 / 100);
    else
        text_puts(text, " progress=-");
}

/* render_job_line makes the `newest` line of a job. Its VM may be locked or not. */
static void render_job_line(struct job *job, struct text *text)
{
    enum job_state state = job_state(job);
    if (state == JOB_NEW) {
        text_printf(text, "newest job=%" PRIu64 " tag=%s state=%s position=- age_ms=- progress=-\n",
                    job->number, job_tag(job), job_result_bytes(job) ? "rejected" : "new");
        return;
    }
    uint64_t position = state == JOB_QUEUED ? pool_position(job->pool, job) : 0;
    text_printf(text, "newest job=%" PRIu64 " tag=%s state=%s", job->number, job_tag(job),
                job_state_name(state));
    if (position)
        text_printf(text, " position=%" PRIu64, position);
    else
        text_puts(text, " position=-");
    text_printf(text, " age_ms=%" PRIu64, (clock_now_us() - job->queue.queued_us) / 1000);
    render_progress(job, text);
    text_puts(text, "\n");
}

void vm_render_job_status(struct job *job, struct text *text)
{
    /* The lock keeps a job that is being submitted from showing half of itself. */
    pthread_mutex_lock(&job->vm->lock);
    render_job_line(job, text);
    pthread_mutex_unlock(&job->vm->lock);
}

static void render_newest(struct vm *vm, struct text *text)
{
    if (vm->newest.rejection)
        text_printf(text,
                    "newest job=- tag=- state=rejected position=- age_ms=%" PRIu64 " progress=-\n",
                    (clock_now_us() - vm->newest.rejected_us) / 1000);
    else if (vm->newest.job)
        render_job_line(vm->newest.job, text);
    else
        text_puts(text, "newest job=- tag=- state=idle position=- age_ms=- progress=-\n");
}

/* The names of the contract's table; anything else shows as its number. */
static const char *errno_name(int number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {
        {EINVAL, "EINVAL"}, {EFBIG, "EFBIG"},   {EACCES, "EACCES"}, {EEXIST, "EEXIST"},
        {EDQUOT, "EDQUOT"}, {ENOSPC, "ENOSPC"}, {EROFS, "EROFS"},   {ESTALE, "ESTALE"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].number == number)
            return names[i].name;
    return "EIO";
}

static void render_last_error(const struct last_error *last, struct text *text)
{
    if (!last->time) {
        text_puts(text, "last_error time=- errno=- line=- text=-\n");
        return;
    }
    text_printf(text, "last_error time=%jd errno=%s line=", (intmax_t)last->time,
                errno_name(last->number));
    text_quote(text, last->line);
    text_puts(text, " text=");
    text_quote(text, last->text);
    text_puts(text, "\n");
}

/* render_counted ends the line of limits with what is counted, each beside its limit. */
static void render_counted(const struct vm *vm, const struct data_usage *usage, struct text *text)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"data_files", usage->files},
        {"max_data_files", usage->limits.max_files},
        {"data_open", usage->open_files},
        {"max_data_open", usage->limits.max_open},
        {"open", atomic_load(&vm->openings.files)},
        {"max_open", atomic_load(&vm->openings.max_files)},
        {"open_bytes", atomic_load(&vm->openings.bytes)},
        {"max_open_bytes", atomic_load(&vm->openings.max_bytes)},
        {"waiting", vm->parked.count},
        {"max_waiting", vm->config.max_waiting},
        {"max_running", vm->config.max_running},
        {"max_crashes", vm->config.max_crashes},
        {"device_share_percent", vm->config.device_share_percent},
        {"retain_jobs", vm->config.retain_jobs},
        {"retain_for_s", vm->config.retain_for_ms / 1000},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        text_printf(text, " %s=%" PRIu64, fields[i].name, fields[i].value);
    text_puts(text, "\n");
}

void vm_render_status(struct vm *vm, struct text *text)
{
    struct data_usage usage;
    data_usage(&vm->data, &usage);
    pthread_mutex_lock(&vm->lock);
    const struct pool *pool = &vm->server->pools[vm->identity.pool];
    text_printf(text,
                "vm %u pool=%s priority=%u identity=%s queued=%" PRIu64 " running=%" PRIu64
                " held=%s crashes=%" PRIu64 "\n",
                vm->id, pool->name, vm->identity.priority,
                identity_source_name(vm->identity.source), atomic_load(&vm->queued),
                atomic_load(&vm->running), atomic_load(&vm->held) ? "yes" : "no",
                vm->counters.crashes);
    render_newest(vm, text);
    render_last_error(&vm->last_error, text);
    text_printf(text,
                "limits max_queued=%" PRIu64 " max_jobs=%" PRIu64 " max_run_s=%" PRIu64
                " data_bytes=%" PRIu64 " data_quota_bytes=%" PRIu64,
                vm->config.max_queued, vm->config.max_jobs, atomic_load(&pool->max_run_ms) / 1000,
                usage.used_bytes, usage.limits.quota_bytes);
    render_counted(vm, &usage, text);
    pthread_mutex_unlock(&vm->lock);
}

void vm_render_identity(struct vm *vm, struct text *text)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->identity_written)
        text_append(text, vm->identity_written->data, vm->identity_written->size);
    else
        text_printf(text, "pool=%s priority=%u vm_id=%u\n",
                    vm->server->pools[vm->identity.pool].name, vm->identity.priority, vm->id);
    pthread_mutex_unlock(&vm->lock);
}

/*
 * The older client reads one line and shows what stands behind the colon: of a success the first
 * line of the output, of a failure the header's error. Both come from the result's bytes.
 */
static void render_ended(const struct job *job, const struct blob *result, struct text *text)
{
    const char *header_end = memchr(result->data, '\n', result->size);
    if (job_state(job) == JOB_DONE) {
        const char *output = header_end ? header_end + 1 : result->data + result->size;
        size_t size = (size_t)(result->data + result->size - output);
        const char *end = memchr(output, '\n', size);
        size = end ? (size_t)(end - output) : size;
        text_puts(text, "1:");
        if (size)
            text_escape(text, output, size, 1024);
        else
            text_puts(text, "done");
        return;
    }
    text_printf(text, "2:%s", job_state_name(job_state(job)));
    static const char key[] = " error=\"";
    size_t header_size = header_end ? (size_t)(header_end - result->data) : result->size;
    const char *error = memmem(result->data, header_size, key, sizeof(key) - 1);
    size_t start = error ? (size_t)(error - result->data) + sizeof(key) - 1 : header_size;
    if (start < header_size) { /* the last byte is the closing quote */
        text_puts(text, ": ");
        text_append(text, result->data + start, header_size - 1 - start);
    }
}

void vm_render_response(struct vm *vm, struct text *text)
{
    pthread_mutex_lock(&vm->lock);
    struct job *job = vm->legacy.job;
    if (vm->legacy.error[0]) {
        text_puts(text, "2:");
        text_escape(text, vm->legacy.error, strlen(vm->legacy.error), COMMAND_MAX_ERROR);
    } else if (!job) {
        text_puts(text, "0:Ready");
    } else if (job_has_ended(job)) {
        struct job *pending;
        struct blob *result = vm_result_now(vm, job, &pending);
        if (result)
            render_ended(job, result, text);
        else
            text_puts(text, "2:the result cannot be read: see the host's log");
        blob_unref(result);
    } else if (job_state(job) == JOB_RUNNING) {
        text_printf(text, "0:Running job %" PRIu64, job->number);
    } else {
        text_printf(text, "0:Queued job %" PRIu64 " at position %" PRIu64, job->number,
                    pool_position(job->pool, job));
    }
    text_puts(text, "\n");
    pthread_mutex_unlock(&vm->lock);
}
