/*
 * What must survive a restart, in SQLite (state_dir/state.db): VMs' counters
 * and identities, jobs and their results, the names of data files, the executors
 * that are alive.
 *
 * One thread writes, in groups: whatever was asked for while one transaction
 * was under way goes into the next one together. Asking never waits for the
 * disk; who must, calls state_wait, or state_when to be called back. Thread-safe
 * after state_open.
 */
#ifndef VGPUFS_STATE_H
#define VGPUFS_STATE_H

#include "blob.h"
#include "common/text.h"
#include "config.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct state;

/* A position in the order of what was asked for. */
typedef uint64_t state_ticket;

/*
 * state_open locks state_dir for this process, opens or makes the database and the data folder,
 * and starts the writer. A database of an older version is migrated; one that is damaged is set
 * aside together with data/, and an empty one made: that is logged. NULL, and *error in one line:
 * another daemon uses it, the file is of a newer version, the disk.
 */
struct state *state_open(const char *state_dir, struct text *error);
/* state_set_durability says what becomes of jobs from now on; sync until it is called. */
void state_set_durability(struct state *state, enum config_durability durability,
                          uint64_t group_ms);
/* state_jobs_are_synced: durability = sync. */
bool state_jobs_are_synced(struct state *state);
/* state_outputs_are_synced: durability is not none: the writer syncs, sooner or later. */
bool state_outputs_are_synced(struct state *state);
/* state_close writes what is still to be written and stops the thread. Accepts NULL. */
void state_close(struct state *state);

/* The folder that holds data/<vm>/<number>, as a descriptor that lives as long as the state. */
int state_data_dir(const struct state *state);

/* No number of a job or a file is larger, so that there are always numbers behind it. */
#define STATE_MAX_NUMBER (UINT64_C(1) << 39)

/*
 * Reading, at the start. What was asked for and is not written yet is not seen. The callbacks may
 * ask, but neither load nor wait; their strings are theirs only.
 */
struct state_vm {
    unsigned id;
    uint64_t next_job, next_file; /* no number from here on was ever used */
    const char *identity;         /* NULL: none was claimed */
    bool held;
    uint64_t entry;            /* when the newest entry became one that is no job's */
    const char *rejection;     /* that entry: a rejected line's result; NULL: nothing */
    uint64_t request_entry;    /* when the last request was refused */
    const char *request_error; /* and why; NULL: none was, or another came later */
};
/* A job. Its times are microseconds of real time since the epoch. */
struct state_job {
    unsigned vm;
    uint64_t number;
    const char *tag, *pool, *line; /* pool and line NULL: it has no command yet */
    unsigned priority;
    unsigned state;     /* enum job_state, whose numbers never change */
    unsigned attempts;  /* that were noted: those that ended with the daemon */
    const char *cancel; /* why it was to be cancelled when it ran; NULL: it was not */
    bool read;          /* somebody has read the whole result */
    bool hidden;        /* has no directory any more; the newest entry, or the last request */
    uint64_t sequence;  /* arrival in its pool */
    uint64_t entry;     /* when it became its VM's newest entry: a count */
    uint64_t request;   /* when it became the last request in that count; 0: never */
    uint64_t queued_at_us, kept_at_us;
    uint64_t result_size;
};
/* state_load_jobs: first those that have not ended, by arrival, then those that have, by kept_at.
 * `vm` 0: all. -1 if not all could be read. */
int state_load_jobs(struct state *state, unsigned vm,
                    void (*each)(void *context, const struct state_job *job), void *context);
/* state_load_result returns a reference, or NULL. May be called at any time. */
struct blob *state_load_result(struct state *state, unsigned vm, uint64_t number);
void state_load_held_pools(struct state *state, void (*each)(void *context, const char *name),
                           void *context);
bool state_load_draining(struct state *state);
void state_load_vms(struct state *state, void (*each)(void *context, const struct state_vm *vm),
                    void *context);
/* state_load_files: -1 if not all could be read. */
int state_load_files(struct state *state, unsigned vm,
                     void (*each)(void *context, uint64_t number, const char *name), void *context);
void state_load_executors(struct state *state,
                          void (*each)(void *context, pid_t pid, uint64_t start_time),
                          void *context);

/* Asking. Each returns the ticket to wait for. */
state_ticket state_put_job_numbers(struct state *state, unsigned vm, uint64_t next);
state_ticket state_put_file_numbers(struct state *state, unsigned vm, uint64_t next);
/* NULL forgets the identity. */
state_ticket state_put_identity(struct state *state, unsigned vm, const char *identity);
/* state_put_file also renames, and takes the name away from the file that had it. */
state_ticket state_put_file(struct state *state, unsigned vm, uint64_t number, const char *name);
state_ticket state_delete_file(struct state *state, unsigned vm, uint64_t number);
/* state_remove_bytes removes data/<vm>/<number> once all that was asked for before is on disk. */
state_ticket state_remove_bytes(struct state *state, unsigned vm, uint64_t number);
state_ticket state_put_executor(struct state *state, pid_t pid, uint64_t start_time);
state_ticket state_delete_executor(struct state *state, pid_t pid);

