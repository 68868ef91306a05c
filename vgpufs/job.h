/*
 * A job's life: accepted, queued, running, ended; its result and who waits for
 * it.
 *
 * Ownership: reference counted. Its VM holds one until the job is forgotten, its
 * pool one until it has ended, a request that waits for it one.
 *
 * What guards what: `queue`, `state` until it is terminal: the pool's lock. The
 * step to a terminal state and all else that changes: the VM's lock. The right
 * to end a job belongs to whoever took it out of the pool's queue or slot, so a
 * job ends exactly once.
 */
#ifndef VGPUFS_JOB_H
#define VGPUFS_JOB_H

#include "blob.h"
#include "command.h"
#include "queue.h"
#include "state.h"
#include "table.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct vm;
struct pool;
struct parked;
struct watcher;

enum job_state {
    JOB_NEW, /* mkdir made its directory; no command yet */
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_DONE,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_TIMEOUT,
};

/* A job that has ended, on its way into the state. */
struct job_end {
    struct state_waiter waiter;
    struct blob *result; /* a reference */
    unsigned char state; /* enum job_state */
    bool crashed, shown;
};

struct job {
    struct queue_item queue;
    struct table_entry by_number, by_tag;
    struct job *previous, *next; /* among the VM's ended jobs, by end */
    struct vm *vm;
    struct pool *pool; /* NULL while JOB_NEW */
    const struct workload_info *workload;
    uint64_t number;
    uint64_t started_us, ended_us;
    uint64_t entry;        /* when it became its VM's newest entry: a count */
    uint64_t result_bytes; /* of the result, in memory or not */
    uint64_t room_bytes;   /* set aside for it on the disk */
    uint64_t kept_us;      /* since when it is in its VM's list of ended jobs */
    uint32_t timeout_ms, deadline_ms;
    unsigned note; /* that it runs: running_note */
    atomic_uint references;
    _Atomic uint32_t progress; /* per 10,000; UINT32_MAX: unknown */
    atomic_uchar state;        /* enum job_state */
    bool read;                 /* somebody has read the whole result */
    bool forgotten;            /* rmdir: no longer in the VM's tables */
    bool listed;               /* among the VM's ended jobs */
    bool journaled;            /* has a row in the state */
    bool line_is_own;          /* `line` is a piece of memory by itself */
    struct job_end end;        /* from its end until the state has it */
    struct timespec changed;
    struct blob *result;      /* header and output, set with the terminal state; of a rejected line
                               * while JOB_NEW; NULL with result_bytes: it is in the state only */
    struct blob *told;        /* what an NFS server was told that `result` holds; NULL: nothing */
    struct parked *waiters;   /* requests to answer at the end */
    struct watcher *watchers; /* open files in poll(2), to be notified at the end */
    char *line; /* the accepted bytes, with their newline if they had one; NULL while JOB_NEW */
    char tag[]; /* or the number in decimal; behind it the line that it was made with */
};

/* How a job ended. */
struct job_outcome {
    enum job_state state;
    const char *error;   /* NULL: none */
    const char *backend; /* NULL: unknown, it never ran */
    const char *device;  /* NULL: unknown */
    const char *output;  /* the workload's own, `output_size` bytes */
    size_t output_size;
    bool truncated;
    int exit_code;     /* -1: none */
    uint64_t ended_us; /* when it ended; 0: now */
    bool crashed;      /* the executor died of it, or had to be killed for it */
};

/*
 * job_create: `tag` NULL means the number, `line` NULL that there is none yet; both are copied. The
 * caller holds the one reference, and sets `changed`. NULL: no memory.
 */
struct job *job_create(struct vm *vm, const char *tag, const struct line *line);
/* job_set_line gives a line to a job that has none, job_drop_line takes it away. -1: no memory. */
int job_set_line(struct job *job, const struct line *line);
void job_drop_line(struct job *job);
/* job_set_number gives the job its number, and with it its tag if it has no other. Once. */
void job_set_number(struct job *job, uint64_t number);
struct job *job_ref(struct job *job);
void job_unref(struct job *job); /* accepts NULL */

static inline enum job_state job_state(const struct job *job)
{
    return (enum job_state)atomic_load_explicit(&job->state, memory_order_acquire);
}

static inline bool job_has_ended(const struct job *job)
{
    return job_state(job) >= JOB_DONE;
}

/* job_has_chosen_tag: a number is never chosen, it is the job's own. */
static inline bool job_has_chosen_tag(const struct job *job)
{
    return job->tag[0] > '9';
}

const char *job_state_name(enum job_state state);

/* job_render_result makes the result file's bytes: the header line, then the output. */
void job_render_result(const struct job *job, const struct job_outcome *outcome, struct text *text);

#endif
