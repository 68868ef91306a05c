/* What reading and writing means for each sort of open file. */
#include "fs_handle_internal.h"

#include "data_handle.h"
#include "durable.h"
#include "fs_later.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "nfs_wait.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct data_handle data_of(const struct handle *handle)
{
    return (struct data_handle){&handle->node, handle->descriptor};
}

/* --- reading --- */

/* part_of narrows *size to what the bytes hold from `offset`, and returns where that begins. */
static size_t part_of(const struct blob *blob, uint64_t offset, size_t *size)
{
    size_t start = offset < blob->size ? (size_t)offset : blob->size;
    if (*size > blob->size - start)
        *size = blob->size - start;
    return start;
}

static void text_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    if (!handle->node.type->render) { /* mode_error: an NFS server's */
        fuse_reply_buf(request, NULL, 0);
        return;
    }
    /* The handle may go with the reply. */
    struct blob *snapshot =
        handle->nfs ? nfs_view_read(&handle->node, offset, size) : blob_ref(handle->text.snapshot);
    if (!snapshot) {
        fuse_reply_err(request, ENOSPC);
        return;
    }
    size_t start = part_of(snapshot, offset, &size);
    fuse_reply_buf(request, snapshot->data + start, size);
    blob_unref(snapshot);
}

void handle_note_read(const struct node *node, const struct blob *content)
{
    if (content->job) /* the newest entry may be none of a job */
        vm_job_read(node->vm, content->job);
}

struct blob *handle_result_again(struct vm *vm, uint64_t number)
{
    struct job *pending = NULL, *job = vm_find_number(vm, number);
    if (!job)
        return NULL;
    pthread_mutex_lock(&vm->lock);
    struct blob *content = vm_result_now(vm, job, &pending);
    pthread_mutex_unlock(&vm->lock);
    job_unref(pending);
    job_unref(job);
    return content;
}

static void result_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    struct result_handle *own = &handle->result.content;
    struct vm *vm = handle->node.vm;
    struct job *pending = NULL;
    struct blob *content = NULL;
    uint64_t number = 0;
    if (offset > 0)
        content = result_handle_get(own, &number);
    if (!content && number && !(content = handle_result_again(vm, number))) {
        fuse_reply_err(request, ESTALE);
        return;
    }
    if (!content) {
        pthread_mutex_lock(&vm->lock);
        content = vm_result_now(vm, handle->node.job, &pending);
        int failed = pending ? parked_add_read(vm, pending, own, request, offset, size) : 0;
        pthread_mutex_unlock(&vm->lock);
        bool parked = pending && !failed;
        job_unref(pending);
        if (parked)
            return;
        if (failed == EDQUOT)
            vm_note_error(vm, EDQUOT, "result", "max_waiting reads wait for results");
        if (!content) {
            fuse_reply_err(request, failed ? failed : EIO);
            return;
        }
        result_handle_set(own, content);
    }
    size_t start = part_of(content, offset, &size);
    if (start + size == content->size)
        handle_note_read(&handle->node, content);
    /* Once it is answered, the reader may close, and the handle be gone. */
    fuse_reply_buf(request, content->data + start, size);
    blob_unref(content);
}

/* gone_read: of what is gone, who has it open can still read what it held. */
static void gone_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    enum node_content sort = handle->node.type->content;
    struct blob *content = sort == CONTENT_TEXT     ? handle->text.snapshot
                           : sort == CONTENT_RESULT ? handle->result.content.content
                                                    : NULL;
    if (!content) {
        fuse_reply_err(request, ESTALE);
        return;
    }
    size_t start = part_of(content, offset, &size);
    /* Once it is answered, the reader may close, and the handle be gone. */
    blob_ref(content);
    fuse_reply_buf(request, content->data + start, size);
    blob_unref(content);
}

void handle_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    if (handle->gone) {
        gone_read(handle, request, size, offset);
        return;
    }
    switch (handle->node.type->content) {
    case CONTENT_BYTES:
        data_handle_read(data_of(handle), request, size, offset);
        break;
    case CONTENT_RESULT:
        if (handle->nfs)
            nfs_wait_read(request, handle, size, offset);
        else
            result_read(handle, request, size, offset);
        break;
    case CONTENT_TEXT:
        text_read(handle, request, size, offset);
        break;
    case CONTENT_DIRECTORY:
        fuse_reply_err(request, EISDIR);
        break;
    }
}

