#include "fs.h"

#include "caller.h"
#include "clock.h"
#include "common/log.h"
#include "durable.h"
#include "fs_handle.h"
#include "fs_later.h"
#include "listing.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "nfs_wait.h"
#include "nodes.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Fixed, so that an NFS handle stays good over a restart; inode numbers are never reused. */
#define GENERATION 1 /* but of the root, which the kernel makes itself with 0 */
/* Of what never changes while the daemon runs; a reload invalidates it. */
#define LONG_TIMEOUT 3600.0
/*
 * Of a data file. Its bytes, size and times change by this mount alone, whose kernel forgets what
 * it knew with every WRITE, SETATTR and FALLOCATE; an executor writes a file that the kernel has
 * not seen. Without it each read(2) from the cache asks first (FUSE_CAP_AUTO_INVAL_DATA), which
 * costs as much as a MiB. That a file has lost its name to a job's output it is told.
 */
#define FILE_TIMEOUT 1.0
/* Of a directory that was found by its handle: the kernel asks for its number next, to look for its
 * name, and still as nobody whom one could know (search_for). */
#define CONNECT_TIMEOUT 1.0
/* READs that an NFS server makes by splice are background requests; the default of 12 is for all
 * VMs together. */
#define MAX_BACKGROUND 4096

static struct server *server_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

/* node_for resolves an inode for the request's user; if it cannot, it replies and returns false. */
static bool node_for(fuse_req_t request, fuse_ino_t ino, struct node *node)
{
    int error = node_resolve(server_of(request), ino, node);
    if (!error) {
        error = node_access(node, fuse_req_ctx(request)->uid);
        /* Anybody may see what is in the root, as with any file of mode 0400 in a folder of 0755.
         */
        if (error && node->type->parent != NODE_ROOT)
            node_release(node);
        else
            error = 0;
    }
    if (error)
        fuse_reply_err(request, error);
    return !error;
}

/*
 * search_for is node_for for finding names in a directory. Who asks for what a handle names is not
 * known (lookup_handle), neither is it when the kernel then connects a directory with the tree: it
 * opens the parent, looks for the name and looks that up (reconnect_path in Linux'
 * fs/exportfs/expfs.c). `connects`: it may be doing that, and for a VM's own directory it is let,
 * since that has the same names in every VM. *stranger: it has been let.
 */
static bool search_for(fuse_req_t request, fuse_ino_t ino, bool connects, struct node *node,
                       bool *stranger)
{
    const struct fuse_ctx *who = fuse_req_ctx(request);
    *stranger = false;
    if (!node_for(request, ino, node))
        return false;
    int error = node_access(node, who->uid);
    if (!error)
        return true;
    *stranger = connects && node->type->kind == NODE_VM &&
                callers_find(node->server->callers, who->pid, clock_now_us()) == CALLER_KERNEL;
    if (*stranger)
        return true;
    node_release(node);
    fuse_reply_err(request, error);
    return false;
}

/* inside_for is node_for for working inside a directory. */
static bool inside_for(fuse_req_t request, fuse_ino_t ino, struct node *node)
{
    bool stranger;
    return search_for(request, ino, false, node, &stranger);
}

/*
 * from_nfs: is it an NFS server's request? Finding out costs, so it is asked only where the answer
 * matters: where reading waits, and where bytes become lines.
 */
static bool from_nfs(fuse_req_t request)
{
    return callers_find(server_of(request)->callers, fuse_req_ctx(request)->pid, clock_now_us()) !=
           CALLER_LOCAL;
}

/* attr_timeout: only what does not change behind the kernel's back may be remembered by it. */
static double attr_timeout(const struct node *node)
{
    if (node->type->kind == NODE_FILE)
        return FILE_TIMEOUT;
    return node->type->kind == NODE_ROOT ? LONG_TIMEOUT : 0;
}

static double entry_timeout(const struct node *node)
{
    return node->type->name || node->type->kind == NODE_VM ? LONG_TIMEOUT : 0;
}

