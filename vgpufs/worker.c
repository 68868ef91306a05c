#include "worker.h"

#include <stdatomic.h>
#include <stddef.h>

static atomic_uint entered, share;

static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the count */
static pthread_cond_t threads_ended = PTHREAD_COND_INITIALIZER;
static unsigned threads;

static void threads_count(int more)
{
    pthread_mutex_lock(&threads_lock);
    threads += (unsigned)more;
    if (threads == 0)
        pthread_cond_broadcast(&threads_ended);
    pthread_mutex_unlock(&threads_lock);
}

void workers_wait(void)
{
    pthread_mutex_lock(&threads_lock);
    while (threads)
        pthread_cond_wait(&threads_ended, &threads_lock);
    pthread_mutex_unlock(&threads_lock);
}

void workers_share(unsigned count)
{
    atomic_store(&share, count);
}

bool workers_enter(void)
{
    if (atomic_fetch_add(&entered, 1) < atomic_load(&share))
        return true;
    atomic_fetch_sub(&entered, 1);
    return false;
}

void workers_leave(void)
{
    atomic_fetch_sub(&entered, 1);
}

void worker_init(struct worker *worker)
{
    *worker = (struct worker){.last = &worker->first};
    pthread_mutex_init(&worker->lock, NULL);
}

void worker_finish(struct worker *worker)
{
    pthread_mutex_destroy(&worker->lock);
}

/* worker_next returns the next task; NULL, and it does not run any more. */
static struct task *worker_next(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    struct task *task = worker->first;
    if (task)
        worker->first = task->next;
    if (!worker->first)
        worker->last = &worker->first;
    worker->running = task != NULL;
    pthread_mutex_unlock(&worker->lock);
    return task;
}

static void worker_work(struct worker *worker)
{
    for (struct task *task; (task = worker_next(worker));)
        task->run(task);
}

static void *worker_run(void *worker)
{
    worker_work(worker);
    threads_count(-1);
    return NULL;
}

void worker_hand(struct worker *worker, struct task *task)
{
    pthread_t thread;
    pthread_attr_t detached;
    task->next = NULL;
    pthread_mutex_lock(&worker->lock);
    *worker->last = task;
    worker->last = &task->next;
    bool start = !worker->running;
    worker->running = true;
    pthread_mutex_unlock(&worker->lock);
    if (!start)
        return;
    threads_count(1);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &detached, worker_run, worker) != 0)
        worker_run(worker); /* no thread can be had: this one has to */
    pthread_attr_destroy(&detached);
}

bool worker_is_busy(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    bool busy = worker->running;
    pthread_mutex_unlock(&worker->lock);
    return busy;
}
