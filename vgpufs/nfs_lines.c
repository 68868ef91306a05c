#include "nfs_lines.h"

#include "clock.h"
#include "nfs_buffer.h"
#include "nfs_wait.h"
#include "nodes.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long nothing must come until an unfinished line counts as finished. */
#define QUIET_US 200000
/* … and missing bytes as such that will not come: pieces may overtake each other. */
#define GAP_US 2000000
/* So many lines are taken in a row: whoever writes a flood of them must not keep a thread, and the
 * lock of all that its VM writes, from others. */
#define LINES_A_TURN 512

/* What was written to one node. */
struct nfs_file {
    struct table_entry by_ino;
    uint64_t ino;
    struct nfs_buffer buffer;
    bool active; /* the buffer is what the file holds; else the node's own content is */
    unsigned writers;
    bool reopened; /* no write since the first of them came */
    /*
     * Where the last WRITE began of which a line was refused; 0: nowhere. The kernel may hand over
     * one WRITE of the client in parts, and if a later one of them fails it tells the client only
     * how far it came; the client sends the rest again, and must hear of the error then.
     */
    uint64_t refused_at;
    uint64_t due_us; /* UINT64_MAX: never */
    bool more;       /* the last turn has left lines that could have been taken */
    bool finishing;  /* … and they are to be taken whatever they lack */
};

void nfs_lines_init(struct nfs_lines *lines)
{
    *lines = (struct nfs_lines){.due_us = UINT64_MAX};
    pthread_mutex_init(&lines->lock, NULL);
}

static void file_clear(struct nfs_lines *lines, struct nfs_file *file)
{
    lines->bytes -= file->buffer.capacity;
    nfs_buffer_finish(&file->buffer);
    file->more = file->finishing = false;
}

static void file_free(struct nfs_lines *lines, struct nfs_file *file)
{
    file_clear(lines, file);
    table_remove(&lines->files, &file->by_ino);
    free(file);
}

void nfs_lines_finish(struct nfs_lines *lines)
{
    for (struct table_entry *entry; (entry = table_next(&lines->files, NULL));)
        file_free(lines, container_of(entry, struct nfs_file, by_ino));
    table_finish(&lines->files);
    pthread_mutex_destroy(&lines->lock);
}

static struct nfs_lines *lines_of(const struct node *node)
{
    return node->vm ? &node->vm->nfs_lines : &node->server->nfs_lines;
}

static struct nfs_file *file_find(struct nfs_lines *lines, uint64_t ino)
{
    struct table_entry *entry = table_find(&lines->files, table_hash_number(ino));
    for (; entry; entry = table_find_next(entry)) {
        struct nfs_file *file = container_of(entry, struct nfs_file, by_ino);
        if (file->ino == ino)
            return file;
    }
    return NULL;
}

/* file_get finds the node's file or makes it; NULL without memory. */
static struct nfs_file *file_get(struct nfs_lines *lines, const struct node *node)
{
    uint64_t ino = node_self_ino(node);
    struct nfs_file *file = file_find(lines, ino);
    if (file)
        return file;
    file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    file->ino = ino;
    file->due_us = UINT64_MAX;
    if (table_insert(&lines->files, &file->by_ino, table_hash_number(ino)) == 0)
        return file;
    free(file);
    return NULL;
}

/* changed: times follow every change; a client takes them for the file's version. */
static void changed(const struct node *node)
{
    if (node->vm)
        vm_note_change(node->vm, node->job);
}

/* file_activate makes the buffer the file's content, beginning with what the node holds. */
static int file_activate(struct nfs_lines *lines, struct nfs_file *file, const struct node *node)
{
    struct text text = {0};
    if (file->active)
        return 0;
    if (node->type->render)
        node->type->render(node, &text);
    int error = text.failed || nfs_buffer_preset(&file->buffer, text.data, text.size) < 0;
    text_finish(&text);
    lines->bytes += file->buffer.capacity;
    if (error)
        return ENOSPC;
    file->active = true;
    return 0;
}