unsigned handle_poll(struct handle *handle, struct fuse_pollhandle *poll)
{
    unsigned ready = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
    if (handle->node.type->content == CONTENT_RESULT && !handle->gone) {
        struct vm *vm = handle->node.vm;
        struct job *pending;
        pthread_mutex_lock(&vm->lock);
        struct blob *content = vm_result_now(vm, handle->node.job, &pending);
        if (pending && poll) {
            watcher_set(&handle->result.watcher, pending, poll);
            poll = NULL;
        }
        pthread_mutex_unlock(&vm->lock);
        ready = pending ? 0 : POLLIN | POLLRDNORM;
        blob_unref(content);
        job_unref(pending);
    }
    if (poll)
        fuse_pollhandle_destroy(poll);
    return ready;
}

/* --- writing --- */

/* Tells a refusal by the node, which has noted it, from one by the cutting into lines. */
struct acceptance {
    const struct node *node;
    bool asked;
};

static int accept_batch(void *context, const struct line *batch, size_t count)
{
    struct acceptance *acceptance = context;
    acceptance->asked = true;
    return acceptance->node->type->accept(acceptance->node, batch, count);
}

/* accepted_now is what has to be on disk for all that this file's node has accepted to be as safe
 * as it is to be; 0: nothing has. */
static state_ticket accepted_now(const struct handle *handle)
{
    const struct node_type *type = handle->node.type;
    struct state *state = handle->node.server->state;
    bool waits = type->persistent || (type->journaled && state_jobs_are_synced(state));
    return waits ? state_now(state) : 0;
}

/* note_accepted keeps what close() has to wait for, if lines were accepted just now; the handle's
 * lines are locked. A shell closes a descriptor once more before it writes: that waits for nothing.
 */
static void note_accepted(struct handle *handle, const struct acceptance *acceptance, int error)
{
    if (!error && acceptance->asked)
        handle->text.accepted = accepted_now(handle);
}

static int text_write(struct handle *handle, const char *bytes, size_t size)
{
    struct acceptance acceptance = {.node = &handle->node};
    pthread_mutex_lock(&handle->text.lock);
    int error = lines_write(&handle->text.lines, bytes, size, accept_batch, &acceptance);
    note_accepted(handle, &acceptance, error);
    pthread_mutex_unlock(&handle->text.lock);
    if (!error || acceptance.asked)
        return error;
    char text[128];
    if (error == EFBIG)
        snprintf(text, sizeof(text), "a line has at most %d bytes, and one write at most %d",
                 LINES_MAX_LINE, LINES_MAX_BATCH);
    else
        snprintf(text, sizeof(text), "no memory for the lines");
    const char *end = memchr(bytes, '\n', size);
    struct line line = {.bytes = bytes, .size = end ? (size_t)(end - bytes) : size};
    return handle->node.type->refuse(&handle->node, error, &line, text);
}

/* reply_write_in_turn lets who writes faster than the disk wait; nobody else, and no thread. */
static void reply_write_in_turn(const struct node *node, fuse_req_t request, size_t size)
{
    struct state *state = node->server->state;
    if (node->vm && state_is_crowded(state, node->vm->id))
        durable_reply_later(state, request, state_now(state), size);
    else
        fuse_reply_write(request, size);
}

/* write_text takes the bytes of a file of lines, and replies. */
static void write_text(struct handle *handle, fuse_req_t request, const char *bytes, size_t size,
                       uint64_t offset)
{
    int error = handle->nfs ? nfs_lines_write(&handle->node, offset, bytes, size)
                            : text_write(handle, bytes, size);
    if (error)
        fuse_reply_err(request, error);
    else if (handle->nfs) /* an NFS client's close() is not told of errors: its WRITE waits */
        durable_reply_write(handle->node.server->state, request, accepted_now(handle), size);
    else
        reply_write_in_turn(&handle->node, request, size);
}

