/*
 * A VM: its identity, its limits, its jobs by number and tag, its newest entry,
 * its data files.
 *
 * VMs are never freed while the daemon runs; one that a reload removed is `gone`
 * and only drains. Thread-safe; `lock` guards what stands below it.
 *
 * Functions return 0 or a positive errno unless they say otherwise.
 */
#ifndef VGPUFS_VM_H
#define VGPUFS_VM_H

#include "blob.h"
#include "config.h"
#include "data.h"
#include "identity.h"
#include "job.h"
#include "lines.h"
#include "listing.h"
#include "nfs_lines.h"
#include "nfs_turns.h"
#include "nfs_view.h"
#include "openings.h"
#include "table.h"
#include "worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pool_tenant;
struct server;

/* So many large results that an NFS server may be in the middle of reading stay in memory. */
#define VM_TOLD_JOBS 4

/* Ended jobs, in the order of their end (those that were read: of their first reading). */
struct ended_list {
    struct job *first, *last;
    uint64_t count;
};

/* What `result` and `status` speak of. */
struct newest {
    struct job *job;        /* NULL: none, or a rejected line */
    struct blob *rejection; /* the result file's bytes for a rejected line; NULL: none */
    uint64_t rejected_us;
};

struct last_error {
    time_t time; /* 0: there was none */
    int number;
    char line[256], text[COMMAND_MAX_ERROR]; /* as they came: to be escaped */
};

/* The answers of response.txt. */
struct legacy {
    struct job *job;               /* of the last request; NULL: none, or it was rejected */
    uint64_t restored;             /* when it became that, if an earlier daemon took it */
    char error[COMMAND_MAX_ERROR]; /* of a rejected request; "" */
};

struct vm_counters {
    uint64_t submitted, done, failed, cancelled, timeout, rejected, identity_rejected, crashes;
    uint64_t device_us;
};

struct vm {
    struct server *server;
    unsigned id;
    _Atomic(struct vm *) next; /* by ascending id */
    _Atomic uid_t uid;
    struct pool_tenant **tenants; /* one in each pool, in the pools' order */
    _Atomic uint64_t queued, running;
    atomic_bool gone, held;
    bool restored;         /* it has all of its jobs; the main thread's */
    atomic_bool nfs_reads; /* an NFS server has asked for a result */
    struct data data;      /* has its own lock */
    struct openings openings;
    struct worker worker;
    struct worker lister; /* makes large listings; never waits for the disk */
    struct listing_kept listed_jobs, listed_data; /* have locks of their own */
    struct nfs_waiting nfs_waiting;               /* guarded by the lock of nfs_wait.c */
    struct nfs_lines nfs_lines;                   /* has its own lock, outside of `lock` */
    struct nfs_views nfs_views;                   /* has its own lock */

    pthread_mutex_t lock;    /* guards all below */
    struct config_vm config; /* without its strings */
    struct identity identity;
    bool identity_set;
    struct blob *identity_written, *request_written; /* as accepted; NULL: never */
    struct table jobs_by_number, jobs_by_tag, parked;
    struct ended_list ended, ended_read;
    uint64_t next_job, reserved_job; /* numbers from next_job up to reserved_job are ours */
    uint64_t asked_job;              /* … and up to here once `reservation` is on disk */
    uint64_t number_block;           /* how many to ask for next */
    state_ticket reservation;
    struct newest newest;
    struct blob *told; /* what an NFS server was told that `result` holds; NULL: nothing */
    struct job *told_jobs[VM_TOLD_JOBS]; /* references to those whose `told` is large */
    unsigned told_turn;
    struct nfs_look looks[NFS_LOOKS];
    uint64_t entries; /* how many there were: every one that becomes the newest has a number */
    bool destroyed;   /* the daemon ends: what is taken out stays in the state */
    struct last_error last_error;
    struct legacy legacy;
    struct vm_counters counters;
    uint64_t crashes_in_row;
    struct timespec changed;        /* result, status … */
    struct timespec submit_changed; /* submit: not by a job's end, see vm_touch_submit */
    struct timespec list_changed;   /* the VM's directory */
    uint64_t listed_us;             /* when an NFS server listed that; 0: not since it changed */
    struct timespec jobs_changed;   /* the directory jobs/ */
};

/* vm_create takes the numbers and the identity that the state had. NULL without memory. */
struct vm *vm_create(struct server *server, const struct config_vm *config,
                     const struct state_vm *saved);
