#include "fs_handle.h"

#include "data.h"
#include "durable.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "nfs_wait.h"
#include "parked.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct handle {
    struct node node;               /* its references are the handle's */
    struct handle *previous, *next; /* all that are open; handles_lock guards them */
    bool nfs;                       /* an NFS server's */
    bool writes;                    /* it was opened for writing */
    union {
        struct {                   /* CONTENT_TEXT */
            struct blob *snapshot; /* what local reads return; NULL: not opened for them */
            pthread_mutex_t lock;  /* guards `lines` */
            struct lines lines;
            state_ticket accepted; /* what close() waits for; guarded by the lock too */
        } text;
        struct { /* CONTENT_RESULT */
            struct result_handle content;
            struct watcher watcher; /* the VM's lock guards it */
        } result;
        int descriptor;              /* CONTENT_BYTES */
        struct node_listing listing; /* CONTENT_DIRECTORY */
    };
};

/* No RELEASE comes for what is open when the daemon stops: handles_finish frees it. */
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list */
static struct handle *handles;
static unsigned open_results;                                   /* of CONTENT_RESULT */
static pthread_cond_t result_closed = PTHREAD_COND_INITIALIZER; /* signalled when one is closed */

struct handle *handle_of(const struct fuse_file_info *info)
{
    return (struct handle *)(uintptr_t)info->fh;
}

/*
 * mode_error refuses what root may do to any file but nobody to this one. nfs-ganesha opens files
 * for reading too that its client only writes: it gets nothing to read.
 */
static int mode_error(const struct node *node, int flags, bool nfs)
{
    bool reads = (flags & O_ACCMODE) != O_WRONLY, writes = (flags & O_ACCMODE) != O_RDONLY;
    const struct node_type *type = node->type;
    if (type->content == CONTENT_DIRECTORY || type->content == CONTENT_BYTES)
        return 0;
    bool readable = type->content == CONTENT_RESULT || type->render;
    return (reads && !readable && !nfs) || (writes && !type->accept) ? EACCES : 0;
}

/* An NFS server's: what is written and read belongs to the node. */
static int nfs_text_open(struct handle *handle, int flags)
{
    if (!handle->writes)
        return 0;
    nfs_lines_open(&handle->node);
    int error = flags & O_TRUNC ? nfs_lines_truncate(&handle->node, 0) : 0;
    if (error)
        nfs_lines_close(&handle->node);
    return error;
}

static int text_open(struct handle *handle, int flags)
{
    struct text text = {0};
    pthread_mutex_init(&handle->text.lock, NULL);
    if (handle->nfs)
        return nfs_text_open(handle, flags);
    if ((flags & O_ACCMODE) == O_WRONLY)
        return 0;
    handle->node.type->render(&handle->node, &text);
    handle->text.snapshot = blob_from_text(&text);
    return handle->text.snapshot ? 0 : ENOSPC;
}

static int bytes_open(struct handle *handle, int flags)
{
    /* The kernel may read what it caches from a file that is open for writing only. */
    bool reads_only = (flags & O_ACCMODE) == O_RDONLY;
    struct data *data = &handle->node.vm->data;
    if (atomic_fetch_add(&data->open_files, 1) >= DATA_MAX_OPEN) {
        atomic_fetch_sub(&data->open_files, 1);
        return vm_note_error(handle->node.vm, EDQUOT, "data/", "too many data files are open");
    }
    handle->descriptor = data_open_backing(handle->node.file, reads_only ? O_RDONLY : O_RDWR);
    if (handle->descriptor < 0) {
        int failure = errno;
        atomic_fetch_sub(&data->open_files, 1);
        return failure == EMFILE || failure == ENFILE ? ENOSPC : failure;
    }
    int error = flags & O_TRUNC ? data_truncate(handle->node.file, 0) : 0;
    if (error) {
        close(handle->descriptor);
        atomic_fetch_sub(&data->open_files, 1);
    }
    return error;
}

/* content_open opens what is behind the handle: 0, or an errno and there is nothing to close. */
static int content_open(struct handle *handle, int flags)
{
    switch (handle->node.type->content) {
    case CONTENT_TEXT: {
        int error = text_open(handle, flags);
        if (error)
            pthread_mutex_destroy(&handle->text.lock);
        return error;
    }
    case CONTENT_RESULT:
        pthread_mutex_init(&handle->result.content.lock, NULL);
        return 0;
    case CONTENT_BYTES:
        return bytes_open(handle, flags);
    case CONTENT_DIRECTORY:
        return node_list(&handle->node, handle->nfs, &handle->listing) < 0 ? ENOSPC : 0;
    }
    return 0;
}

