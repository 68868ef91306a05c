/*
 * A pool's slot: one executor process at a time, and the job it runs. The
 * pool's lock guards it, but for `run` while run.preparing is set: then it is
 * its starter's.
 *
 * An executor that follows a device in doubt, failed starts or losses in a row gets a probe first:
 * a job of the daemon's own. Only a probe that fails makes the slot failing, never a VM's job.
 */
#ifndef VGPUFS_SLOT_H
#define VGPUFS_SLOT_H

#include "link.h"
#include "run.h"
#include "slot_reading.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pool;

enum slot_state {
    SLOT_DOWN,     /* no process; one is started at `due_us` */
    SLOT_STARTING, /* no hello yet, or a probe runs; given up at `due_us` */
    SLOT_IDLE,
    SLOT_BUSY,
    SLOT_DYING, /* killed or gone; waited for again at `due_us` */
};

struct slot {
    struct pool *pool;
    unsigned index;
    enum slot_state state;
    char name[48]; /* A.0 */
    pid_t pid;
    int death; /* a pidfd, readable at its end; -1: the kernel has none, or it is lost */
    struct link link;
    struct run run;
    char backend[16], device[256], host[256]; /* as its hello said, escaped where shown */
    char reported_pid[24];
    struct slot_reading reading;
    bool greeted;      /* this process has said hello */
    bool descriptors;  /* it takes data files as descriptors */
    bool doubted;      /* the next executor must pass a probe before it gets jobs */
    bool failing;      /* the last probe failed; none has passed since */
    uint64_t probe;    /* the attempt of the probe that runs; 0: none does */
    bool answered;     /* since the daemon's start it has said hello or failed */
    unsigned failures; /* in a row, without a job done in between */
    unsigned waits;    /* for the dead process so far */
    uint64_t due_us;   /* see enum slot_state; UINT64_MAX: nothing is due */
    uint64_t ooms;     /* in its cgroup before this executor */
    uint64_t lost_us;  /* when the executor was lost */
    char failure[512]; /* why there is no executor; "" */
};

/* How a job left its slot, until it is told. */
struct ending {
    struct run run; /* run.job NULL: nothing ended */
    struct job_outcome outcome;
    char error[COMMAND_MAX_ERROR], backend[16], device[256];
};

const char *slot_state_name(enum slot_state state);

void slot_init(struct slot *slot, struct pool *pool, unsigned index);
/* slot_launch starts a process in a slot that is down. Takes the pool's lock itself. */
void slot_launch(struct slot *slot);

/* All below: the pool is locked. A job that ends by them is put into *ending. */

/* slot_read takes what the executor has sent. */
void slot_read(struct slot *slot, struct ending *ending);
/* slot_died: its process has ended, though others may hold its connection open. */
void slot_died(struct slot *slot, struct ending *ending);
/* slot_read_errors logs what it wrote to standard error. */
void slot_read_errors(struct slot *slot);
/* slot_tick does what is due: time limits, kills, reaping. True if it is to be launched. */
bool slot_tick(struct slot *slot, uint64_t now_us, struct ending *ending);
/* slot_due_us: when slot_tick is to be called next. */
uint64_t slot_due_us(const struct slot *slot);
/* slot_send sends the prepared job. -1 if the connection is broken. */
int slot_send(struct slot *slot, const struct text *frame);
/* slot_ask_cancel asks the executor to end its job, and sets the time to kill it. */
void slot_ask_cancel(struct slot *slot, const char *error);
/* slot_quit ends the executor for good; its job fails, or is cancelled if that was asked for. */
void slot_quit(struct slot *slot, struct ending *ending);

/* slot_end takes the job out of the slot. `error` NULL: none. */
void slot_end(struct slot *slot, enum job_state state, const char *error, struct ending *ending);

#endif
