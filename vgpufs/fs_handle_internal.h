/*
 * What an open file is: shared by fs_handle.c (opening and closing), handle_io.c (reading and
 * writing) and handle_save.c; nobody else includes it.
 */
#ifndef VGPUFS_FS_HANDLE_INTERNAL_H
#define VGPUFS_FS_HANDLE_INTERNAL_H

#include "fs_handle.h"
#include "lines.h"
#include "parked.h"
#include "state.h"

#include <pthread.h>

struct handle {
    struct node node;               /* its references are the handle's */
    uint64_t number;                /* what the kernel calls it */
    struct handle *previous, *next; /* all that are open; handles_lock guards them */
    bool nfs;                       /* an NFS server's */
    bool reads, writes;             /* it was opened for reading, for writing */
    /* The node went before this daemon took the file over from another. Of `node` the type is set;
     * what can be read is what it held then. */
    bool gone;
    struct openings *counted; /* its VM's; NULL: it counts for none */
    uint64_t charged;         /* bytes of these */
    union {
        struct {                   /* CONTENT_TEXT */
            struct blob *snapshot; /* what local reads return; NULL: not opened for them */
            pthread_mutex_t lock;  /* guards `lines` */
            struct lines lines;
            state_ticket accepted; /* what close() waits for; guarded by the lock too */
        } text;
        struct { /* CONTENT_RESULT */
            struct result_handle content;
            struct watcher watcher; /* the VM's lock guards it */
        } result;
        int descriptor;          /* CONTENT_BYTES */
        struct listing *listing; /* CONTENT_DIRECTORY; NULL: it is gone */
    };
};

/* handles_first is the first of all that are open; only while no thread serves. */
struct handle *handles_first(void);
/* handle_enter lists a handle that has a number. */
void handle_enter(struct handle *handle);
/* handle_result_again returns the bytes of a job that has ended; NULL if it is forgotten. */
struct blob *handle_result_again(struct vm *vm, uint64_t number);
/* handle_count counts a handle that was taken over, even beyond the limits. */
void handle_count(struct handle *handle);
/* handle_bytes_open opens the bytes of a data file: 0 or an errno. */
int handle_bytes_open(struct handle *handle);

#endif