/* file_rest: what can be read is what was accepted, as soon as nothing is unfinished. */
static void file_rest(struct nfs_lines *lines, struct nfs_file *file, const struct node *node)
{
    if (file->buffer.fresh)
        return;
    file->due_us = UINT64_MAX;
    if (node->type->render) {
        file_clear(lines, file);
        file->active = false;
        file->refused_at = 0;
        if (!file->writers)
            file_free(lines, file);
        return;
    }
    lines->bytes -= file->buffer.capacity;
    nfs_buffer_trim(&file->buffer);
    lines->bytes += file->buffer.capacity;
}

/* file_due: the file is to be looked at when nothing has come for a while. */
static void file_due(struct nfs_lines *lines, struct nfs_file *file, struct server *server)
{
    uint64_t pause_us = file->more ? 0 : file->buffer.gap ? GAP_US : QUIET_US;
    file->due_us = clock_now_us() + pause_us;
    if (file->due_us < lines->due_us)
        lines->due_us = file->due_us;
    nfs_wait_tick_at(server->nfs, file->due_us);
}

static int line_take(const struct node *node, enum nfs_line found, const struct line *line)
{
    if (found == NFS_LINE_WHOLE)
        return line_is_ignored(line) ? 0 : node->type->accept(node, line, 1);
    char text[64];
    snprintf(text, sizeof(text), "a line has at most %d bytes", LINES_MAX_LINE);
    return node->type->refuse(node, EFBIG, line, text);
}

/*
 * lines_take takes lines that are complete, with `all` the others too, but no more than a turn's:
 * 0 or the first errno. What it leaves is taken at the next tick.
 */
static int lines_take(struct nfs_file *file, const struct node *node, bool all)
{
    char storage[LINES_MAX_LINE + 1];
    struct line line;
    int first = 0;
    all = all || file->finishing;
    for (unsigned left = LINES_A_TURN; left > 0; left--) {
        enum nfs_line found = nfs_buffer_next(&file->buffer, all, &line, storage);
        file->more = found != NFS_LINE_NONE;
        if (!file->more)
            break;
        int error = line_take(node, found, &line);
        if (error)
            nfs_buffer_refuse(&file->buffer);
        if (!first)
            first = error;
    }
    file->more = file->more && file->buffer.fresh;
    file->finishing = file->more && all;
    return first;
}

size_t nfs_lines_portion(const char *bytes, size_t size)
{
    const char *from = bytes, *end = bytes + size;
    for (unsigned lines = 0; lines < LINES_A_TURN && from < end; lines++) {
        const char *newline = memchr(from, '\n', (size_t)(end - from));
        from = newline ? newline + 1 : end;
    }
    return (size_t)(from - bytes);
}

/* file_write: 0 or an errno, with *why in words if no line is at fault. */
static int file_write(struct nfs_lines *lines, struct nfs_file *file, const struct node *node,
                      uint64_t offset, const char *bytes, size_t size, const char **why)
{
    bool again = file->reopened && offset == 0;
    int error = file_activate(lines, file, node);
    file->reopened = false;
    *why = "no memory for what is written";
    if (error)
        return error;
    if (lines->bytes + nfs_buffer_growth(&file->buffer, offset, size) > NFS_LINES_MAX_BYTES) {
        *why = "too much is written that makes no lines";
        return EDQUOT;
    }
    lines->bytes -= file->buffer.capacity;
    error = nfs_buffer_write(&file->buffer, offset, bytes, size, again);
    lines->bytes += file->buffer.capacity;
    if (error == EFBIG)
        *why = "the write lies too far behind the end of the file";
    if (error)
        return error;
    *why = NULL;
    if (offset && offset == file->refused_at)
        nfs_buffer_repeat(&file->buffer, offset, size);
    error = lines_take(file, node, false);
    if (error)
        file->refused_at = offset;
    return error;
}