static void content_close(struct handle *handle)
{
    struct vm *vm = handle->node.vm;
    switch (handle->node.type->content) {
    case CONTENT_TEXT:
        if (handle->nfs && handle->writes)
            nfs_lines_close(&handle->node);
        blob_unref(handle->text.snapshot);
        lines_finish(&handle->text.lines);
        pthread_mutex_destroy(&handle->text.lock);
        break;
    case CONTENT_RESULT:
        pthread_mutex_lock(&vm->lock);
        watcher_clear(&handle->result.watcher);
        pthread_mutex_unlock(&vm->lock);
        blob_unref(handle->result.content.content);
        pthread_mutex_destroy(&handle->result.content.lock);
        break;
    case CONTENT_BYTES:
        close(handle->descriptor);
        atomic_fetch_sub(&vm->data.open_files, 1);
        break;
    case CONTENT_DIRECTORY:
        node_listing_finish(&handle->listing);
        break;
    }
}

const struct node *handle_node(const struct handle *handle)
{
    return &handle->node;
}

int handle_open(const struct node *node, struct fuse_file_info *info, bool nfs)
{
    int error = mode_error(node, info->flags, nfs);
    struct handle *handle = error ? NULL : calloc(1, sizeof(*handle));
    if (!handle)
        return error ? error : ENOSPC;
    handle->nfs = nfs;
    handle->writes = (info->flags & O_ACCMODE) != O_RDONLY;
    /* The handle has references of its own. */
    error = node_resolve(node->server, node_self_ino(node), &handle->node);
    if (error) {
        free(handle);
        return error;
    }
    error = content_open(handle, info->flags);
    if (error) {
        node_release(&handle->node);
        free(handle);
        return error;
    }
    pthread_mutex_lock(&handles_lock);
    handle->next = handles;
    if (handles)
        handles->previous = handle;
    handles = handle;
    open_results += node->type->content == CONTENT_RESULT;
    pthread_mutex_unlock(&handles_lock);
    /*
     * The page cache may keep a data file: only this mount changes it. All else is made anew. Who
     * only writes has nothing of it, and without it the bytes are copied once less; the kernel
     * drops what others have cached of them. mmap(2) needs a file that can be read, so it does not
     * meet such a handle.
     */
    bool cached = node->type->content == CONTENT_BYTES && (info->flags & O_ACCMODE) != O_WRONLY;
    info->direct_io = !cached;
    info->keep_cache = node->type->content == CONTENT_BYTES;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    /* Where handle_flush has nothing to do, Linux 5.16 and newer need not ask for it at each close.
     * Of a data file it must: close() also writes what was changed through mmap(2). */
    info->noflush = node->type->content != CONTENT_BYTES && !node->type->accept;
#endif
    info->fh = (uintptr_t)handle;
    return 0;
}

void handle_close(struct handle *handle)
{
    pthread_mutex_lock(&handles_lock);
    if (handle->next)
        handle->next->previous = handle->previous;
    *(handle->previous ? &handle->previous->next : &handles) = handle->next;
    if (handle->node.type->content == CONTENT_RESULT && --open_results == 0)
        pthread_cond_signal(&result_closed);
    pthread_mutex_unlock(&handles_lock);
    content_close(handle);
    node_release(&handle->node);
    free(handle);
}

void handles_wait_readers(unsigned ms)
{
    struct timespec until;
    int waited = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&handles_lock);
    while (open_results && waited == 0)
        waited = pthread_cond_timedwait(&result_closed, &handles_lock, &until);
    pthread_mutex_unlock(&handles_lock);
}

void handles_finish(void)
{
    while (handles)
        handle_close(handles);
}

const struct node_listing *handle_listing(const struct handle *handle)
{
    return &handle->listing;
}

/* Reading. */

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

static void bytes_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(size);
    buffer.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    buffer.buf[0].fd = handle->descriptor;
    buffer.buf[0].pos = (off_t)offset;
    fuse_reply_data(request, &buffer, FUSE_BUF_SPLICE_MOVE);
}

void handle_note_read(const struct node *node, const struct blob *content)
{
    if (content->job) /* the newest entry may be none of a job */
        vm_job_read(node->vm, content->job);
}

static void result_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    struct result_handle *own = &handle->result.content;
    struct vm *vm = handle->node.vm;
    struct job *pending = NULL;
    struct blob *content = NULL;
    pthread_mutex_lock(&own->lock);
    if (offset > 0 && own->content)
        content = blob_ref(own->content);
    pthread_mutex_unlock(&own->lock);
    if (!content) {
        pthread_mutex_lock(&vm->lock);
        content = vm_result_now(vm, handle->node.job, &pending);
        int failed = pending ? parked_add_read(vm, pending, own, request, offset, size) : 0;
        pthread_mutex_unlock(&vm->lock);
        bool parked = pending && !failed;
        job_unref(pending);
        if (parked)
            return;
        if (!content) {
            fuse_reply_err(request, failed && !atomic_load(&vm->server->closing) ? ENOSPC : EIO);
            return;
        }
        pthread_mutex_lock(&own->lock);
        blob_unref(own->content);
        own->content = blob_ref(content);
        pthread_mutex_unlock(&own->lock);
    }
    size_t start = part_of(content, offset, &size);
    if (start + size == content->size)
        handle_note_read(&handle->node, content);
    /* Once it is answered, the reader may close, and the handle be gone. */
    fuse_reply_buf(request, content->data + start, size);
    blob_unref(content);
}

