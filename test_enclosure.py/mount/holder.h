/*
 * Who gets the mount: the socket, the processes that ask on it, and what becomes of the mount when
 * the daemon leaves or dies. One thread; the caller owns the storage, holder_finish gives back the
 * rest.
 */
#ifndef VGPUFS_MOUNT_HOLDER_H
#define VGPUFS_MOUNT_HOLDER_H

#include "device.h"

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

#define HOLDER_PEERS 8
#define HOLDER_POLLS (HOLDER_PEERS + 1)

/* A process that is connected. */
struct peer {
    int socket; /* -1: this place is free */
    pid_t pid;
};

struct holder {
    struct device device;
    const char *socket_path;
    uid_t user;           /* may take the mount; root may too */
    uint64_t patience_ms; /* how long callers wait for a daemon */
    int listener;
    struct peer peers[HOLDER_PEERS];
    struct peer *serving; /* the daemon that has the descriptor, or NULL */
    int state;            /* what the daemon before left for the next one; -1: nothing */
    uint64_t abort_ms;    /* when nobody serves: until then calls wait (0: not at all) */
};

/* holder_start listens, then mounts. -1 and a message. */
int holder_start(struct holder *holder);
/* holder_polls fills in what to wait for and returns how many; holder_timeout_ms is how long, -1:
 * for ever. holder_serve does what has come. -1 and a message when it cannot go on. */
unsigned holder_polls(const struct holder *holder, struct pollfd polls[HOLDER_POLLS]);
int holder_timeout_ms(const struct holder *holder);
int holder_serve(struct holder *holder, const struct pollfd *polls, unsigned count);
void holder_finish(struct holder *holder);

#endif