int nfs_lines_write(const struct node *node, uint64_t offset, const char *bytes, size_t size)
{
    struct nfs_lines *lines = lines_of(node);
    const char *why = "no memory for what is written";
    if (offset > INT64_MAX - size)
        return EFBIG;
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_get(lines, node);
    int error = file ? file_write(lines, file, node, offset, bytes, size, &why) : ENOSPC;
    if (file && (file->buffer.fresh || (error && offset)))
        file_due(lines, file, node->server);
    else if (file)
        file_rest(lines, file, node);
    changed(node);
    pthread_mutex_unlock(&lines->lock);
    if (!why)
        return error;
    const char *end = memchr(bytes, '\n', size);
    struct line line = {.bytes = bytes, .size = end ? (size_t)(end - bytes) : size};
    return node->type->refuse(node, error, &line, why);
}

int nfs_lines_flush(const struct node *node)
{
    struct nfs_lines *lines = lines_of(node);
    int error = 0;
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_find(lines, node_self_ino(node));
    if (file && file->buffer.fresh) {
        error = lines_take(file, node, true);
        if (file->more)
            file_due(lines, file, node->server);
        else
            file_rest(lines, file, node);
        changed(node);
    }
    pthread_mutex_unlock(&lines->lock);
    return error;
}

int nfs_lines_truncate(const struct node *node, uint64_t size)
{
    struct nfs_lines *lines = lines_of(node);
    int error = 0;
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_get(lines, node);
    if (!file) {
        error = ENOSPC;
    } else if (size) {
        error = file->active && size == nfs_buffer_size(&file->buffer) ? 0 : EINVAL;
    } else {
        /* What an earlier writer has left unfinished was meant: v3 does not say that it closed. */
        lines_take(file, node, true);
        if (file->more) {
            error = EAGAIN; /* the client asks again; by then the next turn was taken */
        } else {
            file_clear(lines, file);
            file->active = true;
            file->reopened = false;
            file->refused_at = 0;
        }
        file_due(lines, file, node->server);
        changed(node);
    }
    pthread_mutex_unlock(&lines->lock);
    return error;
}

void nfs_lines_open(const struct node *node)
{
    struct nfs_lines *lines = lines_of(node);
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_get(lines, node);
    if (file && file->writers++ == 0)
        file->reopened = true;
    pthread_mutex_unlock(&lines->lock);
}

void nfs_lines_close(const struct node *node)
{
    struct nfs_lines *lines = lines_of(node);
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_find(lines, node_self_ino(node));
    if (file && file->writers)
        file->writers--;
    if (file && !file->writers && !file->active)
        file_free(lines, file);
    pthread_mutex_unlock(&lines->lock);
}

bool nfs_lines_size(const struct node *node, uint64_t *size)
{
    struct nfs_lines *lines = lines_of(node);
    pthread_mutex_lock(&lines->lock);
    const struct nfs_file *file = file_find(lines, node_self_ino(node));
    bool active = file && file->active;
    if (active)
        *size = nfs_buffer_size(&file->buffer);
    pthread_mutex_unlock(&lines->lock);
    return active;
}

bool nfs_lines_render(const struct node *node, struct text *text)
{
    struct nfs_lines *lines = lines_of(node);
    pthread_mutex_lock(&lines->lock);
    const struct nfs_file *file = file_find(lines, node_self_ino(node));
    bool active = file && file->active;
    if (active)
        text_append(text, file->buffer.bytes, file->buffer.size);
    pthread_mutex_unlock(&lines->lock);
    return active;
}

/* file_end takes what is unfinished in a file that is due. Its node may be gone. */
static void file_end(struct nfs_lines *lines, struct nfs_file *file, struct server *server)
{
    struct node node;
    if (node_resolve(server, file->ino, &node) != 0) {
        file->due_us = UINT64_MAX;
        file_clear(lines, file);
        file->active = false;
        if (!file->writers)
            file_free(lines, file);
        return;
    }
    /* Nobody is there to be told of an error but status and result. What only had to wait for its
     * turn is not finished for that. */
    lines_take(file, &node, !file->more);
    if (file->buffer.fresh)
        file_due(lines, file, server);
    else
        file_rest(lines, file, &node);
    changed(&node);
    node_release(&node);
}