/* write_waits: would taking these lines have to wait for the disk? */
static bool write_waits(const struct handle *handle, const char *bytes, size_t size)
{
    return handle->node.vm && handle->node.type->journaled &&
           vm_numbers_are_short(handle->node.vm, lines_count(bytes, size) + 1);
}

void handle_write(struct handle *handle, fuse_req_t request, struct fuse_bufvec *in,
                  uint64_t offset)
{
    if (handle->gone) {
        fuse_reply_err(request, ESTALE);
        return;
    }
    if (handle->node.type->content == CONTENT_BYTES) {
        data_handle_write(data_of(handle), request, in, offset);
        return;
    }
    size_t size = fuse_buf_size(in);
    char *copy = NULL;
    const char *bytes = in->buf[0].mem;
    int error = 0;
    if (in->count != 1 || (in->buf[0].flags & FUSE_BUF_IS_FD)) { /* spliced: a large write */
        struct fuse_bufvec out = FUSE_BUFVEC_INIT(size);
        bytes = out.buf[0].mem = copy = malloc(size);
        ssize_t copied = copy ? fuse_buf_copy(&out, in, 0) : -ENOSPC;
        error = copied < 0 ? (int)-copied : 0;
        size = copied < 0 ? 0 : (size_t)copied;
    }
    if (!error && handle->nfs)
        size = nfs_lines_portion(bytes, size);
    if (error)
        fuse_reply_err(request, error);
    else if (!write_waits(handle, bytes, size) ||
             !fs_later_write(handle->node.vm, write_text, handle, request, bytes, size, offset))
        write_text(handle, request, bytes, size, offset);
    free(copy);
}

/* flush_text completes what was left without a newline, and replies. */
static void flush_text(struct handle *handle, fuse_req_t request, const char *bytes, size_t size,
                       uint64_t offset)
{
    struct state *state = handle->node.server->state;
    (void)bytes;
    (void)size;
    (void)offset;
    if (handle->nfs) {
        int error = handle->writes ? nfs_lines_flush(&handle->node) : 0;
        if (error)
            fuse_reply_err(request, error);
        else
            durable_reply(state, request, accepted_now(handle));
        return;
    }
    struct acceptance acceptance = {.node = &handle->node};
    pthread_mutex_lock(&handle->text.lock);
    int error = lines_flush(&handle->text.lines, accept_batch, &acceptance);
    note_accepted(handle, &acceptance, error);
    state_ticket accepted = handle->text.accepted;
    pthread_mutex_unlock(&handle->text.lock);
    if (error)
        fuse_reply_err(request, error);
    else
        durable_reply(state, request, accepted);
}

void handle_flush(struct handle *handle, fuse_req_t request)
{
    if (handle->node.type->content != CONTENT_TEXT || !handle->node.type->accept || handle->gone)
        fuse_reply_err(request, 0);
    else if (!write_waits(handle, "", 0) ||
             !fs_later_write(handle->node.vm, flush_text, handle, request, "", 0, 0))
        flush_text(handle, request, "", 0, 0);
}

void handle_fsync(struct handle *handle, fuse_req_t request)
{
    struct state *state = handle->node.server->state;
    state_ticket ticket = 0;
    if (handle->gone) {
        fuse_reply_err(request, ESTALE);
        return;
    }
    if (handle->node.type->content == CONTENT_TEXT && handle->nfs) {
        ticket = accepted_now(handle);
    } else if (handle->node.type->content == CONTENT_TEXT) {
        pthread_mutex_lock(&handle->text.lock);
        ticket = handle->text.accepted;
        pthread_mutex_unlock(&handle->text.lock);
    } else if (handle->node.type->content == CONTENT_BYTES) {
        data_handle_sync(data_of(handle), request);
        return;
    }
    durable_reply(state, request, ticket);
}

void handle_allocate(struct handle *handle, fuse_req_t request, uint64_t offset, uint64_t length)
{
    if (handle->gone)
        fuse_reply_err(request, ESTALE);
    else if (handle->node.type->content == CONTENT_BYTES)
        data_handle_allocate(data_of(handle), request, offset, length);
    else
        fuse_reply_err(request, EOPNOTSUPP);
}
