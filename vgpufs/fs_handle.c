#include "fs_handle_internal.h"

#include "data.h"
#include "handle_numbers.h"
#include "nfs_lines.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
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