static void entry_of(const struct node *node, uid_t uid, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){
        .ino = node_self_ino(node),
        .generation = node->type->kind == NODE_ROOT ? 0 : GENERATION,
        .attr_timeout = attr_timeout(node),
        .entry_timeout = entry_timeout(node),
    };
    node_stat_for(node, uid, &entry->attr);
}

/* looked: what the kernel is told of a result matters for NFS requests that wait. */
static void looked(fuse_req_t request, const struct node *node, const struct stat *stat)
{
    if (node->type->content == CONTENT_RESULT)
        nfs_wait_looked(node, stat, fuse_req_ctx(request)->pid);
}

static void reply_entry(fuse_req_t request, struct node *node)
{
    struct fuse_entry_param entry;
    entry_of(node, fuse_req_ctx(request)->uid, &entry);
    looked(request, node, &entry.attr);
    fuse_reply_entry(request, &entry);
    node_release(node);
}

static void reply_attr(fuse_req_t request, const struct node *node)
{
    struct stat stat;
    node_stat_for(node, fuse_req_ctx(request)->uid, &stat);
    looked(request, node, &stat);
    fuse_reply_attr(request, &stat, attr_timeout(node));
}

static void fs_init(void *userdata, struct fuse_conn_info *connection)
{
    static const unsigned wanted[] = {
        FUSE_CAP_EXPORT_SUPPORT, FUSE_CAP_ATOMIC_O_TRUNC,  FUSE_CAP_AUTO_INVAL_DATA,
        FUSE_CAP_SPLICE_WRITE,   FUSE_CAP_SPLICE_MOVE,     FUSE_CAP_SPLICE_READ,
        FUSE_CAP_ASYNC_READ,     FUSE_CAP_PARALLEL_DIROPS,
    };
    (void)userdata;
    connection->want = 0;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        connection->want |= connection->capable & wanted[i];
    connection->max_background = MAX_BACKGROUND;
    connection->congestion_threshold = MAX_BACKGROUND * 3 / 4;
}

/*
 * reply_stranger is reply_entry for a request of which it is not known who makes it. A file's size
 * must be right all the same, since the kernel reads up to it; for what anybody is told of it the
 * kernel asks again, and as whom it should. Of a directory it remembers nothing but what all have.
 */
static void reply_stranger(fuse_req_t request, struct node *node)
{
    struct fuse_entry_param entry;
    entry_of(node, 0, &entry);
    entry.attr_timeout = 0;
    if (S_ISDIR(entry.attr.st_mode)) {
        node_stat_as(node, 0, &node->server->started, &entry.attr);
        entry.attr_timeout = CONNECT_TIMEOUT;
    }
    looked(request, node, &entry.attr);
    fuse_reply_entry(request, &entry);
    node_release(node);
}

/*
 * lookup_handle finds the node of a handle, or its parent. Who asks is not known: an NFS server's
 * thread has the ids of the request that it had before (nfsd_set_fh_dentry of Linux,
 * fs/nfsd/nfsfh.c) and takes those of this one afterwards. So nothing is refused here.
 */
static void lookup_handle(fuse_req_t request, fuse_ino_t ino, const char *name)
{
    struct node self, node;
    int error = node_resolve(server_of(request), ino, &self);
    if (!error) {
        error = node_lookup(&self, name, &node);
        node_release(&self);
    }
    if (error)
        fuse_reply_err(request, error);
    else
        reply_stranger(request, &node);
}

static void fs_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct node directory, node;
    bool stranger;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        lookup_handle(request, parent, name);
        return;
    }
    if (!search_for(request, parent, true, &directory, &stranger))
        return;
    int error = node_lookup(&directory, name, &node);
    node_release(&directory);
    if (error)
        fuse_reply_err(request, error);
    else if (stranger)
        reply_stranger(request, &node);
    else
        reply_entry(request, &node);
}

