#include "nodes.h"

#include "admin.h"
#include "clock.h"
#include "data.h"
#include "job.h"
#include "server.h"
#include "stats.h"
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIND_SHIFT 56
#define VM_SHIFT   40
#define ROOT_INO   1 /* FUSE_ROOT_ID */

/* How the table's functions reach the rooms that know. */

static void render_stats(const struct node *node, struct text *text)
{
    stats_render_text(node->server, text);
}

static void render_stats_json(const struct node *node, struct text *text)
{
    stats_render_json(node->server, text);
}

static void render_metrics(const struct node *node, struct text *text)
{
    stats_render_metrics(node->server, text);
}

static void render_queue(const struct node *node, struct text *text)
{
    stats_render_queue(node->server, text);
}

static void render_ctl(const struct node *node, struct text *text)
{
    admin_render(node->server, text);
}

static int accept_ctl(const struct node *node, const struct line *batch, size_t count)
{
    return admin_accept(node->server, batch, count);
}

static int refuse_ctl(const struct node *node, int error, const struct line *line, const char *text)
{
    (void)node;
    return admin_refuse(error, line, text);
}

static int accept_submit(const struct node *node, const struct line *batch, size_t count)
{
    return vm_submit(node->vm, VIA_SUBMIT, NULL, batch, count);
}

static void render_status(const struct node *node, struct text *text)
{
    vm_render_status(node->vm, text);
}

static void render_identity(const struct node *node, struct text *text)
{
    vm_render_identity(node->vm, text);
}

static int accept_identity(const struct node *node, const struct line *batch, size_t count)
{
    return vm_set_identity(node->vm, batch, count);
}

static int accept_vm_ctl(const struct node *node, const struct line *batch, size_t count)
{
    return vm_ctl(node->vm, batch, count);
}

static void render_command(const struct node *node, struct text *text)
{
    pthread_mutex_lock(&node->vm->lock);
    if (node->job->line)
        text_puts(text, node->job->line);
    pthread_mutex_unlock(&node->vm->lock);
}

static int accept_command(const struct node *node, const struct line *batch, size_t count)
{
    return vm_submit(node->vm, VIA_COMMAND, node->job, batch, count);
}

static void render_job_status(const struct node *node, struct text *text)
{
    vm_render_job_status(node->job, text);
}

static void render_request(const struct node *node, struct text *text)
{
    pthread_mutex_lock(&node->vm->lock);
    const struct blob *written = node->vm->request_written;
    if (written)
        text_append(text, written->data, written->size);
    pthread_mutex_unlock(&node->vm->lock);
}

static int accept_request(const struct node *node, const struct line *batch, size_t count)
{
    return vm_submit(node->vm, VIA_REQUEST, NULL, batch, count);
}

static void render_response(const struct node *node, struct text *text)
{
    vm_render_response(node->vm, text);
}

static int refuse_line(const struct node *node, int error, const struct line *line,
                       const char *text)
{
    enum submit_via via = node->type->kind == NODE_REQUEST ? VIA_REQUEST : VIA_SUBMIT;
    return vm_reject(node->vm, via, node->job, error, line, text);
}

#define DIRECTORY(the_kind, the_parent, the_name, the_mode)                                        \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = the_parent,                                                            \
                  .name = the_name,                                                                \
                  .mode = the_mode,                                                                \
                  .content = CONTENT_DIRECTORY}
#define TEXT(the_kind, the_parent, the_name, the_mode, the_render, the_accept, the_refuse)         \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = the_parent,                                                            \
                  .name = the_name,                                                                \
                  .mode = the_mode,                                                                \
                  .content = CONTENT_TEXT,                                                         \
                  .render = the_render,                                                            \
                  .accept = the_accept,                                                            \
                  .refuse = the_refuse}
#define PERSISTENT(the_kind, the_parent, the_name, the_mode, the_render, the_accept, the_refuse)   \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = the_parent,                                                            \
                  .name = the_name,                                                                \
                  .mode = the_mode,                                                                \
                  .content = CONTENT_TEXT,                                                         \
                  .persistent = true,                                                              \
                  .render = the_render,                                                            \
                  .accept = the_accept,                                                            \
                  .refuse = the_refuse}
