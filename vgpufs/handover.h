/*
 * What a daemon leaves for the next one at a planned restart, so that nobody who
 * uses the mount notices: the kernel's INIT, the requests that wait for a job,
 * the open files, what NFS clients have written and been told, and the counters
 * of stats. Jobs, names and identities are not in it: the state has them.
 *
 * It travels as the bytes of a memfd: a magic word, the version of the form, a
 * sum over the rest, then numbers of 64 bits and counted bytes, in the order of
 * the structs below. It comes from a process of the same user, but is not
 * believed: handover_parse checks every count, length and index.
 *
 * Not thread-safe: the main thread's, while no other touches what is saved.
 */
#ifndef VGPUFS_HANDOVER_H
#define VGPUFS_HANDOVER_H

#include "common/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blob;

/* Of another version nothing is taken: add one whenever the form or its meaning changes. */
#define HANDOVER_VERSION 2
/* The largest request that may wait, header included: READ has 80 bytes. */
#define HANDOVER_MAX_REQUEST 128
/* The largest INIT: 104 bytes since Linux 5.17. */
#define HANDOVER_MAX_INIT 1024

/* Bytes that belong to somebody else. */
struct handover_bytes {
    const char *data;
    size_t size;
};

/* The session with the kernel: the next daemon must make the same of INIT. */
struct handover_session {
    struct handover_bytes init; /* the raw request */
    uint64_t library;           /* fuse_version() */
    uint64_t want, max_write;   /* what was told to the kernel */
};

/* A result, or what a file that was opened held. */
struct handover_content {
    uint64_t job;
    struct handover_bytes bytes;
};

/* Contents are named by their place among them plus one; 0: none. */

struct handover_handle {
    uint64_t number, ino;        /* number: what the kernel calls it */
    uint64_t nfs, writes, reads; /* booleans */
    uint64_t content;
    struct handover_bytes pending; /* the unfinished line */
};

/* A file that an NFS client writes: struct nfs_file. */
struct handover_lines {
    uint64_t ino, base, cursor, last_start, last_stop, writers, refused_at;
    uint64_t active, reopened, gap, inside_long; /* booleans */
    struct handover_bytes bytes, flags;
};

/* What an NFS client sees of a file: struct nfs_view. */
struct handover_view {
    uint64_t ino, content, former, changed_s, changed_ns;
    uint64_t pieces; /* somebody was in the middle of it */
};

/* What an NFS client was told that a VM's `result` holds. */
struct handover_told {
    uint64_t vm, content;
};

/* Numbers that go on: of a VM, or of the pool of that name (stats_save.c). */
struct handover_counts {
    uint64_t kind, vm;
    struct handover_bytes pool, numbers;
};

struct handover_request {
    struct handover_bytes bytes; /* raw */
};

/* An array that grows. */
struct handover_list {
    void *items;
    size_t count, capacity;
};

/* All zero is an empty one. */
struct handover {
    struct handover_session session;
    struct handover_list contents, handles, lines, views, told, counts, requests;
    struct blob **blobs; /* of the contents: by handover_parse */
    bool failed;         /* no memory */
};

/*
 * Saving. handover_add appends an item of that size, all of whose pointers must stay good until
 * handover_pack. handover_add_blob returns the content's name; NULL is 0.
 */
void handover_add(struct handover *handover, struct handover_list *list, const void *item,
                  size_t size);
uint64_t handover_add_blob(struct handover *handover, struct blob *blob);
/* handover_pack appends the bytes; text->failed without memory. */
void handover_pack(struct handover *handover, struct text *text);

/*
 * handover_parse reads the bytes, into which *handover then points. -1 and *error, in words that
 * follow "what the daemon before has left is ".
 */
int handover_parse(struct handover *handover, const char *bytes, size_t size, struct text *error);
/* handover_blob returns a reference to that content, or NULL for 0. */
struct blob *handover_blob(const struct handover *handover, uint64_t name);
void handover_finish(struct handover *handover);

/* handover_write makes a file of the packed bytes; handover_read reads it. -1 and *error. */
int handover_write(const struct text *packed, struct text *error);
int handover_read(int file, struct text *packed, struct text *error);

#endif
