/* Open files on their way from one daemon to the next. */
#include "fs_handle_internal.h"

#include "common/log.h"
#include "data.h"
#include "handle_numbers.h"
#include "server.h"
#include "vm.h"

#include <stdlib.h>

/* --- saving: no other thread runs --- */

/* result_of returns what the file's reader has, or, where the job's directory was removed, could
 * still read: nobody else will have that. */
static struct blob *result_of(struct handle *handle)
{
    const struct job *job = handle->node.job;
    struct blob *content = handle->result.content.content;
    if (!content && handle->result.content.job) /* it was too much to keep */
        content = handle->result.content.content =
            handle_result_again(handle->node.vm, handle->result.content.job);
    return content || !job || !job->forgotten ? content : job_result(job);
}

static void content_save(struct handle *handle, struct handover *handover,
                         struct handover_handle *saved)
{
    struct vm *vm = handle->node.vm;
    switch (handle->node.type->content) {
    case CONTENT_TEXT:
        saved->content = handover_add_blob(handover, handle->text.snapshot);
        saved->pending = (struct handover_bytes){handle->text.lines.pending.data,
                                                 handle->text.lines.pending.size};
        break;
    case CONTENT_RESULT:
        saved->content = handover_add_blob(handover, handle->gone ? handle->result.content.content
                                                                  : result_of(handle));
        if (handle->gone)
            break;
        /* Who polls is woken, which it does not notice: the kernel asks again, the next daemon. */
        if (handle->result.watcher.job)
            fuse_lowlevel_notify_poll(handle->result.watcher.poll);
        pthread_mutex_lock(&vm->lock);
        watcher_clear(&handle->result.watcher);
        pthread_mutex_unlock(&vm->lock);
        break;
    case CONTENT_BYTES:
    case CONTENT_DIRECTORY:
        break; /* opened again, listed again: offsets in it are numbers, which stay */
    }
}

void handles_save(struct handover *handover)
{
    for (struct handle *handle = handles_first(); handle; handle = handle->next) {
        struct handover_handle saved = {
            .number = handle->number,
            .ino = handle->gone ? node_ino(handle->node.type->kind, 0, 0)
                                : node_self_ino(&handle->node),
            .nfs = handle->nfs,
            .reads = handle->reads,
            .writes = handle->writes,
        };
        content_save(handle, handover, &saved);
        handover_add(handover, &handover->handles, &saved, sizeof(saved));
    }
}

void handles_leave(void)
{
    for (struct handle *handle = handles_first(); handle; handle = handle->next)
        if (!handle->gone && handle->node.file)
            data_keep(handle->node.file);
}

/* --- restoring: before any thread serves --- */

/* result_restore takes the blob, which may be NULL. */
static void result_restore(struct handle *handle, struct blob *content)
{
    result_handle_init(&handle->result.content, handle->gone ? NULL : &handle->node.vm->openings);
    if (content)
        result_handle_set(&handle->result.content, content);
    blob_unref(content);
}

static void content_restore(struct handle *handle, const struct handover *handover,
                            const struct handover_handle *saved)
{
    switch (handle->node.type->content) {
    case CONTENT_TEXT:
        pthread_mutex_init(&handle->text.lock, NULL);
        handle->text.snapshot = handover_blob(handover, saved->content);
        text_append(&handle->text.lines.pending, saved->pending.data, saved->pending.size);
        break;
    case CONTENT_RESULT:
        result_restore(handle, handover_blob(handover, saved->content));
        break;
    case CONTENT_BYTES:
        handle->descriptor = -1;
        if (!handle->gone && handle_bytes_open(handle) != 0) {
            node_release(&handle->node);
            handle->gone = true;
        }
        break;
    case CONTENT_DIRECTORY:
        if (!handle->gone)
            handle->listing = listing_of(&handle->node, handle->nfs);
        break;
    }
}

/* node_find resolves the inode; a data file without a name is one that somebody had open. */
static bool node_find(struct server *server, uint64_t ino, struct node *node)
{
    const struct node_type *type = node_type_of(ino);
    if (type->kind == NODE_FILE) {
        struct vm *vm = server_find_vm(server, node_vm_of(ino));
        if (vm)
            data_adopt(&vm->data, ino & NODE_MAX_NUMBER);
    }
    if (node_resolve(server, ino, node) == 0)
        return true;
    *node = (struct node){.type = type, .server = server};
    return false;
}

static int handle_restore(struct server *server, const struct handover *handover,
                          const struct handover_handle *saved)
{
    struct handle *handle = calloc(1, sizeof(*handle));
    if (!handle || handle_numbers_put_at(handle, saved->number) < 0) {
        free(handle);
        return -1;
    }
    handle->number = saved->number;
    handle->nfs = saved->nfs;
    handle->reads = saved->reads;
    handle->writes = saved->writes;
    handle->gone = !node_find(server, saved->ino, &handle->node);
    content_restore(handle, handover, saved);
    if (handle->node.vm && !handle->gone)
        handle_count(handle);
    handle_enter(handle);
    return 0;
}

int handles_restore(struct server *server, const struct handover *handover)
{
    const struct handover_handle *saved = handover->handles.items;
    for (size_t i = 0; i < handover->handles.count; i++)
        if (handle_restore(server, handover, &saved[i]) < 0)
            return -1;
    handle_numbers_settle();
    return 0;
}
