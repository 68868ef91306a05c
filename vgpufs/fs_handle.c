#include "fs_handle_internal.h"

#include "data.h"
#include "data_handle.h"
#include "durable.h"
#include "fs_later.h"
#include "handle_numbers.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "nfs_wait.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* No RELEASE comes for what is open when the daemon stops: handles_finish frees it. */
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list */
static struct handle *handles;
static unsigned open_results;                                   /* of CONTENT_RESULT */
static pthread_cond_t result_closed = PTHREAD_COND_INITIALIZER; /* signalled when one is closed */

struct handle *handle_of(const struct fuse_file_info *info)
{
    return handle_numbers_get(info->fh);
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

int handle_bytes_open(struct handle *handle)
{
    /* The kernel may read what it caches from a file that is open for writing only. */
    bool reads_only = !handle->writes;
    struct data *data = &handle->node.vm->data;
    if (!data_open_enter(data))
        return vm_note_error(handle->node.vm, EDQUOT, "data/", "max_data_open data files are open");
    handle->descriptor = data_open_backing(handle->node.file, reads_only ? O_RDONLY : O_RDWR);
    if (handle->descriptor < 0) {
        int failure = errno;
        data_open_leave(data);
        return failure == EMFILE || failure == ENFILE ? ENOSPC : failure;
    }
    return 0;
}

static int bytes_open(struct handle *handle, int flags)
{
    struct data *data = &handle->node.vm->data;
    int error = handle_bytes_open(handle);
    if (error)
        return error;
    error = flags & O_TRUNC ? data_truncate(handle->node.file, 0) : 0;
    if (error) {
        close(handle->descriptor);
        data_open_leave(data);
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
        result_handle_init(&handle->result.content, &handle->node.vm->openings);
        return 0;
    case CONTENT_BYTES:
        return bytes_open(handle, flags);
    case CONTENT_DIRECTORY:
        handle->listing = listing_of(&handle->node, handle->nfs);
        return handle->listing ? 0 : ENOSPC;
    }
    return 0;
}

static void content_close(struct handle *handle)
{
    struct vm *vm = handle->node.vm;
    switch (handle->node.type->content) {
    case CONTENT_TEXT:
        if (handle->nfs && handle->writes && !handle->gone)
            nfs_lines_close(&handle->node);
        blob_unref(handle->text.snapshot);
        lines_finish(&handle->text.lines);
        pthread_mutex_destroy(&handle->text.lock);
        break;
    case CONTENT_RESULT:
        if (!handle->gone) {
            pthread_mutex_lock(&vm->lock);
            watcher_clear(&handle->result.watcher);
            pthread_mutex_unlock(&vm->lock);
        }
        result_handle_finish(&handle->result.content);
        break;
    case CONTENT_BYTES:
        if (handle->gone)
            break;
        close(handle->descriptor);
        data_open_leave(&vm->data);
        break;
    case CONTENT_DIRECTORY:
        listing_unref(handle->listing);
        break;
    }
}

const struct node *handle_node(const struct handle *handle)
{
    return &handle->node;
}

struct handle *handles_first(void)
{
    return handles;
}

void handle_enter(struct handle *handle)
{
    pthread_mutex_lock(&handles_lock);
    handle->next = handles;
    if (handles)
        handles->previous = handle;
    handles = handle;
    open_results += handle->node.type->content == CONTENT_RESULT;
    pthread_mutex_unlock(&handles_lock);
}

/* memory_of is what the open file keeps in memory from the start. */
static uint64_t memory_of(const struct handle *handle)
{
    switch (handle->node.type->content) {
    case CONTENT_TEXT:
        return handle->text.snapshot ? handle->text.snapshot->size : 0;
    case CONTENT_DIRECTORY:
        return handle->listing ? handle->listing->bytes : 0;
    case CONTENT_RESULT: /* result_handle_set */
    case CONTENT_BYTES:
        break;
    }
    return 0;
}

/* counted_open is content_open within the limits of the file's VM; what is in the root counts for
 * the VM that opens it, if one does. */
static int counted_open(struct handle *handle, int flags, uid_t uid)
{
    struct vm *vm = handle->node.vm ? handle->node.vm : server_vm_of(handle->node.server, uid);
    if (!vm)
        return content_open(handle, flags);
    enum node_kind kind = handle->node.type->kind;
    bool urgent = kind == NODE_STATUS || kind == NODE_VM_CTL;
    if (!openings_enter(&vm->openings, urgent))
        return vm_note_error(vm, EDQUOT, "open", "max_open files are open");
    int error = content_open(handle, flags);
    uint64_t bytes = error ? 0 : memory_of(handle);
    if (bytes && !urgent && !openings_charge(&vm->openings, bytes)) {
        content_close(handle);
        error = vm_note_error(vm, EDQUOT, "open", "what is open takes max_open_bytes");
    } else {
        handle->charged = urgent ? 0 : bytes;
    }
    if (error)
        openings_leave(&vm->openings);
    else
        handle->counted = &vm->openings;
    return error;
}

void handle_count(struct handle *handle)
{
    handle->counted = &handle->node.vm->openings;
    handle->charged = memory_of(handle);
    openings_take(handle->counted, handle->charged);
}

static void counted_close(struct handle *handle)
{
    content_close(handle);
    if (!handle->counted)
        return;
    openings_discharge(handle->counted, handle->charged);
    openings_leave(handle->counted);
}

int handle_open(const struct node *node, struct fuse_file_info *info, uid_t uid, bool nfs)
{
    int error = mode_error(node, info->flags, nfs);
    struct handle *handle = error ? NULL : calloc(1, sizeof(*handle));
    if (!handle)
        return error ? error : ENOSPC;
    handle->nfs = nfs;
    handle->reads = (info->flags & O_ACCMODE) != O_WRONLY;
    handle->writes = (info->flags & O_ACCMODE) != O_RDONLY;
    /* The handle has references of its own. */
    error = node_resolve(node->server, node_self_ino(node), &handle->node);
    if (error) {
        free(handle);
        return error;
    }
    error = counted_open(handle, info->flags, uid);
    if (!error && handle_numbers_put(handle, &handle->number) < 0) {
        counted_close(handle);
        error = ENFILE;
    }
    if (error) {
        node_release(&handle->node);
        free(handle);
        return error;
    }
    handle_enter(handle);
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
    info->fh = handle->number;
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
    handle_numbers_drop(handle->number);
    counted_close(handle);
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
    handle_numbers_finish();
}

const struct listing *handle_listing(const struct handle *handle)
{
    return handle->listing;
}

static struct data_handle data_of(const struct handle *handle)
{
    return (struct data_handle){&handle->node, handle->descriptor};
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

/* Writing. */

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
