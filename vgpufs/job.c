#include "job.h"

#include "common/number.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The contract bounds error= in a header. */
#define MAX_ERROR_BYTES 512
/* Of a result's first line: most need no more. */
#define HEADER_ROOM 223

/* line_copy writes the line as it was accepted. */
static void line_copy(char *to, const struct line *line)
{
    memcpy(to, line->bytes, line->size);
    strcpy(to + line->size, line->newline ? "\n" : "");
}

struct job *job_create(struct vm *vm, const char *tag, const struct line *line)
{
    size_t tag_size = tag ? strlen(tag) + 1 : NUMBER_TEXT_SIZE;
    /* One piece of memory: a million jobs may be queued. */
    struct job *job = calloc(1, sizeof(*job) + tag_size + (line ? line->size + 2 : 0));
    if (!job)
        return NULL;
    if (tag)
        memcpy(job->tag, tag, tag_size);
    if (line) {
        job->line = job->tag + tag_size;
        line_copy(job->line, line);
    }
    job->line_is_own = !line;
    job->vm = vm;
    atomic_init(&job->references, 1);
    atomic_init(&job->state, JOB_NEW);
    atomic_init(&job->progress, UINT32_MAX);
    return job;
}

void job_set_number(struct job *job, uint64_t number)
{
    job->number = number;
    if (!job->tag[0])
        number_print(job->tag, number);
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
    blob_unref(job->result);
    blob_unref(job->told);
    job_drop_line(job);
    free(job);
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
    render_word(text, " tag=", job->tag);
    render_word(text, " command=", job->workload ? job->workload->name : "-");
    render_word(text, " pool=", job->pool ? job->pool->name : "-");
    render_number(text, " priority=", true, job->queue.priority);
    render_word(text, " backend=", outcome->backend ? outcome->backend : "-");
    text_puts(text, " device=");
    if (outcome->device)
        text_quote(text, outcome->device);
    else
        text_puts(text, "-");
    uint64_t until = ran ? job->started_us : job->ended_us;
    render_number(text, " wait_us=", true, until - job->queue.queued_us);
    render_number(text, " run_us=", ran, job->ended_us - job->started_us);
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
