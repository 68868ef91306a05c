/*
 * Requests that wait for a job: parked here, answered from its completion, so
 * that a thousand blocked readers cost no thread. Also poll(2), and the thread
 * that answers interrupts and sends notifications.
 *
 * A parked request belongs to its job's list, which the VM's lock guards. Who
 * takes it off that list answers it, so it is answered once.
 */
#ifndef VGPUFS_PARKED_H
#define VGPUFS_PARKED_H

#define FUSE_USE_VERSION 312

#include "blob.h"
#include "handover.h"
#include "job.h"
#include "nfs_turns.h"
#include "result_handle.h"
#include "table.h"

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>

struct vm;
struct server;

/* In place of an errno: the next daemon replies. */
#define PARKED_LEFT (-1)

/* A request that waits. Part of what its maker keeps about it. */
struct parked {
    struct parked *next, *previous; /* among its job's */
    struct table_entry by_unique;   /* among its VM's */
    fuse_req_t request;
    uint64_t unique; /* the request's number in the FUSE protocol */
    struct {
        uint32_t size;
        char bytes[HANDOVER_MAX_REQUEST];
    } raw; /* what the next daemon gets of it */
    struct job *job;
    struct nfs_turn turn; /* an NFS server's only */
    bool newest;          /* waits for the VM's newest entry, whichever job that is */
    /*
     * answer replies and frees: with the result's bytes, or (`result` NULL) the errno, or not at
     * all (PARKED_LEFT). No lock is held. Returns whether that was a whole result.
     */
    bool (*answer)(struct parked *parked, struct blob *result, int error);
};

/* An open file in poll(2). Part of its handle. */
struct watcher {
    struct watcher *next, *previous; /* among its job's */
    struct job *job;                 /* NULL: it watches none */
    struct fuse_pollhandle *poll;
};

/*
 * parked_add parks a request that parked_note was called for, and of which `request` and `answer`
 * are set, on a job that has not ended; `vm` is locked. -1 without memory, and it is still the
 * caller's. Else it may be answered, and gone, as soon as the VM is unlocked.
 */
int parked_add(struct vm *vm, struct job *job, struct parked *parked);
/* parked_add_read parks a local read, which this thread is handling: 0, or an errno and it is still
 * the caller's. The handle outlives it: RELEASE comes after the reply. */
int parked_add_read(struct vm *vm, struct job *job, struct result_handle *handle,
                    fuse_req_t request, uint64_t offset, size_t size);
/* parked_detach empties the ended job's list and returns it; `vm` is locked. */
struct parked *parked_detach(struct vm *vm, struct job *job);
/* parked_detach_newest takes those off the job's list that wait for the newest entry. */
struct parked *parked_detach_newest(struct vm *vm, struct job *job);
/* parked_give_up answers all that wait, when server->closing is set and no other will: local reads
 * with EIO, an NFS server with EAGAIN. */
void parked_give_up(struct vm *vm);
/* parked_save takes all that wait, for the next daemon to answer; who was interrupted is told so.
 * Nobody else may run. */
void parked_save(struct vm *vm, struct handover *handover);
/* parked_leave forgets all that wait; the next daemon answers them. parked_fail is fuse_reply_err,
 * or nothing for PARKED_LEFT. */
void parked_leave(struct vm *vm);
void parked_fail(fuse_req_t request, int error);
/* parked_end answers the request of that number, if it still waits, with the errno. */
void parked_end(struct vm *vm, uint64_t unique, int error);
/* parked_answer answers and frees a detached list; no lock is held. Returns how many got a whole
 * result. `result` NULL: they are to look again for themselves. */
unsigned parked_answer(struct parked *list, struct blob *result);

/* watcher_set makes `watcher` wait for the job with that handle, instead of whatever it had. */
void watcher_set(struct watcher *watcher, struct job *job, struct fuse_pollhandle *poll);
/* watcher_clear forgets it; its VM is locked. */
void watcher_clear(struct watcher *watcher);
/* watchers_notify hands the ended job's watchers to the notifying thread; its VM is locked. */
void watchers_notify(struct server *server, struct job *job);

/* The FUSE request that this thread is handling, as the kernel gave it; set by the receive loop. */
struct parked_current {
    const void *bytes; /* NULL: a large write, which never waits for a job */
    size_t size;
};
extern _Thread_local struct parked_current parked_current;
/* parked_note keeps what is needed of that request. -1 if it is larger than any that may wait. */
int parked_note(struct parked *parked);

/* The thread that answers interrupted requests and sends notifications. */
struct notifier;
struct notifier *notifier_create(struct server *server); /* NULL with errno */
/* notifier_stop ends the thread; what comes after that waits for notifier_flush, which sends it
 * from the caller's. */
void notifier_stop(struct notifier *notifier);
void notifier_flush(struct notifier *notifier);
void notifier_destroy(struct notifier *notifier); /* accepts NULL */
/* notifier_ask wakes the thread for an answer; notifier_is_silent: there is none yet. */
void notifier_ask(struct notifier *notifier);
bool notifier_is_silent(const struct notifier *notifier);
/*
 * notify_file_gone tells the kernel, before it returns, that a file of the VM (a struct vm) has
 * lost its name: it remembers the file's attributes otherwise (FILE_TIMEOUT of fs.c), and an NFS
 * client that asks for them by its older handle would believe that the name still means this file.
 * No lock that a request needs may be held: the kernel may wait for one.
 */
void notify_file_gone(void *vm, uint64_t number);
/* notifier_inval_root makes the kernel ask for the VMs and their owners again, after a reload. */
void notifier_inval_root(struct notifier *notifier);

#endif