/*
 * Jobs. A batch is on disk as a whole or not at all: make it, add to it, put it. `job` is copied.
 * It takes a reference of its own to the result.
 */
struct state_batch {
    struct change *first, *last;
    size_t count;
};
void state_batch_add(struct state_batch *batch, const struct state_job *job);
state_ticket state_put_batch(struct state *state, struct state_batch *batch);
void state_batch_drop(struct state_batch *batch);
/* A job that has no command yet. */
state_ticket state_put_directory(struct state *state, unsigned vm, uint64_t number,
                                 const char *tag);
/* A job was started, or put back before it reached an executor. */
state_ticket state_start_job(struct state *state, unsigned vm, uint64_t number);
state_ticket state_unstart_job(struct state *state, unsigned vm, uint64_t number);
/* A job is queued once more, after so many attempts that ended with the daemon. */
state_ticket state_rerun_job(struct state *state, unsigned vm, uint64_t number, unsigned attempts);
/* A job that runs is to be cancelled; `why` may be NULL. */
state_ticket state_cancel_job(struct state *state, unsigned vm, uint64_t number, const char *why);
/* state_end_job: `end` JOB_NEW means that its line was rejected. */
state_ticket state_end_job(struct state *state, unsigned vm, uint64_t number, unsigned end,
                           uint64_t kept_at_us, struct blob *result);
state_ticket state_read_job(struct state *state, unsigned vm, uint64_t number, uint64_t kept_at_us);
/* It is the newest entry once more; `is_request`: and the last request. */
state_ticket state_renew_job(struct state *state, unsigned vm, uint64_t number, uint64_t entry,
                             bool is_request);
state_ticket state_move_job(struct state *state, unsigned vm, uint64_t number, unsigned priority);
state_ticket state_hide_job(struct state *state, unsigned vm, uint64_t number);
state_ticket state_delete_job(struct state *state, unsigned vm, uint64_t number,
                              uint64_t result_size);
/* The newest entry is that rejection's result (NULL: nothing) from `entry` on. */
state_ticket state_put_rejection(struct state *state, unsigned vm, uint64_t entry,
                                 struct blob *result);
state_ticket state_put_refused_request(struct state *state, unsigned vm, uint64_t entry,
                                       const char *error);
state_ticket state_put_vm_held(struct state *state, unsigned vm, bool held);
state_ticket state_put_pool_held(struct state *state, const char *name, bool held);
state_ticket state_put_draining(struct state *state, bool draining);

/* state_wait returns when all up to the ticket is on disk. 0, or an errno when the disk refuses. */
int state_wait(struct state *state, state_ticket ticket);

/* state_is_durable: is all up to the ticket on disk? */
bool state_is_durable(struct state *state, state_ticket ticket);

/* Who is called back. It belongs to the caller until then, and to `done` from then on. */
struct state_waiter {
    struct state_waiter *next;
    state_ticket ticket;
    bool patient; /* goes on waiting while the disk refuses */
    bool stored;  /* it is enough that the end of this process does not lose it */
    bool light;   /* `done` takes no lock and asks for nothing */
    void (*done)(struct state_waiter *waiter, int error);
};
/*
 * state_when has `done` called by a thread of the state's, without any lock, once all up to the
 * ticket is on disk (error 0) or the disk refuses. False: that is so already, *error says which,
 * and nobody is called.
 */
bool state_when(struct state *state, struct state_waiter *waiter, int *error);
/* state_settle writes what there is and has every waiter called, those that are patient too: after
 * it none will wait again. */
void state_settle(struct state *state);

/* state_ask wakes the threads for an answer; state_is_silent: one has not given it yet. */
void state_ask(struct state *state);
bool state_is_silent(const struct state *state);
/* state_is_behind: that VM's changes that can be refused must be (ENOSPC), or they fill the memory.
 */
bool state_is_behind(struct state *state, unsigned vm);
/* state_is_crowded: the VM asks for more than is written, and is to wait before it asks again. */
bool state_is_crowded(struct state *state, unsigned vm);
/* state_is_failing: the last attempt to write failed. */
bool state_is_failing(struct state *state);
/* state_now is the ticket of all that was asked for so far. */
state_ticket state_now(struct state *state);

/*
 * Room on the disk. state_reserve sets `bytes` aside, so that they can be written later whatever
 * else fills the disk; false if they are not there. state_unreserve gives them back.
 */
bool state_reserve(struct state *state, uint64_t bytes);
void state_unreserve(struct state *state, uint64_t bytes);

#endif
