#include "state_fixture.h"

#include "scratch.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

struct state *opened;

int state_enter(void **unused)
{
    (void)unused;
    scratch_make();
    return 0;
}

int state_leave(void **unused)
{
    (void)unused;
    scratch_disk_full(0);
    state_close(opened);
    opened = NULL;
    scratch_remove();
    return 0;
}

struct state *open_state(void)
{
    struct text error = {0};
    opened = state_open(scratch_path("state"), &error);
    if (!opened)
        fail_msg("%s", error.data);
    assert_null(error.data);
    return opened;
}

void close_state(void)
{
    state_close(opened);
    opened = NULL;
}

struct state *reopen(void)
{
    close_state();
    return open_state();
}

void assert_no_state(const char *path, const char *piece, const char *other)
{
    struct text error = {0};
    assert_null(state_open(path, &error));
    assert_non_null(error.data);
    if (!strstr(error.data, piece) || !strstr(error.data, other))
        fail_msg("\"%s\" says nothing of \"%s\" or of \"%s\"", error.data, piece, other);
    assert_null(strchr(error.data, '\n'));
    text_finish(&error);
}

/* What was loaded, as text. */

static void note_vm(void *context, const struct state_vm *vm)
{
    text_printf(context, "vm%u %" PRIu64 " %" PRIu64 " %s\n", vm->id, vm->next_job, vm->next_file,
                vm->identity ? vm->identity : "-");
}

static void note_file(void *context, uint64_t number, const char *name)
{
    text_printf(context, "%" PRIu64 "=%s\n", number, name);
}

static void note_executor(void *context, pid_t pid, uint64_t start_time)
{
    text_printf(context, "%d@%" PRIu64 "\n", (int)pid, start_time);
}

static void assert_text(struct text *text, const char *expected)
{
    text_puts(text, "");
    assert_false(text->failed);
    assert_string_equal(text->data, expected);
    text_finish(text);
}

void assert_vms(const char *expected)
{
    struct text text = {0};
    state_load_vms(opened, note_vm, &text);
    assert_text(&text, expected);
}

void assert_files(unsigned vm, const char *expected)
{
    struct text text = {0};
    assert_int_equal(state_load_files(opened, vm, note_file, &text), 0);
    assert_text(&text, expected);
}

void assert_executors(const char *expected)
{
    struct text text = {0};
    state_load_executors(opened, note_executor, &text);
    assert_text(&text, expected);
}

static void note_job(void *context, const struct state_job *job)
{
    text_printf(context,
                "vm%u %" PRIu64 " %s %s %s p%u s%u n%u e%" PRIu64 " r%" PRIu64 " q%" PRIu64
                " k%" PRIu64 "%s%s\n",
                job->vm, job->number, job->tag, job->pool ? job->pool : "-",
                job->line ? job->line : "-", job->priority, job->state, job->attempts, job->entry,
                job->request, job->sequence, job->kept_at_us, job->read ? " read" : "",
                job->hidden ? " hidden" : "");
}

void assert_jobs(unsigned vm, const char *expected)
{
    struct text text = {0};
    assert_int_equal(state_load_jobs(opened, vm, note_job, &text), 0);
    assert_text(&text, expected);
}

void wait_written(void)
{
    for (int tries = 0;; tries++) {
        struct text text = {0};
        assert_int_equal(state_load_jobs(opened, 1, note_job, &text), 0);
        bool written = text.size > 0;
        text_finish(&text);
        if (written)
            break;
        assert_true(tries < 3000);
        usleep(10000);
    }
}

/* blob_of makes a result of so many bytes. */
static struct blob *blob_of(size_t size, char fill)
{
    struct text text = {0};
    for (size_t i = 0; i < size; i++)
        text_append(&text, &fill, 1);
    struct blob *blob = blob_from_text(&text);
    assert_non_null(blob);
    return blob;
}

void put_result(unsigned vm, uint64_t number, size_t size, char fill)
{
    struct blob *blob = blob_of(size, fill);
    state_end_job(opened, vm, number, 3, 1000 - number, blob);
    blob_unref(blob);
}

void assert_result(unsigned vm, uint64_t number, size_t size, char fill)
{
    struct blob *blob = state_load_result(opened, vm, number);
    assert_non_null(blob);
    assert_int_equal(blob->size, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(blob->data[i], fill);
    blob_unref(blob);
}

void put_jobs(struct state *state, unsigned first, unsigned count)
{
    struct state_batch batch = {0};
    for (unsigned vm = first; vm < first + count; vm++) {
        struct state_job job = {.vm = vm,
                                .number = 1,
                                .tag = "t",
                                .pool = "A",
                                .line = "NOP\n",
                                .priority = 1,
                                .state = 1,
                                .entry = vm};
        state_batch_add(&batch, &job);
    }
    state_put_batch(state, &batch);
}

static void count_job(void *context, const struct state_job *job)
{
    assert_int_equal(job->entry, job->vm);
    assert_string_equal(job->line, "NOP\n");
    ++*(unsigned *)context;
}

void assert_job_count(unsigned expected)
{
    unsigned count = 0;
    assert_int_equal(state_load_jobs(opened, 0, count_job, &count), 0);
    assert_int_equal(count, expected);
}