void vm_destroy(struct vm *vm);
/* vm_reload takes new limits; the identity is judged anew. */
void vm_reload(struct vm *vm, const struct config_vm *config);
/* vm_numbers_ready waits until the first job numbers are reserved. */
int vm_numbers_ready(struct vm *vm);
/* vm_numbers_are_short: would whoever takes so many job numbers have to wait for the disk? */
bool vm_numbers_are_short(struct vm *vm, uint64_t count);
/* vm_save_numbers notes exactly which numbers were used, at a clean stop. */
void vm_save_numbers(struct vm *vm);

/* How lines came in. */
enum submit_via {
    VIA_SUBMIT,
    VIA_COMMAND, /* jobs/<tag>/command: exactly one, for `target` */
    VIA_REQUEST, /* request.txt: one at a time */
};
/*
 * vm_submit accepts all lines of the batch or none. What is refused becomes the VM's newest entry
 * and last error. `target` only for VIA_COMMAND.
 */
int vm_submit(struct vm *vm, enum submit_via via, struct job *target, const struct line *batch,
              size_t count);
/*
 * vm_reject notes a refusal, of this room or another, as the newest entry and the last error; of a
 * job without a command (`target`, or NULL) as its result too. Returns `number`.
 */
int vm_reject(struct vm *vm, enum submit_via via, struct job *target, int number,
              const struct line *line, const char *text);

/* vm_note_change: what a file of the VM, or of that job (NULL: none), holds has changed. */
void vm_note_change(struct vm *vm, struct job *job);
/*
 * vm_note_listing: an NFS server is being given the VM's listing, which leaves a pending result
 * out. A guest keeps it as long as the directory's time is the same; but whatever a guest has
 * looked up there it looks up again when that changes. So it changes only after a listing. The VM
 * is locked.
 */
void vm_note_listing(struct vm *vm);
/* vm_note_error notes an error that is none of a line, about a name: only `status` shows it. */
int vm_note_error(struct vm *vm, int number, const char *about, const char *text);

/* Directories of jobs/. */
int vm_mkdir(struct vm *vm, const char *tag, struct job **job);
int vm_rmdir(struct vm *vm, const char *tag);
/* References, or NULL. */
struct job *vm_find_tag(struct vm *vm, const char *tag);
struct job *vm_find_number(struct vm *vm, uint64_t number);

/* vm_ctl: `cancel <tag>` or `cancel all`, from the guest's ctl. */
int vm_ctl(struct vm *vm, const struct line *batch, size_t count);
/* vm_cancel: EINVAL if there is no such job. `tag` may be "all"; `why` is static, for the result.
 */
int vm_cancel(struct vm *vm, const char *tag, const char *why);
int vm_set_priority(struct vm *vm, const char *tag, unsigned priority);
/* vm_hold: a held VM's jobs are accepted and wait. */
void vm_hold(struct vm *vm, bool held);
/* vm_purge cancels and forgets all jobs, data files and the identity; numbers go on. */
void vm_purge(struct vm *vm);

int vm_set_identity(struct vm *vm, const struct line *batch, size_t count);

/*
 * vm_job_ended is the one completion callback: `job` has left its pool. It makes the result, wakes
 * who waits and counts. No lock may be held.
 */
void vm_job_ended(struct job *job, const struct job_outcome *outcome);
/* vm_restore takes a job that the state had. The pools do not run yet, or the VM is new. */
void vm_restore(struct vm *vm, const struct state_job *saved);
/* vm_restored: there are no more of them. */
void vm_restored(struct vm *vm, const struct state_vm *saved);

/* vm_told_save notes what an NFS server was told of `result`, for the next daemon, which calls
 * vm_told_restore. No thread serves. */
void vm_told_save(struct vm *vm, struct handover *handover);
void vm_told_restore(struct server *server, const struct handover *handover,
                     const struct handover_told *told);

/*
 * vm_result_now returns the bytes of the job's result (`job` NULL: of the newest entry), or NULL:
 * then *pending is the job to wait for, or NULL if it cannot be read. Both are references. `vm` is
 * locked.
 */
struct blob *vm_result_now(struct vm *vm, struct job *job, struct job **pending);
/* vm_told notes what an NFS server was told that the job's result holds (`job` NULL: the newest
 * entry's). `vm` is locked. */
void vm_told(struct vm *vm, struct job *job, struct blob *bytes);
/* vm_job_read: somebody has read the whole result. */
void vm_job_read(struct vm *vm, uint64_t number);

/* vm_expire forgets ended jobs that were kept for retain_for. */
void vm_expire(struct vm *vm);

/* Snapshots for the tree. */
void vm_render_status(struct vm *vm, struct text *text);
void vm_render_job_status(struct job *job, struct text *text);
void vm_render_identity(struct vm *vm, struct text *text);
void vm_render_response(struct vm *vm, struct text *text);

#endif