/* reply_view tells an NFS server of a text what its READs will return. */
static void reply_view(fuse_req_t request, const struct node *node)
{
    struct stat stat;
    struct timespec changed;
    off_t size;
    int error = nfs_view_stat(node, &size, &changed);
    if (error) {
        fuse_reply_err(request, error);
        return;
    }
    node_stat_as(node, size, &changed, &stat);
    fuse_reply_attr(request, &stat, 0);
}

static void fs_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct node node;
    (void)info;
    if (!node_for(request, ino, &node))
        return;
    bool matters = node.type->content == CONTENT_RESULT || node.type->render;
    if (!matters || node_access(&node, fuse_req_ctx(request)->uid) || !from_nfs(request))
        reply_attr(request, &node);
    else if (node.type->content == CONTENT_RESULT)
        nfs_wait_getattr(request, &node);
    else
        reply_view(request, &node);
    node_release(&node);
}

/* set_owner_error: changing owner or mode to what they are is accepted, anything else is not. */
static int set_owner_error(const struct node *node, const struct stat *wanted, int to_set)
{
    struct stat stat;
    node_stat(node, &stat);
    if ((to_set & FUSE_SET_ATTR_MODE) && (wanted->st_mode & 07777) != (stat.st_mode & 07777))
        return EPERM;
    if ((to_set & FUSE_SET_ATTR_UID) && wanted->st_uid != stat.st_uid)
        return EPERM;
    if ((to_set & FUSE_SET_ATTR_GID) && wanted->st_gid != stat.st_gid)
        return EPERM;
    return 0;
}

/*
 * sets_mode_of_data: an exclusive CREATE of NFSv3 and 4.0 (RFC 1813 3.3.8) carries no mode, so the
 * client sets it afterwards. It is taken, and stays what it is; else O_EXCL would fail there.
 */
static bool sets_mode_of_data(fuse_req_t request, const struct node *node, int to_set)
{
    return (to_set & FUSE_SET_ATTR_MODE) && node->type->content == CONTENT_BYTES &&
           from_nfs(request);
}

static int set_size(fuse_req_t request, const struct node *node, uint64_t size)
{
    switch (node->type->content) {
    case CONTENT_BYTES: {
        int error = data_truncate(node->file, size);
        if (error == EDQUOT)
            vm_note_error(node->vm, error, "data/", "data_quota would be exceeded");
        return error;
    }
    case CONTENT_TEXT: /* a shell's `>`: what was written before is a command, not content */
        if (node->type->accept && from_nfs(request))
            return nfs_lines_truncate(node, size);
        return node->type->accept && size == 0 ? 0 : EINVAL;
    default:
        return EINVAL;
    }
}

/* chosen_time returns the time that is to be set, or NULL. */
static const struct timespec *chosen_time(int to_set, int set, int set_now,
                                          const struct timespec *given, struct timespec *now)
{
    if (to_set & set_now) {
        clock_gettime(CLOCK_REALTIME, now);
        return now;
    }
    return to_set & set ? given : NULL;
}

static void set_times(const struct node *node, const struct stat *wanted, int to_set)
{
    struct timespec now;
    if (!node->file)
        return; /* accepted: `touch submit` is no error, and changes nothing */
    const struct timespec *atime =
        chosen_time(to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, &wanted->st_atim, &now);
    const struct timespec *mtime =
        chosen_time(to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, &wanted->st_mtim, &now);
    if (atime || mtime)
        data_set_times(node->file, atime, mtime);
}

static void fs_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *wanted, int to_set,
                       struct fuse_file_info *info)
{
    struct node node;
    (void)info;
    if (!inside_for(request, ino, &node))
        return;
    if (sets_mode_of_data(request, &node, to_set))
        to_set &= ~FUSE_SET_ATTR_MODE;
    int error = set_owner_error(&node, wanted, to_set);
    if (!error && (to_set & FUSE_SET_ATTR_SIZE))
        error = set_size(request, &node, (uint64_t)wanted->st_size);
    if (error) {
        fuse_reply_err(request, error);
    } else {
        set_times(&node, wanted, to_set);
        reply_attr(request, &node);
    }
    node_release(&node);
}

