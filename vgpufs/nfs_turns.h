/*
 * How many requests of an NFS server may wait for jobs. Each of them holds one
 * of its threads, and when none is left nobody gets an answer: so at most half
 * of the threads wait, and the VMs that wait share that half.
 *
 * Not thread-safe: the owner's lock guards it, the turns in it, and the counts.
 */
#ifndef VGPUFS_NFS_TURNS_H
#define VGPUFS_NFS_TURNS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* A VM's count. All zero is none. */
struct nfs_waiting {
    uint64_t count;
};

/* What the kernel was told last of the attributes of a result: see nfs_wait_looked. */
struct nfs_look {
    uint64_t ino;
    uint64_t until_us; /* till when it may take them */
    int64_t size;
    struct timespec changed;
    pid_t thread; /* which was told; 0: several were */
};

/* How many a VM remembers: of its newest entry's, and of some jobs'. */
#define NFS_LOOKS 8

/* One request's turn; part of it. All zero is none. */
struct nfs_turn {
    struct nfs_turn *next, *previous;
    struct nfs_waiting *waiting; /* of its VM; NULL: it is not among the turns */
    uint64_t deadline_us;
    uint64_t unique; /* the request's number, and its VM's: the owner's business */
    unsigned vm;
};

/* All zero, and limits. */
struct nfs_turns {
    uint64_t threads, per_vm;
    struct nfs_turn *first, *last; /* by time of entering */
    uint64_t count, vms;           /* that wait */
};

/*
 * nfs_turns_enter: 0, or EAGAIN if the VM has its share, or if all places are taken. In the latter
 * case a VM that has more than its share loses its oldest turn: that one becomes due.
 */
int nfs_turns_enter(struct nfs_turns *turns, struct nfs_turn *turn, struct nfs_waiting *waiting);
/* nfs_turns_leave does nothing for a turn that is not among them. */
void nfs_turns_leave(struct nfs_turns *turns, struct nfs_turn *turn);
/* nfs_turns_next returns the turn with the earliest deadline, or NULL. */
struct nfs_turn *nfs_turns_next(const struct nfs_turns *turns);

#endif
