/*
 * Threads for what may have to wait for a disk, one for each VM that has some of that to do: so
 * that a VM which keeps the disk busy holds up nobody but itself. The threads that receive requests
 * do such work themselves as long as few of them do.
 *
 * A VM's thread does its tasks in order, is started by the first and ends with the last.
 * Thread-safe.
 */
#ifndef VGPUFS_WORKER_H
#define VGPUFS_WORKER_H

#include <pthread.h>
#include <stdbool.h>

/* Part of what its maker keeps about it. */
struct task {
    struct task *next;
    void (*run)(struct task *task); /* frees it */
};

struct worker {
    pthread_mutex_t lock; /* guards all below */
    struct task *first, **last;
    bool running;
};

void worker_init(struct worker *worker);
/* worker_finish: none of its tasks is left. */
void worker_finish(struct worker *worker);
/* worker_hand gives it a task, which it owns from then on. */
void worker_hand(struct worker *worker, struct task *task);
/* worker_is_busy: what is done now would overtake something. */
bool worker_is_busy(struct worker *worker);

/* workers_share says how many of the receiving threads may do such work at the same time. */
void workers_share(unsigned threads);
/* workers_enter: may this thread do it itself? Then workers_leave follows. */
bool workers_enter(void);
void workers_leave(void);
/* workers_wait returns when no VM's thread is left. */
void workers_wait(void);

#endif