/* Making and removing names. */

/* later: the VM's thread is to do it, since it would have to wait for the disk. */
static bool later(const struct node *directory, fs_name_fn *run, fuse_req_t request,
                  fuse_ino_t parent, const char *name, const struct fuse_file_info *info)
{
    struct vm *vm = directory->vm;
    enum node_kind kind = directory->type->kind;
    bool waits = (kind == NODE_JOBS && vm_numbers_are_short(vm, 1)) ||
                 (kind == NODE_DATA && data_numbers_are_short(&vm->data));
    return waits && fs_later_name(&vm->worker, run, request, parent, name, info);
}

static void make_directory(fuse_req_t request, fuse_ino_t parent, const char *name,
                           struct fuse_file_info *info)
{
    struct node directory;
    (void)info;
    if (!inside_for(request, parent, &directory))
        return;
    struct node made = {
        .type = &node_types[NODE_JOB], .server = directory.server, .vm = directory.vm};
    bool possible = directory.type->kind == NODE_JOBS;
    int error = possible ? vm_mkdir(directory.vm, name, &made.job) : EPERM;
    if (error)
        fuse_reply_err(request, error);
    else
        reply_entry(request, &made);
    node_release(&directory);
}

/* make does it now or later. */
static void make(fs_name_fn *run, fuse_req_t request, fuse_ino_t parent, const char *name,
                 struct fuse_file_info *info)
{
    struct node directory;
    if (!inside_for(request, parent, &directory))
        return;
    bool done = later(&directory, run, request, parent, name, info);
    node_release(&directory);
    if (!done)
        run(request, parent, name, info);
}

static void fs_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)mode;
    make(make_directory, request, parent, name, NULL);
}

static void fs_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct node directory;
    if (!inside_for(request, parent, &directory))
        return;
    bool possible = directory.type->kind == NODE_JOBS;
    fuse_reply_err(request, possible ? vm_rmdir(directory.vm, name) : EPERM);
    node_release(&directory);
}

static void fs_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct node directory;
    if (!inside_for(request, parent, &directory))
        return;
    bool possible = directory.type->kind == NODE_DATA;
    fuse_reply_err(request, possible ? data_unlink(&directory.vm->data, name) : EPERM);
    node_release(&directory);
}

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

static bool name_is_long(const char *name)
{
    return strlen(name) > WORKLOAD_MAX_FILE_NAME;
}

static int rename_error(const struct node *from, const char *name, const struct node *to,
                        const char *new_name, unsigned flags)
{
    if (from->type->kind != NODE_DATA || to->type->kind != NODE_DATA)
        return EPERM;
    if (from->vm != to->vm)
        return EXDEV;
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return EINVAL;
    if (name_is_long(new_name))
        return ENAMETOOLONG;
    return data_rename(&from->vm->data, name, new_name, flags & RENAME_NOREPLACE);
}

static void fs_rename(fuse_req_t request, fuse_ino_t parent, const char *name,
                      fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
    struct node from, to;
    if (!inside_for(request, parent, &from))
        return;
    if (inside_for(request, new_parent, &to)) {
        fuse_reply_err(request, rename_error(&from, name, &to, new_name, flags));
        node_release(&to);
    }
    node_release(&from);
}

/* file_create makes a data file for create(2) and mknod(2). */
static int file_create(const struct node *directory, const char *name, bool exclusive,
                       struct node *node)
{
    *node = (struct node){
        .type = &node_types[NODE_FILE], .server = directory->server, .vm = directory->vm};
    if (directory->type->kind != NODE_DATA)
        return EPERM;
    if (name_is_long(name))
        return ENAMETOOLONG;
    return data_create(&directory->vm->data, name, exclusive, &node->file);
}

