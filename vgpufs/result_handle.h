/*
 * The result that an open file reads: the bytes of one job, kept from the read at offset 0 on, so
 * that later ones go on with that job. What is large is kept as long as the VM's max_open_bytes
 * allows, and after that read from the state again.
 *
 * Part of its handle. Thread-safe.
 */
#ifndef VGPUFS_RESULT_HANDLE_H
#define VGPUFS_RESULT_HANDLE_H

#include "blob.h"
#include "openings.h"

#include <pthread.h>
#include <stdint.h>

/* Up to this size a result is kept in any case: how many there may be is bounded by max_open. */
#define RESULT_HANDLE_SMALL 4096

struct result_handle {
    struct openings *openings; /* the VM's; NULL: it is gone, and all is kept */
    pthread_mutex_t lock;      /* guards all below */
    struct blob *content;      /* NULL: nothing was read, or it is not kept */
    uint64_t job;              /* whose it is; 0: no job's */
    uint64_t charged;
};

void result_handle_init(struct result_handle *handle, struct openings *openings);
void result_handle_finish(struct result_handle *handle);
/* result_handle_set: these bytes (no reference is taken over) are what is being read. */
void result_handle_set(struct result_handle *handle, struct blob *content);
/* result_handle_get returns a reference; or NULL, and *job says whose bytes are to be read again;
 * 0: nothing was read yet. */
struct blob *result_handle_get(struct result_handle *handle, uint64_t *job);

#endif