#define JOURNALED(the_kind, the_parent, the_name, the_mode, the_render, the_accept, the_refuse)    \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = the_parent,                                                            \
                  .name = the_name,                                                                \
                  .mode = the_mode,                                                                \
                  .content = CONTENT_TEXT,                                                         \
                  .journaled = true,                                                               \
                  .render = the_render,                                                            \
                  .accept = the_accept,                                                            \
                  .refuse = the_refuse}
#define PUBLIC(the_kind, the_name, the_render)                                                     \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = NODE_ROOT,                                                             \
                  .name = the_name,                                                                \
                  .mode = 0444,                                                                    \
                  .content = CONTENT_TEXT,                                                         \
                  .public = true,                                                                  \
                  .render = the_render}
#define RESULT(the_kind, the_parent)                                                               \
    [the_kind] = {.kind = the_kind,                                                                \
                  .parent = the_parent,                                                            \
                  .name = "result",                                                                \
                  .mode = 0400,                                                                    \
                  .content = CONTENT_RESULT}

const struct node_type node_types[NODE_KINDS] = {
    [NODE_ROOT] = {.kind = NODE_ROOT,
                   .parent = NODE_ROOT,
                   .mode = 0755,
                   .content = CONTENT_DIRECTORY,
                   .public = true},
    PUBLIC(NODE_STATS, "stats", render_stats),
    PUBLIC(NODE_STATS_JSON, "stats.json", render_stats_json),
    PUBLIC(NODE_METRICS, "metrics", render_metrics),
    TEXT(NODE_QUEUE, NODE_ROOT, "queue", 0400, render_queue, NULL, NULL),
    JOURNALED(NODE_CTL, NODE_ROOT, "ctl", 0600, render_ctl, accept_ctl, refuse_ctl),
    DIRECTORY(NODE_VM, NODE_ROOT, NULL, 0700),
    JOURNALED(NODE_SUBMIT, NODE_VM, "submit", 0200, NULL, accept_submit, refuse_line),
    RESULT(NODE_RESULT, NODE_VM),
    TEXT(NODE_STATUS, NODE_VM, "status", 0400, render_status, NULL, NULL),
    PERSISTENT(NODE_IDENTITY, NODE_VM, "identity", 0600, render_identity, accept_identity,
               refuse_line),
    JOURNALED(NODE_VM_CTL, NODE_VM, "ctl", 0200, NULL, accept_vm_ctl, refuse_line),
    DIRECTORY(NODE_JOBS, NODE_VM, "jobs", 0700),
    DIRECTORY(NODE_JOB, NODE_JOBS, NULL, 0700),
    JOURNALED(NODE_JOB_COMMAND, NODE_JOB, "command", 0600, render_command, accept_command,
              refuse_line),
    TEXT(NODE_JOB_STATUS, NODE_JOB, "status", 0400, render_job_status, NULL, NULL),
    RESULT(NODE_JOB_RESULT, NODE_JOB),
    DIRECTORY(NODE_DATA, NODE_VM, "data", 0700),
    [NODE_FILE] = {.kind = NODE_FILE, .parent = NODE_DATA, .mode = 0600, .content = CONTENT_BYTES},
    JOURNALED(NODE_REQUEST, NODE_VM, "request.txt", 0600, render_request, accept_request,
              refuse_line),
    TEXT(NODE_RESPONSE, NODE_VM, "response.txt", 0400, render_response, NULL, NULL),
};

uint64_t node_ino(enum node_kind kind, unsigned vm, uint64_t number)
{
    if (kind == NODE_ROOT)
        return ROOT_INO;
    return (uint64_t)kind << KIND_SHIFT | (uint64_t)vm << VM_SHIFT | number;
}

static uint64_t node_number(const struct node *node)
{
    return node->job ? node->job->number : node->file ? node->file->number : 0;
}

uint64_t node_self_ino(const struct node *node)
{
    return node_ino(node->type->kind, node->vm ? node->vm->id : 0, node_number(node));
}

/* Kinds whose inode carries a VM, and a job's number. */
static bool kind_has_vm(enum node_kind kind)
{
    return kind == NODE_VM || (kind != NODE_ROOT && node_types[kind].parent != NODE_ROOT);
}

static bool kind_has_job(enum node_kind kind)
{
    return kind == NODE_JOB || node_types[kind].parent == NODE_JOB;
}

uint64_t node_related_ino(const struct node *node, enum node_kind kind)
{
    return node_ino(kind, kind_has_vm(kind) ? node->vm->id : 0,
                    kind_has_job(kind) ? node->job->number : 0);
}