/* lines_tick returns when these lines are due next. */
static uint64_t lines_tick(struct nfs_lines *lines, struct server *server, uint64_t now_us)
{
    pthread_mutex_lock(&lines->lock);
    if (lines->due_us <= now_us) {
        lines->due_us = UINT64_MAX;
        for (struct table_entry *entry = table_next(&lines->files, NULL), *next; entry;
             entry = next) {
            struct nfs_file *file = container_of(entry, struct nfs_file, by_ino);
            next = table_next(&lines->files, entry);
            if (file->due_us <= now_us)
                file_end(lines, file, server);
            else if (file->due_us < lines->due_us)
                lines->due_us = file->due_us;
        }
    }
    uint64_t due_us = lines->due_us;
    pthread_mutex_unlock(&lines->lock);
    return due_us;
}

uint64_t nfs_lines_tick(struct server *server, uint64_t now_us)
{
    uint64_t first = lines_tick(&server->nfs_lines, server, now_us);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        uint64_t due_us = lines_tick(&vm->nfs_lines, server, now_us);
        if (due_us < first)
            first = due_us;
    }
    return first;
}

void nfs_lines_save(const struct nfs_lines *lines, struct handover *handover)
{
    for (struct table_entry *entry = NULL; (entry = table_next(&lines->files, entry));) {
        const struct nfs_file *file = container_of(entry, struct nfs_file, by_ino);
        const struct nfs_buffer *buffer = &file->buffer;
        struct handover_lines saved = {
            .ino = file->ino,
            .base = buffer->base,
            .cursor = buffer->cursor,
            .last_start = buffer->last_start,
            .last_stop = buffer->last_stop,
            .writers = file->writers,
            .refused_at = file->refused_at,
            .active = file->active,
            .reopened = file->reopened,
            .gap = buffer->gap,
            .inside_long = buffer->inside_long,
            .bytes = {buffer->bytes, buffer->size},
            .flags = {(const char *)buffer->flags, buffer->size},
        };
        handover_add(handover, &handover->lines, &saved, sizeof(saved));
    }
}

/* file_restore fills in a new file. */
static int file_restore(struct nfs_lines *lines, struct nfs_file *file,
                        const struct handover_lines *saved)
{
    file->buffer = (struct nfs_buffer){
        .base = saved->base,
        .cursor = (size_t)saved->cursor,
        .last_start = (size_t)saved->last_start,
        .last_stop = (size_t)saved->last_stop,
        .gap = saved->gap,
        .inside_long = saved->inside_long,
    };
    if (nfs_buffer_take(&file->buffer, saved->bytes.data, saved->flags.data, saved->bytes.size) < 0)
        return -1;
    file->writers = (unsigned)saved->writers;
    file->refused_at = saved->refused_at;
    file->active = saved->active;
    file->reopened = saved->reopened;
    lines->bytes += file->buffer.capacity;
    return 0;
}

int nfs_lines_restore(struct server *server, const struct handover_lines *saved)
{
    struct node node;
    if (node_resolve(server, saved->ino, &node) != 0)
        return 0; /* it went with its job or its VM */
    struct nfs_lines *lines = lines_of(&node);
    pthread_mutex_lock(&lines->lock);
    struct nfs_file *file = file_find(lines, saved->ino) ? NULL : file_get(lines, &node);
    int result = file ? file_restore(lines, file, saved) : -1;
    if (result == 0 && file->active) /* a line that nobody goes on with is over after a while */
        file_due(lines, file, server);
    pthread_mutex_unlock(&lines->lock);
    node_release(&node);
    return result;
}