static void make_file(fuse_req_t request, fuse_ino_t parent, const char *name,
                      struct fuse_file_info *info)
{
    struct node directory, node;
    (void)info;
    if (!inside_for(request, parent, &directory))
        return;
    int error = file_create(&directory, name, true, &node);
    node_release(&directory);
    if (error)
        fuse_reply_err(request, error);
    else
        reply_entry(request, &node);
}

static void fs_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                     dev_t device)
{
    (void)device;
    if (S_ISREG(mode))
        make(make_file, request, parent, name, NULL);
    else
        fuse_reply_err(request, EPERM);
}

static void create_file(fuse_req_t request, fuse_ino_t parent, const char *name,
                        struct fuse_file_info *info)
{
    struct node directory, node;
    if (!inside_for(request, parent, &directory))
        return;
    int error = file_create(&directory, name, true, &node);
    bool made = !error;
    if (error == EEXIST && !(info->flags & O_EXCL))
        error = file_create(&directory, name, false, &node);
    if (!error) {
        /* A data file: nobody waits for it. */
        error = handle_open(&node, info, fuse_req_ctx(request)->uid, false);
        if (error)
            node_release(&node);
        if (error && made) /* an open that fails leaves nothing behind */
            data_unlink(&directory.vm->data, name);
    }
    node_release(&directory);
    if (error) {
        fuse_reply_err(request, error);
        return;
    }
    struct fuse_entry_param entry;
    entry_of(&node, fuse_req_ctx(request)->uid, &entry);
    if (fuse_reply_create(request, &entry, info) < 0)
        handle_close(handle_of(info)); /* interrupted: no RELEASE will come */
    node_release(&node);
}

static void fs_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info)
{
    (void)mode;
    make(create_file, request, parent, name, info);
}

/* Links of any sort could lead out of data/. */
static void fs_link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t new_parent, const char *name)
{
    (void)ino;
    (void)new_parent;
    (void)name;
    fuse_reply_err(request, EPERM);
}

static void fs_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target;
    (void)parent;
    (void)name;
    fuse_reply_err(request, EPERM);
}

/* Open files. */

/* open_matters: does it matter for what is opened who opens it? */
static bool open_matters(const struct node *node)
{
    enum node_content content = node->type->content;
    return content == CONTENT_TEXT || content == CONTENT_RESULT ||
           (content == CONTENT_DIRECTORY && node->vm);
}

static void open_node(fuse_req_t request, fuse_ino_t ino, const char *name,
                      struct fuse_file_info *info)
{
    (void)name;
    struct node node;
    bool stranger;
    if (!search_for(request, ino, caller_looks_for_a_name(info->flags), &node, &stranger))
        return;
    bool nfs = open_matters(&node) && from_nfs(request);
    if (nfs && node.type->content == CONTENT_RESULT) {
        nfs_wait_open(request, &node, info);
        node_release(&node);
        return;
    }
    int error = handle_open(&node, info, fuse_req_ctx(request)->uid, nfs);
    if (error)
        fuse_reply_err(request, error);
    else if (fuse_reply_open(request, info) < 0)
        handle_close(handle_of(info));
    node_release(&node);
}

static void fs_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    open_node(request, ino, "", info);
}

static void fs_opendir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct node node;
    bool stranger;
    if (!search_for(request, ino, caller_looks_for_a_name(info->flags), &node, &stranger))
        return;
    bool done = listing_is_slow(&node) &&
                fs_later_name(&node.vm->lister, open_node, request, ino, "", info);
    node_release(&node);
    if (!done)
        open_node(request, ino, "", info);
}

static void fs_release(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    handle_close(handle_of(info));
    fuse_reply_err(request, 0);
}

static void fs_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    (void)ino;
    handle_read(handle_of(info), request, size, (uint64_t)offset);
}

static void fs_write_buf(fuse_req_t request, fuse_ino_t ino, struct fuse_bufvec *in, off_t offset,
                         struct fuse_file_info *info)
{
    (void)ino;
    handle_write(handle_of(info), request, in, (uint64_t)offset);
}