uint64_t node_parent_ino(const struct node *node)
{
    return node_related_ino(node, node->type->parent);
}

const struct node_type *node_type_of(uint64_t ino)
{
    uint64_t kind = ino == ROOT_INO ? NODE_ROOT : ino >> KIND_SHIFT;
    if (kind == NODE_NONE || kind >= NODE_KINDS || (kind == NODE_ROOT && ino != ROOT_INO))
        return NULL;
    return &node_types[kind];
}

unsigned node_vm_of(uint64_t ino)
{
    return (unsigned)(ino >> VM_SHIFT & 0xffff);
}

int node_resolve(struct server *server, uint64_t ino, struct node *node)
{
    const struct node_type *type = node_type_of(ino);
    unsigned vm_id = node_vm_of(ino);
    uint64_t number = ino == ROOT_INO ? 0 : ino & NODE_MAX_NUMBER;
    if (!type)
        return ESTALE;
    enum node_kind kind = type->kind;
    *node = (struct node){.type = type, .server = server};
    if (kind_has_vm(node->type->kind))
        node->vm = server_find_vm(server, vm_id);
    else if (vm_id)
        return ESTALE;
    if (kind_has_vm(node->type->kind) && !node->vm)
        return ESTALE;
    if (kind_has_job(node->type->kind))
        node->job = vm_find_number(node->vm, number);
    else if (kind == NODE_FILE)
        node->file = data_get(&node->vm->data, number);
    else
        return number ? ESTALE : 0;
    return node->job || node->file ? 0 : ESTALE;
}

void node_release(struct node *node)
{
    job_unref(node->job);
    data_unref(node->file);
    node->job = NULL;
    node->file = NULL;
}

/* child_named: NODE_NONE if the directory has no fixed child of that name. */
static enum node_kind child_named(const struct node *directory, const char *name)
{
    for (int kind = NODE_NONE + 1; kind < NODE_KINDS; kind++) {
        const struct node_type *type = &node_types[kind];
        if (type->parent == directory->type->kind && type->name && strcmp(type->name, name) == 0)
            return type->kind;
    }
    return NODE_NONE;
}

static struct vm *vm_named(struct server *server, const char *name)
{
    char canonical[16];
    unsigned id;
    if (sscanf(name, "vm%5u", &id) != 1 || id > CONFIG_MAX_VM_ID)
        return NULL;
    snprintf(canonical, sizeof(canonical), "vm%u", id); /* vm03 is no name of vm3 */
    struct vm *vm = strcmp(name, canonical) == 0 ? server_find_vm(server, id) : NULL;
    return vm && !atomic_load(&vm->gone) ? vm : NULL;
}

/* The children that have names of their own. */
static int lookup_many(const struct node *directory, const char *name, struct node *node)
{
    switch (directory->type->kind) {
    case NODE_ROOT:
        node->type = &node_types[NODE_VM];
        node->vm = vm_named(directory->server, name);
        return node->vm ? 0 : ENOENT;
    case NODE_JOBS:
        node->type = &node_types[NODE_JOB];
        node->job = vm_find_tag(directory->vm, name);
        return node->job ? 0 : ENOENT;
    case NODE_DATA:
        node->type = &node_types[NODE_FILE];
        node->file = data_find(&directory->vm->data, name);
        return node->file ? 0 : ENOENT;
    default:
        return ENOENT;
    }
}

int node_lookup(const struct node *directory, const char *name, struct node *node)
{
    /* NFS asks for "." and ".." of any node, also of files (fs/exportfs, fs/fuse/inode.c). */
    if (strcmp(name, ".") == 0)
        return node_resolve(directory->server, node_self_ino(directory), node);
    if (strcmp(name, "..") == 0)
        return node_resolve(directory->server, node_parent_ino(directory), node);
    if (directory->type->content != CONTENT_DIRECTORY)
        return ENOTDIR;
    *node = (struct node){.server = directory->server, .vm = directory->vm};
    enum node_kind kind = child_named(directory, name);
    if (kind == NODE_NONE)
        return lookup_many(directory, name, node);
    node->type = &node_types[kind];
    node->job = directory->job ? job_ref(directory->job) : NULL;
    return 0;
}

mode_t node_mode(const struct node *node)
{
    const struct node_type *type = node->type;
    bool directory = type->content == CONTENT_DIRECTORY;
    mode_t bits = type->public && !directory ? atomic_load(&node->server->stats_mode) : type->mode;
    return (directory ? S_IFDIR : S_IFREG) | bits;
}

