#include "job.h"

#include "common/log.h"
#include "common/number.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The contract bounds error= in a header. */
#define MAX_ERROR_BYTES 512
/* Of a result's first line: most need no more. */
#define HEADER_ROOM 223
/* A job's number has 40 bits in its files' inodes. */
#define NUMBER_ROOM sizeof("1099511627776")
#define NS_PER_S    UINT64_C(1000000000)

/* With a tag and a short line behind it, 224 bytes of malloc's, which hands out 16 at a time. */
_Static_assert(sizeof(struct job) <= 192,
               "a million jobs may be queued: what few have stands elsewhere");

/* line_copy writes the line as it was accepted. */
static void line_copy(char *to, const struct line *line)
{
    memcpy(to, line->bytes, line->size);
    strcpy(to + line->size, line->newline ? "\n" : "");
}

static char *tag_room(struct job *job)
{
    return (char *)&job->by_tag[job->tag_is_chosen];
}

struct job *job_create(struct vm *vm, const char *tag, const struct line *line)
{
    bool chosen = tag && tag[0] > '9'; /* a number is never chosen, it is the job's own */
    size_t tag_size = chosen ? strlen(tag) + 1 : NUMBER_ROOM;
    size_t entry_size = chosen ? sizeof(struct table_entry) : 0;
    /* One piece of memory: a million jobs may be queued. */
    struct job *job = calloc(1, sizeof(*job) + entry_size + tag_size + (line ? line->size + 2 : 0));
    if (!job)
        return NULL;
    job->tag_is_chosen = chosen;
    if (chosen)
        memcpy(tag_room(job), tag, tag_size);
    if (line) {
        job->line = tag_room(job) + tag_size;
        line_copy(job->line, line);
    }
    job->line_is_own = !line;
    job->vm = vm;
    atomic_init(&job->references, 1);
    atomic_init(&job->state, JOB_NEW);
    atomic_init(&job->progress, UINT16_MAX);
    return job;
}

void job_set_number(struct job *job, uint64_t number)
{
    char text[NUMBER_TEXT_SIZE];
    job->number = number;
    if (!job->tag_is_chosen)
        memcpy(tag_room(job), text, number_print(text, number) + 1);
}

struct job *job_ref(struct job *job)
{
    atomic_fetch_add_explicit(&job->references, 1, memory_order_relaxed);
    return job;
}

void job_unref(struct job *job)
{
    if (!job || atomic_fetch_sub_explicit(&job->references, 1, memory_order_acq_rel) > 1)
        return;
    job_end_drop(job);
    blob_unref(job->told);
    job_drop_line(job);
    free(job);
}

struct job_end *job_end_get(struct job *job)
{
    if (!job->end)
        job->end = calloc(1, sizeof(*job->end));
    if (!job->end) {
        log_error("no memory for the end of a job: ending, so that nothing is lost");
        abort();
    }
    return job->end;
}

void job_end_drop(struct job *job)
{
    if (job->end)
        blob_unref(job->end->result);
    free(job->end);
    job->end = NULL;
}

void job_set_changed(struct job *job, struct timespec changed)
{
    job->changed_ns = (uint64_t)changed.tv_sec * NS_PER_S + (uint64_t)changed.tv_nsec;
}

struct timespec job_changed(const struct job *job)
{
    return (struct timespec){.tv_sec = (time_t)(job->changed_ns / NS_PER_S),
                             .tv_nsec = (long)(job->changed_ns % NS_PER_S)};
}

int job_set_line(struct job *job, const struct line *line)
{
    job->line = malloc(line->size + 2);
    if (!job->line)
        return -1;
    line_copy(job->line, line);
    job->line_is_own = true;
    return 0;
}

void job_drop_line(struct job *job)
{
    if (job->line_is_own)
        free(job->line);
    job->line = NULL;
}

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {"new",    "queued",    "running", "done",
                                        "failed", "cancelled", "timeout"};
    return names[state];
}

static void render_number(struct text *text, const char *key, bool known, uint64_t value)
{
    text_puts(text, key);
    if (known)
        text_number(text, value);
    else
        text_append(text, "-", 1);
}

static void render_word(struct text *text, const char *key, const char *word)
{
    text_puts(text, key);
    text_puts(text, word);
}

void job_render_result(const struct job *job, const struct job_outcome *outcome, struct text *text)
{
    bool ran = job->started_us != 0;
    text_reserve(text, HEADER_ROOM + outcome->output_size);
    render_word(text, "status=", job_state_name(outcome->state));
    render_number(text, " job=", true, job->number);
    render_word(text, " tag=", job_tag(job));
    render_word(text, " command=", job->workload ? job->workload->name : "-");
    render_word(text, " pool=", job->pool ? job->pool->name : "-");
    render_number(text, " priority=", true, job->queue.priority);
    render_word(text, " backend=", outcome->backend ? outcome->backend : "-");
    text_puts(text, " device=");
    if (outcome->device)
        text_quote(text, outcome->device);
    else
        text_puts(text, "-");
    uint64_t ended_us = job->end->ended_us, until = ran ? job->started_us : ended_us;
    render_number(text, " wait_us=", true, until - job->queue.queued_us);
    render_number(text, " run_us=", ran, ended_us - job->started_us);
    render_number(text, " bytes=", true, outcome->output_size);
    if (outcome->truncated)
        text_puts(text, " truncated=yes");
    if (outcome->exit_code >= 0)
        text_printf(text, " exit_code=%d", outcome->exit_code);
    if (outcome->error) {
        text_puts(text, " error=\"");
        text_escape(text, outcome->error, strlen(outcome->error), MAX_ERROR_BYTES);
        text_puts(text, "\"");
    }
    text_puts(text, "\n");
    text_append(text, outcome->output, outcome->output_size);
}
