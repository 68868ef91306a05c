/*
 * The tree: one static table of node types, from which every file system
 * operation works, and the numbering of inodes.
 *
 * An inode number is kind (8 bits), vm_id (16 bits), number (40 bits: of a job
 * or a data file; else 0). So it is the same after a restart, never used for
 * anything else, and one that names nothing is ESTALE. The root is 1, as FUSE
 * wants it.
 */
#ifndef VGPUFS_NODES_H
#define VGPUFS_NODES_H

#include "common/text.h"
#include "lines.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct data_file;
struct job;
struct server;
struct vm;

enum node_kind {
    NODE_NONE,
    NODE_ROOT,
    NODE_STATS,
    NODE_STATS_JSON,
    NODE_METRICS,
    NODE_QUEUE,
    NODE_CTL,
    NODE_VM,
    NODE_SUBMIT,
    NODE_RESULT,
    NODE_STATUS,
    NODE_IDENTITY,
    NODE_VM_CTL,
    NODE_JOBS,
    NODE_JOB,
    NODE_JOB_COMMAND,
    NODE_JOB_STATUS,
    NODE_JOB_RESULT,
    NODE_DATA,
    NODE_FILE,
    NODE_REQUEST,
    NODE_RESPONSE,
    NODE_KINDS,
};

/* What a node is made of, and so how its size is known and how it is read and written. */
enum node_content {
    CONTENT_DIRECTORY,
    CONTENT_TEXT,   /* `render` makes it, `accept` takes lines; either may be missing */
    CONTENT_RESULT, /* a job's result: reading waits for it */
    CONTENT_BYTES,  /* a data file */
};

struct node {
    const struct node_type *type;
    struct server *server;
    struct vm *vm;          /* NULL above the VMs' directories */
    struct job *job;        /* a reference; of NODE_JOB and below */
    struct data_file *file; /* a reference; of NODE_FILE */
};

struct node_type {
    enum node_kind kind, parent;
    const char *name; /* NULL: the parent has many of this kind, with names of their own */
    mode_t mode;      /* permission bits; stats_mode takes their place where `public` is set */
    enum node_content content;
    bool persistent; /* what it accepts is in the state: close() waits until it is on disk */
    bool journaled;  /* what it accepts are jobs: the same, as far as `durability` says so */
    bool public;     /* any user may use it, as far as the mode goes */
    /* render appends what a read returns. */
    void (*render)(const struct node *node, struct text *text);
    /* accept takes complete lines: 0 or an errno, and all or none of them. */
    int (*accept)(const struct node *node, const struct line *batch, size_t count);
    /* refuse notes that lines could not even be cut from what was written. */
    int (*refuse)(const struct node *node, int error, const struct line *line, const char *text);
};

extern const struct node_type node_types[NODE_KINDS];

#define NODE_MAX_NUMBER ((UINT64_C(1) << 40) - 1)

uint64_t node_ino(enum node_kind kind, unsigned vm, uint64_t number);
uint64_t node_self_ino(const struct node *node);
uint64_t node_parent_ino(const struct node *node);
/* node_related_ino is the inode of the node's parent, or of a fixed child, of that kind. */
uint64_t node_related_ino(const struct node *node, enum node_kind kind);

/* node_type_of returns what sort of node an inode number means, whether there is such a node or
 * not; NULL if none can be. node_vm_of is the VM's number in it, 0: none. */
const struct node_type *node_type_of(uint64_t ino);
unsigned node_vm_of(uint64_t ino);
/* node_resolve: 0, and the node must be released; or ESTALE. */
int node_resolve(struct server *server, uint64_t ino, struct node *node);
/* node_lookup finds a name in a directory, "." and ".." too: 0, ENOENT or ENOTDIR. */
int node_lookup(const struct node *directory, const char *name, struct node *node);
void node_release(struct node *node);

/* node_stat fills in everything; node_stat_for no size for a user who could not read the file. */
void node_stat(const struct node *node, struct stat *stat);
void node_stat_for(const struct node *node, uid_t uid, struct stat *stat);
/* node_stat_as takes size and time of change from the caller. */
void node_stat_as(const struct node *node, off_t size, const struct timespec *changed,
                  struct stat *stat);
/* node_access: 0, or EACCES if that user has no business here, whatever the mode bits say. */
int node_access(const struct node *node, uid_t uid);
/* node_mode returns type and permission bits. */
mode_t node_mode(const struct node *node);

/* node_must_wait: would reading the result in that directory have to wait? */
bool node_must_wait(const struct node *directory);

#endif