int node_access(const struct node *node, uid_t uid)
{
    uid_t owner = node->vm ? node->vm->uid : node->server->root_uid;
    return uid == 0 || uid == owner || node->type->public ? 0 : EACCES;
}

/*
 * result_size is what a read would return at once; 0 while it would have to wait. But while an NFS
 * server may still read what it was told of before, it stays that: reads through the page cache end
 * where the kernel believes that the file does.
 */
static off_t result_size(const struct node *node)
{
    struct job *pending;
    pthread_mutex_lock(&node->vm->lock);
    struct blob *content = vm_result_now(node->vm, node->job, &pending);
    const struct blob *told = node->job ? node->job->told : node->vm->told;
    off_t size = content ? (off_t)content->size : told ? (off_t)told->size : 0;
    pthread_mutex_unlock(&node->vm->lock);
    blob_unref(content);
    job_unref(pending);
    return size;
}

static struct timespec node_changed(const struct node *node)
{
    struct timespec changed;
    if (!node->vm)
        return node->type->content == CONTENT_DIRECTORY ? node->server->started : clock_change();
    if (node->type->kind == NODE_DATA) {
        pthread_mutex_lock(&node->vm->data.lock);
        changed = node->vm->data.changed;
        pthread_mutex_unlock(&node->vm->data.lock);
        return changed;
    }
    pthread_mutex_lock(&node->vm->lock);
    changed = node->job                         ? job_changed(node->job)
              : node->type->kind == NODE_JOBS   ? node->vm->jobs_changed
              : node->type->kind == NODE_VM     ? node->vm->list_changed
              : node->type->kind == NODE_SUBMIT ? node->vm->submit_changed
                                                : node->vm->changed;
    pthread_mutex_unlock(&node->vm->lock);
    return changed;
}

/* stat_base leaves out size and times. */
static void stat_base(const struct node *node, struct stat *stat)
{
    *stat = (struct stat){
        .st_ino = node_self_ino(node),
        .st_mode = node_mode(node),
        .st_nlink = node->type->content == CONTENT_DIRECTORY ? 2 : 1,
        .st_uid = node->vm ? node->vm->uid : node->server->root_uid,
        .st_gid = node->server->root_gid,
        .st_blksize = 4096,
    };
    if (stat->st_uid != node->server->root_uid)
        stat->st_gid = stat->st_uid; /* each VM's user has a group of its own number */
}

/* stat_fill leaves the size out if it is none of the asker's business: making it costs. */
static void stat_fill(const struct node *node, bool with_size, struct stat *stat)
{
    struct text text = {0};
    stat_base(node, stat);
    if (node->file) {
        data_stat(node->file, stat);
        return;
    }
    stat->st_atim = stat->st_mtim = stat->st_ctim = node_changed(node);
    if (!with_size)
        return;
    uint64_t written;
    struct timespec changed;
    if (node->type->content == CONTENT_RESULT) {
        stat->st_size = result_size(node);
    } else if (node->type->accept && nfs_lines_size(node, &written)) {
        stat->st_size = (off_t)written;
    } else if (node->type->render && nfs_view_peek(node, &stat->st_size, &changed)) {
        stat->st_atim = stat->st_mtim = stat->st_ctim = changed;
    } else if (node->type->render) {
        node->type->render(node, &text);
        stat->st_size = (off_t)text.size;
        text_finish(&text);
    }
}

void node_stat(const struct node *node, struct stat *stat)
{
    stat_fill(node, true, stat);
}

void node_stat_for(const struct node *node, uid_t uid, struct stat *stat)
{
    stat_fill(node, node_access(node, uid) == 0, stat);
}

void node_stat_as(const struct node *node, off_t size, const struct timespec *changed,
                  struct stat *stat)
{
    stat_base(node, stat);
    stat->st_size = size;
    stat->st_atim = stat->st_mtim = stat->st_ctim = *changed;
}

bool node_must_wait(const struct node *directory)
{
    struct job *pending = NULL;
    pthread_mutex_lock(&directory->vm->lock);
    blob_unref(vm_result_now(directory->vm, directory->job, &pending));
    pthread_mutex_unlock(&directory->vm->lock);
    job_unref(pending);
    return pending != NULL;
}
