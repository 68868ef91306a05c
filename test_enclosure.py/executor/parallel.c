#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* A bound against nonsense: no job here gains from more. */
#define MAX_THREADS 256

static struct pool {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t started, ended;
    pthread_t threads[MAX_THREADS];
    size_t thread_count; /* without the caller */
    bool ready, finishing;
    uint64_t round; /* raised for each parallel_run */
    parallel_work *work;
    void *context;
    size_t next, count; /* of the indices */
    size_t working;     /* threads that have not seen the round's end */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .started = PTHREAD_COND_INITIALIZER,
          .ended = PTHREAD_COND_INITIALIZER};

/* The set that the kernel fills can be wider than a cpu_set_t: EINVAL says so
 * (sched_getaffinity(2)).
 */
static size_t usable_processors(void)
{
    for (int width = CPU_SETSIZE; width <= 1 << 20; width *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)width);
        if (!set)
            break;
        size_t size = CPU_ALLOC_SIZE((size_t)width);
        int result = sched_getaffinity(0, size, set), count = CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (result == 0)
            return count > 0 ? (size_t)count : 1;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

/* pool_take works until no index is left. The lock is held at the call and afterwards. */
static void pool_take(void)
{
    while (pool.next < pool.count) {
        size_t index = pool.next++;
        pthread_mutex_unlock(&pool.lock);
        pool.work(pool.context, index);
        pthread_mutex_lock(&pool.lock);
    }
}

static void *pool_thread(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&pool.lock);
    uint64_t seen = 0;
    for (;;) {
        while (pool.round == seen && !pool.finishing)
            pthread_cond_wait(&pool.started, &pool.lock);
        if (pool.finishing)
            break;
        seen = pool.round;
        pool_take();
        if (--pool.working == 0)
            pthread_cond_signal(&pool.ended);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

/* pool_start: signals stay the main thread's. Fewer threads than processors are no error. */
static void pool_start(void)
{
    sigset_t all, before;
    size_t wanted = usable_processors() - 1;
    if (wanted > MAX_THREADS)
        wanted = MAX_THREADS;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pool.round = pool.working = 0;
    pool.finishing = false;
    for (pool.thread_count = 0; pool.thread_count < wanted; pool.thread_count++)
        if (pthread_create(&pool.threads[pool.thread_count], NULL, pool_thread, NULL) != 0)
            break;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pool.ready = true;
}

size_t parallel_threads(void)
{
    if (!pool.ready)
        pool_start();
    return pool.thread_count + 1;
}

void parallel_run(size_t count, parallel_work *work, void *context)
{
    if (count < 2 || parallel_threads() == 1) {
        for (size_t i = 0; i < count; i++)
            work(context, i);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool.work = work;
    pool.context = context;
    pool.next = 0;
    pool.count = count;
    pool.working = pool.thread_count;
    pool.round++;
    pthread_cond_broadcast(&pool.started);
    pool_take();
    while (pool.working > 0)
        pthread_cond_wait(&pool.ended, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void parallel_finish(void)
{
    if (!pool.ready)
        return;
    pthread_mutex_lock(&pool.lock);
    pool.finishing = true;
    pthread_cond_broadcast(&pool.started);
    pthread_mutex_unlock(&pool.lock);
    for (size_t i = 0; i < pool.thread_count; i++)
        pthread_join(pool.threads[i], NULL);
    pool.ready = false;
}