void handle_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset)
{
    switch (handle->node.type->content) {
    case CONTENT_BYTES:
        bytes_read(handle, request, size, offset);
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
    if (handle->node.type->content == CONTENT_RESULT) {
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

/* Writing. */

/* quota_charge is data_charge, with the error in words in the VM's status. */
static int quota_charge(const struct node *node, uint64_t end)
{
    int error = data_charge(node->file, end);
    return error ? vm_note_error(node->vm, error, "data/", "data_quota would be exceeded") : 0;
}

static void bytes_write(struct handle *handle, fuse_req_t request, struct fuse_bufvec *in,
                        uint64_t offset)
{
    struct data_file *file = handle->node.file;
    size_t size = fuse_buf_size(in);
    if (offset > INT64_MAX - size) {
        fuse_reply_err(request, EFBIG);
        return;
    }
    int error = quota_charge(&handle->node, offset + size);
    if (error) {
        fuse_reply_err(request, error);
        return;
    }
    struct fuse_bufvec out = FUSE_BUFVEC_INIT(size);
    out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    out.buf[0].fd = handle->descriptor;
    out.buf[0].pos = (off_t)offset;
    ssize_t written = fuse_buf_copy(&out, in, FUSE_BUF_SPLICE_MOVE);
    if (written != (ssize_t)size)
        data_settle(file, handle->descriptor);
    if (written < 0) {
        fuse_reply_err(request, (int)-written);
        return;
    }
    data_touch(file);
    fuse_reply_write(request, (size_t)written);
}

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

/* note_accepted keeps what close() has to wait for; the handle's lines are locked. */
static void note_accepted(struct handle *handle, int error)
{
    if (!error)
        handle->text.accepted = accepted_now(handle);
}

static int text_write(struct handle *handle, const char *bytes, size_t size)
{
    struct acceptance acceptance = {.node = &handle->node};
    pthread_mutex_lock(&handle->text.lock);
    int error = lines_write(&handle->text.lines, bytes, size, accept_batch, &acceptance);
    note_accepted(handle, error);
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

void handle_write(struct handle *handle, fuse_req_t request, struct fuse_bufvec *in,
                  uint64_t offset)
{
    if (handle->node.type->content == CONTENT_BYTES) {
        bytes_write(handle, request, in, offset);
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
        error = nfs_lines_write(&handle->node, offset, bytes, size);
    else if (!error)
        error = text_write(handle, bytes, size);
    free(copy);
    if (error)
        fuse_reply_err(request, error);
    else if (handle->nfs) /* an NFS client's close() is not told of errors: its WRITE waits */
        durable_reply_write(handle->node.server->state, request, accepted_now(handle), size);
    else
        fuse_reply_write(request, size);
}

void handle_flush(struct handle *handle, fuse_req_t request)
{
    struct state *state = handle->node.server->state;
    if (handle->node.type->content != CONTENT_TEXT || !handle->node.type->accept) {
        fuse_reply_err(request, 0);
        return;
    }
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
    note_accepted(handle, error);
    state_ticket accepted = handle->text.accepted;
    pthread_mutex_unlock(&handle->text.lock);
    if (error)
        fuse_reply_err(request, error);
    else
        durable_reply(state, request, accepted);
}

void handle_fsync(struct handle *handle, fuse_req_t request)
{
    struct state *state = handle->node.server->state;
    state_ticket ticket = 0;
    if (handle->node.type->content == CONTENT_TEXT && handle->nfs) {
        ticket = accepted_now(handle);
    } else if (handle->node.type->content == CONTENT_TEXT) {
        pthread_mutex_lock(&handle->text.lock);
        ticket = handle->text.accepted;
        pthread_mutex_unlock(&handle->text.lock);
    } else if (handle->node.type->content == CONTENT_BYTES) {
        if (fdatasync(handle->descriptor) < 0) {
            fuse_reply_err(request, errno);
            return;
        }
        ticket = state_now(state); /* its name */
    }
    durable_reply(state, request, ticket);
}

int handle_allocate(struct handle *handle, uint64_t offset, uint64_t length)
{
    if (handle->node.type->content != CONTENT_BYTES)
        return EOPNOTSUPP;
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return EFBIG;
    int error = quota_charge(&handle->node, offset + length);
    if (error)
        return error;
    error = posix_fallocate(handle->descriptor, (off_t)offset, (off_t)length);
    if (error)
        data_settle(handle->node.file, handle->descriptor);
    else
        data_touch(handle->node.file);
    return error;
}
