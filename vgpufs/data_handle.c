#include "data_handle.h"

#include "data.h"
#include "durable.h"
#include "server.h"
#include "table.h"
#include "vm.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One request, in whichever thread. */
struct access {
    struct task task;
    struct data_handle handle;
    fuse_req_t request;
    void (*run)(const struct access *access, struct fuse_bufvec *in);
    uint64_t offset;
    uint64_t size;
    char *bytes; /* what is to be written; NULL while it is in the request's own buffer */
};

static void access_run(struct task *task)
{
    struct access *access = container_of(task, struct access, task);
    struct fuse_bufvec in = FUSE_BUFVEC_INIT(access->size);
    in.buf[0].mem = access->bytes;
    access->run(access, &in);
    free(access->bytes);
    free(access);
}

/* hand_over gives it to the VM's thread. False without memory. */
static bool hand_over(const struct access *given, struct fuse_bufvec *in)
{
    struct access *access = malloc(sizeof(*access));
    char *bytes = access && in ? malloc(given->size ? given->size : 1) : NULL;
    if (!access || (in && !bytes)) {
        free(access);
        return false;
    }
    *access = *given;
    access->bytes = bytes;
    access->task.run = access_run;
    if (in) {
        struct fuse_bufvec out = FUSE_BUFVEC_INIT(given->size);
        out.buf[0].mem = bytes;
        ssize_t copied = fuse_buf_copy(&out, in, 0);
        if (copied < 0) {
            fuse_reply_err(given->request, (int)-copied);
            free(bytes);
            free(access);
            return true;
        }
        access->size = (uint64_t)copied;
    }
    worker_hand(&given->handle.node->vm->worker, &access->task);
    return true;
}

static void access_begin(const struct access *access, struct fuse_bufvec *in)
{
    bool here = workers_enter();
    if (!here && hand_over(access, in))
        return;
    access->run(access, in);
    if (here)
        workers_leave();
}

static void read_run(const struct access *access, struct fuse_bufvec *in)
{
    struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(access->size);
    (void)in;
    buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    buffer.buf[0].fd = access->handle.descriptor;
    buffer.buf[0].pos = (off_t)access->offset;
    fuse_reply_data(access->request, &buffer, FUSE_BUF_SPLICE_MOVE);
}

void data_handle_read(struct data_handle handle, fuse_req_t request, size_t size, uint64_t offset)
{
    struct access access = {
        .handle = handle, .request = request, .run = read_run, .offset = offset, .size = size};
    access_begin(&access, NULL);
}

/* quota_charge is data_charge, with the error in words in the VM's status. */
static int quota_charge(const struct node *node, uint64_t end)
{
    int error = data_charge(node->file, end);
    return error ? vm_note_error(node->vm, error, "data/", "data_quota would be exceeded") : 0;
}

static void write_run(const struct access *access, struct fuse_bufvec *in)
{
    const struct node *node = access->handle.node;
    int error = quota_charge(node, access->offset + access->size);
    if (error) {
        fuse_reply_err(access->request, error);
        return;
    }
    struct fuse_bufvec out = FUSE_BUFVEC_INIT(access->size);
    out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    out.buf[0].fd = access->handle.descriptor;
    out.buf[0].pos = (off_t)access->offset;
    ssize_t written = fuse_buf_copy(&out, in, FUSE_BUF_SPLICE_MOVE);
    if (written != (ssize_t)access->size)
        data_settle(node->file, access->handle.descriptor);
    if (written < 0) {
        fuse_reply_err(access->request, (int)-written);
        return;
    }
    data_touch(node->file);
    fuse_reply_write(access->request, (size_t)written);
}

void data_handle_write(struct data_handle handle, fuse_req_t request, struct fuse_bufvec *in,
                       uint64_t offset)
{
    struct access access = {.handle = handle,
                            .request = request,
                            .run = write_run,
                            .offset = offset,
                            .size = fuse_buf_size(in)};
    if (offset > INT64_MAX - access.size)
        fuse_reply_err(request, EFBIG);
    else
        access_begin(&access, in);
}

static void sync_run(const struct access *access, struct fuse_bufvec *in)
{
    struct state *state = access->handle.node->server->state;
    (void)in;
    if (fdatasync(access->handle.descriptor) < 0)
        fuse_reply_err(access->request, errno);
    else
        durable_reply(state, access->request, state_now(state)); /* its name */
}

void data_handle_sync(struct data_handle handle, fuse_req_t request)
{
    struct access access = {.handle = handle, .request = request, .run = sync_run};
    access_begin(&access, NULL);
}

static int allocate(const struct access *access)
{
    const struct data_handle *handle = &access->handle;
    int error = quota_charge(handle->node, access->offset + access->size);
    if (error)
        return error;
    error = posix_fallocate(handle->descriptor, (off_t)access->offset, (off_t)access->size);
    if (error)
        data_settle(handle->node->file, handle->descriptor);
    else
        data_touch(handle->node->file);
    return error;
}

static void allocate_run(const struct access *access, struct fuse_bufvec *in)
{
    (void)in;
    fuse_reply_err(access->request, allocate(access));
}

void data_handle_allocate(struct data_handle handle, fuse_req_t request, uint64_t offset,
                          uint64_t length)
{
    struct access access = {.handle = handle,
                            .request = request,
                            .run = allocate_run,
                            .offset = offset,
                            .size = length};
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        fuse_reply_err(request, EFBIG);
    else
        access_begin(&access, NULL);
}
