#include "invalidator.h"

#include "server.h"

#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>

/* Inodes that wait for the thread. When it is held up for so long that they are full, further ones
 * are left to the attributes, which change with the content too. */
#define MAX_WAITING 4096

struct invalidator {
    struct server *server;
    pthread_t thread;
    bool needed;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    uint64_t *waiting; /* MAX_WAITING */
    size_t count;
    bool stopping;
};

/* kernel_caches: does the kernel's NFS server read through the cache? */
static bool kernel_caches(void)
{
    struct utsname name;
    unsigned major, minor;
    if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
        return true;
    return major > 6 || (major == 6 && minor >= 5);
}

static void *invalidator_run(void *argument)
{
    struct invalidator *invalidator = argument;
    pthread_mutex_lock(&invalidator->lock);
    while (!invalidator->stopping) {
        if (invalidator->count == 0) {
            pthread_cond_wait(&invalidator->changed, &invalidator->lock);
            continue;
        }
        uint64_t ino = invalidator->waiting[--invalidator->count];
        pthread_mutex_unlock(&invalidator->lock);
        /* It fails for an inode that the kernel does not have, which is as good. */
        fuse_lowlevel_notify_inval_inode(invalidator->server->session, ino, 0, 0);
        pthread_mutex_lock(&invalidator->lock);
    }
    pthread_mutex_unlock(&invalidator->lock);
    return NULL;
}

void invalidator_post(struct invalidator *invalidator, uint64_t ino)
{
    if (!invalidator || !invalidator->needed)
        return;
    pthread_mutex_lock(&invalidator->lock);
    bool known = false;
    for (size_t i = 0; i < invalidator->count && !known; i++)
        known = invalidator->waiting[i] == ino;
    if (!known && !invalidator->stopping && invalidator->count < MAX_WAITING) {
        invalidator->waiting[invalidator->count++] = ino;
        pthread_cond_signal(&invalidator->changed);
    }
    pthread_mutex_unlock(&invalidator->lock);
}

struct invalidator *invalidator_create(struct server *server)
{
    struct invalidator *invalidator = calloc(1, sizeof(*invalidator));
    uint64_t *waiting = calloc(MAX_WAITING, sizeof(*waiting));
    int error = invalidator && waiting ? 0 : ENOMEM;
    if (!error) {
        *invalidator =
            (struct invalidator){.server = server, .waiting = waiting, .needed = kernel_caches()};
        pthread_mutex_init(&invalidator->lock, NULL);
        pthread_cond_init(&invalidator->changed, NULL);
        error = invalidator->needed
                    ? pthread_create(&invalidator->thread, NULL, invalidator_run, invalidator)
                    : 0;
    }
    if (!error)
        return invalidator;
    free(invalidator);
    free(waiting);
    errno = error;
    return NULL;
}

void invalidator_stop(struct invalidator *invalidator)
{
    if (!invalidator || !invalidator->needed)
        return;
    pthread_mutex_lock(&invalidator->lock);
    invalidator->stopping = true;
    pthread_cond_signal(&invalidator->changed);
    pthread_mutex_unlock(&invalidator->lock);
    pthread_join(invalidator->thread, NULL);
}

void invalidator_destroy(struct invalidator *invalidator)
{
    if (!invalidator)
        return;
    pthread_cond_destroy(&invalidator->changed);
    pthread_mutex_destroy(&invalidator->lock);
    free(invalidator->waiting);
    free(invalidator);
}