static void fs_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    handle_flush(handle_of(info), request);
}

static void fs_fsync(fuse_req_t request, fuse_ino_t ino, int datasync, struct fuse_file_info *info)
{
    (void)ino;
    (void)datasync;
    handle_fsync(handle_of(info), request);
}

static void fs_poll(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info,
                    struct fuse_pollhandle *poll)
{
    (void)ino;
    fuse_reply_poll(request, handle_poll(handle_of(info), poll));
}

static void fs_fallocate(fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *info)
{
    (void)ino;
    if (mode)
        fuse_reply_err(request, EOPNOTSUPP);
    else
        handle_allocate(handle_of(info), request, (uint64_t)offset, (uint64_t)length);
}

/* Directories. */

static void fs_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    const struct listing *listing = handle_listing(handle_of(info));
    char *buffer = malloc(size);
    size_t used = 0;
    (void)ino;
    if (!buffer) {
        fuse_reply_err(request, ENOSPC);
        return;
    }
    size_t count = listing ? listing->count : 0;
    for (size_t i = listing ? listing_after(listing, (uint64_t)offset) : 0; i < count; i++) {
        const struct listing_entry *entry = &listing->entries[i];
        struct stat stat = {.st_ino = entry->ino, .st_mode = entry->mode};
        size_t needed = fuse_add_direntry(request, buffer + used, size - used,
                                          listing_name(listing, i), &stat, (off_t)entry->offset);
        if (needed > size - used)
            break;
        used += needed;
    }
    fuse_reply_buf(request, buffer, used);
    free(buffer);
}

/* Names and job numbers are the state's: syncing a directory waits for it. */
static void fs_fsyncdir(fuse_req_t request, fuse_ino_t ino, int datasync,
                        struct fuse_file_info *info)
{
    struct state *state = server_of(request)->state;
    (void)ino;
    (void)datasync;
    (void)info;
    durable_reply(state, request, state_now(state));
}

static void fs_statfs(fuse_req_t request, fuse_ino_t ino)
{
    struct node node;
    struct statvfs stat = {0};
    if (!node_for(request, ino, &node))
        return;
    if (node.vm) {
        struct data_usage usage;
        data_usage(&node.vm->data, &usage);
        uint64_t quota = usage.limits.quota_bytes, most = usage.limits.max_files;
        stat.f_bsize = stat.f_frsize = 4096;
        stat.f_blocks = quota / 4096;
        stat.f_bfree = stat.f_bavail =
            (usage.used_bytes < quota ? quota - usage.used_bytes : 0) / 4096;
        stat.f_files = most;
        stat.f_ffree = stat.f_favail = usage.files < most ? most - usage.files : 0;
    } else if (fstatvfs(state_data_dir(node.server->state), &stat) < 0) {
        stat.f_bsize = 4096;
    }
    stat.f_namemax = WORKLOAD_MAX_FILE_NAME;
    fuse_reply_statfs(request, &stat);
    node_release(&node);
}

const struct fuse_lowlevel_ops fs_operations = {
    .init = fs_init,
    .lookup = fs_lookup,
    .getattr = fs_getattr,
    .setattr = fs_setattr,
    .mkdir = fs_mkdir,
    .rmdir = fs_rmdir,
    .unlink = fs_unlink,
    .rename = fs_rename,
    .mknod = fs_mknod,
    .create = fs_create,
    .link = fs_link,
    .symlink = fs_symlink,
    .open = fs_open,
    .release = fs_release,
    .read = fs_read,
    .write_buf = fs_write_buf,
    .flush = fs_flush,
    .fsync = fs_fsync,
    .poll = fs_poll,
    .fallocate = fs_fallocate,
    .opendir = fs_opendir,
    .releasedir = fs_release,
    .readdir = fs_readdir,
    .fsyncdir = fs_fsyncdir,
    .statfs = fs_statfs,
};
