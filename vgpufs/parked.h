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
#include "job.h"
#include "table.h"

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>

struct vm;
struct server;

/* What an open `result` holds: the bytes of the job that it reads. */
struct result_handle {
    pthread_mutex_t lock; /* guards `content` */
    struct blob *content;
};

/* A read that waits. */
struct parked {
    struct parked *next, *previous; /* among its job's */
    struct table_entry by_unique;   /* among its VM's */
    fuse_req_t request;
    uint64_t unique; /* the request's number in the FUSE protocol */
    struct job *job;
    struct result_handle *handle; /* outlives the request: RELEASE comes after the reply */
    uint64_t offset;
    size_t size;
};

/* An open file in poll(2). Part of its handle. */
struct watcher {
    struct watcher *next, *previous; /* among its job's */
    struct job *job;                 /* NULL: it watches none */
    struct fuse_pollhandle *poll;
};

/*
 * parked_add parks the request that this thread is handling on a job that has not ended; `vm` is
 * locked. -1 without memory, and the request is still the caller's.
 */
int parked_add(struct vm *vm, struct job *job, struct result_handle *handle, fuse_req_t request,
               uint64_t offset, size_t size);
/* parked_detach empties the ended job's list and returns it; `vm` is locked. */
struct parked *parked_detach(struct vm *vm, struct job *job);
/* parked_answer answers and frees a detached list; no lock is held. Returns how many. */
unsigned parked_answer(struct parked *list, struct blob *result);

/* watcher_set makes `watcher` wait for the job with that handle, instead of whatever it had. */
void watcher_set(struct watcher *watcher, struct job *job, struct fuse_pollhandle *poll);
/* watcher_clear forgets it; its VM is locked. */
void watcher_clear(struct watcher *watcher);
/* watchers_notify hands the ended job's watchers to the notifying thread; its VM is locked. */
void watchers_notify(struct server *server, struct job *job);

/* The number of the FUSE request that this thread is handling; set by the receive loop. */
extern _Thread_local uint64_t parked_current_unique;

/* The thread that answers interrupted requests and sends notifications. */
struct notifier;
struct notifier *notifier_create(struct server *server); /* NULL with errno */
void notifier_destroy(struct notifier *notifier);
/* notifier_inval_root makes the kernel ask for the VMs and their owners again, after a reload. */
void notifier_inval_root(struct notifier *notifier);

#endif
