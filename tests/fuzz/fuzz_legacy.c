/*
 * legacy: what older clients write into request.txt. Its lines are parsed as those of `submit` are
 * (fuzz_command.c); here a live VM takes them, in pieces, from local writers and from NFS clients,
 * while its jobs end, are cancelled and forgotten. Whatever happens, response.txt is one line that
 * such a client understands, and it speaks of the last request.
 */
#include "folder.h"
#include "fuzz.h"
#include "job.h"
#include "lines.h"
#include "nodes.h"
#include "pool_internal.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VM 3

static struct server server;
static struct vm *vm;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    folder_make();
    const struct config *config = daemon_config("vms = 3\ndurability = none\n[defaults]\n"
                                                "max_queued = 4\nmax_jobs = 8\n");
    daemon_begin(&server, config);
    vm = server_find_vm(&server, VM);
    CHECK(vm);
    return 0;
}

/* The answer. */

/* answer returns its first character, having looked at all of it. */
static char answer(void)
{
    struct text text = {0};
    vm_render_response(vm, &text);
    CHECK(!text.failed && text.size > 3 && text.data[1] == ':');
    CHECK(text.data[0] >= '0' && text.data[0] <= '2');
    CHECK(memchr(text.data, '\n', text.size) == text.data + text.size - 1);
    for (size_t i = 0; i + 1 < text.size; i++)
        CHECK((unsigned char)text.data[i] >= ' ' && text.data[i] != '\x7f');
    char first = text.data[0];
    text_finish(&text);
    return first;
}

static bool is_pending(void)
{
    return vm->legacy.job && !job_has_ended(vm->legacy.job);
}

/* What is done. */

struct step {
    const char *bytes;
    size_t size;
    struct lines lines; /* of a local writer */
    struct node node;   /* request.txt */
    uint64_t offset;    /* where an NFS client goes on */
};

static int accept_lines(void *context, const struct line *batch, size_t count)
{
    const struct step *step = context;
    bool pending = is_pending();
    int error = step->node.type->accept(&step->node, batch, count);
    CHECK(error == 0 || error == EINVAL || error == EACCES || error == EEXIST || error == EDQUOT);
    CHECK(!pending || error); /* one at a time */
    CHECK(answer() == (is_pending() ? '0' : error ? '2' : answer()));
    return error;
}

static void write_locally(struct step *step)
{
    lines_write(&step->lines, step->bytes, step->size, accept_lines, step);
}

static void close_locally(struct step *step)
{
    lines_flush(&step->lines, accept_lines, step);
}

static void write_by_nfs(struct step *step)
{
    size_t size = nfs_lines_portion(step->bytes, step->size);
    CHECK(size <= step->size && (size || !step->size));
    nfs_lines_write(&step->node, step->offset, step->bytes, size);
    step->offset += size;
}

static void close_by_nfs(struct step *step)
{
    nfs_lines_flush(&step->node);
    step->offset = 0;
}

static void truncate_by_nfs(struct step *step)
{
    nfs_lines_truncate(&step->node, 0);
    step->offset = 0;
}

static void submit(struct step *step)
{
    char *copy = fuzz_copy((const uint8_t *)step->bytes, step->size);
    struct line line = {.bytes = copy, .size = step->size, .newline = true};
    vm_submit(vm, VIA_SUBMIT, NULL, &line, 1);
    free(copy);
}

/* end_job has the last request's job end with the bytes as its output. */
static void end_job(struct step *step)
{
    struct job *job = vm->legacy.job;
    if (!is_pending())
        return;
    struct pool *pool = job->pool;
    struct job_outcome outcome = {
        .state = JOB_DONE, .output = step->bytes, .output_size = step->size, .exit_code = -1};
    pthread_mutex_lock(&pool->lock);
    pool_unqueue(pool, job);
    pthread_mutex_unlock(&pool->lock);
    vm_job_ended(job, &outcome);
    job_unref(job); /* the pool's */
    CHECK(answer() == '1');
}

static void cancel(struct step *step)
{
    (void)step;
    vm_cancel(vm, "all", "cancelled by the VM");
    CHECK(!vm->legacy.job || vm->legacy.error[0] || answer() != '0');
}

static void forget(struct step *step)
{
    (void)step;
    if (!vm->legacy.job)
        return;
    char tag[COMMAND_MAX_TAG + 1];
    snprintf(tag, sizeof(tag), "%s", job_tag(vm->legacy.job));
    vm_rmdir(vm, tag);
}

static void set_identity(struct step *step)
{
    char *copy = fuzz_copy((const uint8_t *)step->bytes, step->size);
    struct line line = {.bytes = copy, .size = step->size, .newline = true};
    vm_set_identity(vm, &line, 1);
    free(copy);
}

static void (*const steps[])(struct step *step) = {
    write_locally, close_locally, write_by_nfs, close_by_nfs, truncate_by_nfs,
    submit,        end_job,       cancel,       forget,       set_identity,
};

/* Each step: a byte that chooses it, one for how many bytes it has, and these. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct step step = {
        .node = {.type = &node_types[NODE_REQUEST], .server = &server, .vm = vm},
    };
    while (size > 2) {
        unsigned chosen = data[0] % (sizeof(steps) / sizeof(steps[0]));
        size_t length = data[1] < size - 2 ? data[1] : size - 2;
        step.bytes = (const char *)data + 2;
        step.size = length;
        data += 2 + length;
        size -= 2 + length;
        steps[chosen](&step);
        answer();
    }
    lines_finish(&step.lines);
    nfs_lines_truncate(&step.node, 0);
    vm_purge(vm);
    return 0;
}
