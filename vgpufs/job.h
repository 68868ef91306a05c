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

/* What only a job has that has ended, or, while JOB_NEW, whose line was rejected. */
struct job_end {
    struct job *job;
    struct state_waiter waiter;  /* until the state has the end */
    struct blob *written;        /* a reference to the result, as long */
    struct job *previous, *next; /* among the VM's ended jobs, by end */
    uint64_t ended_us;
    uint64_t kept_us;      /* since when it is among them */
    uint64_t room_bytes;   /* set aside on the disk for a large result */
    uint64_t result_bytes; /* of the result, in memory or not */
    struct blob *result;   /* header and output, set with the terminal state; NULL with
                            * result_bytes: it is in the state only */
    unsigned char state;   /* enum job_state: what it becomes when the end is shown */
    bool crashed, shown;
    bool listed; /* among the VM's ended jobs */
    bool read;   /* somebody has read the whole result */
};

/* A million may be queued: what few have, or none before its end, stands elsewhere. */
struct job {
    struct queue_item queue;
    struct table_entry by_number;
    struct vm *vm;
    struct pool *pool; /* NULL while JOB_NEW */
    const struct workload_info *workload;
    struct job_end *end; /* NULL: it has not ended */
    uint64_t number;
    uint64_t started_us;
    uint64_t changed_ns;      /* job_changed */
    struct blob *told;        /* what an NFS server was told that `result` holds; NULL: nothing */
    struct parked *waiters;   /* requests to answer at the end */
    struct watcher *watchers; /* open files in poll(2), to be notified at the end */
    char *line; /* the accepted bytes, with their newline if they had one; NULL while JOB_NEW */
    uint32_t timeout_ms;
    uint32_t room_bytes; /* set aside for it on the disk, until the state has its end */
    unsigned note;       /* that it runs: running_note */
    atomic_uint references;
    _Atomic uint16_t progress; /* per 10,000; UINT16_MAX: unknown */
    atomic_uchar state;        /* enum job_state */
    bool forgotten;            /* rmdir: no longer in the VM's tables */
    bool journaled;            /* has a row in the state */
    bool line_is_own;          /* `line` is a piece of memory by itself */
    bool tag_is_chosen;        /* and not the number in decimal */
    /* One if the tag is chosen, or none; behind it the tag, and the line that it was made with. */
    struct table_entry by_tag[];
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
 * caller holds the one reference, and calls job_set_changed. NULL: no memory.
 */
struct job *job_create(struct vm *vm, const char *tag, const struct line *line);
/* job_set_line gives a line to a job that has none, job_drop_line takes it away. -1: no memory. */
int job_set_line(struct job *job, const struct line *line);
void job_drop_line(struct job *job);
/* job_set_number gives the job its number (at most STATE_MAX_NUMBER, or some more that were counted
 * from there), and with it its tag if it has no other. Once. */
void job_set_number(struct job *job, uint64_t number);
/*
 * job_end_get returns job->end, made if it is missing. Without memory the daemon ends, as it does
 * when there is none for what is to be written (change_make). job_end_drop takes it away.
 */
struct job_end *job_end_get(struct job *job);
void job_end_drop(struct job *job);
struct job *job_ref(struct job *job);
void job_unref(struct job *job); /* accepts NULL */

/* job_deadline_us: of the clock by which it was queued; that may be negative in an earlier life of
 * the machine. */
static inline int64_t job_deadline_us(uint64_t queued_us, uint64_t deadline_ms)
{
    return deadline_ms ? (int64_t)(queued_us + deadline_ms * 1000) : 0;
}

static inline enum job_state job_state(const struct job *job)
{
    return (enum job_state)atomic_load_explicit(&job->state, memory_order_acquire);
}

static inline bool job_has_ended(const struct job *job)
{
    return job_state(job) >= JOB_DONE;
}

/* job_tag: until job_set_number it is empty if none was chosen. */
static inline const char *job_tag(const struct job *job)
{
    return (const char *)&job->by_tag[job->tag_is_chosen];
}

/* job_result returns the result if it is in memory, job_result_bytes its size wherever it is; NULL
 * and 0: there is none. */
static inline struct blob *job_result(const struct job *job)
{
    return job->end ? job->end->result : NULL;
}

static inline uint64_t job_result_bytes(const struct job *job)
{
    return job->end ? job->end->result_bytes : 0;
}

/* When what its files say has changed last: a stamp of clock_change. */
void job_set_changed(struct job *job, struct timespec changed);
struct timespec job_changed(const struct job *job);

const char *job_state_name(enum job_state state);

/* job_render_result makes the result file's bytes: the header line, then the output. */
void job_render_result(const struct job *job, const struct job_outcome *outcome, struct text *text);

#endif
