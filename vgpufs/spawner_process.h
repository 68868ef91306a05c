/*
 * The process that starts executors. It has one thread and no state but what
 * it has started; it believes nothing that it is sent beyond its bounds, and
 * ends with its connection to the daemon.
 *
 * Executors are its siblings (CLONE_PARENT of clone(2)): the daemon waits for
 * them itself, and the kernel kills them when the daemon ends, where their
 * users are the same or the daemon is root. It kills them then as well, for it
 * may where the daemon may not.
 */
#ifndef VGPUFS_SPAWNER_PROCESS_H
#define VGPUFS_SPAWNER_PROCESS_H

#include "sandbox.h"
#include "user.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum spawn_kind { SPAWN_PING, SPAWN_START };

/* The descriptors that come with SPAWN_START, in this order. */
enum spawn_descriptor {
    SPAWN_CONNECTION, /* standard input and output */
    SPAWN_ERRORS,     /* standard error */
    SPAWN_REPORT,     /* a stream socket: see spawner_process_run */
    SPAWN_DESCRIPTORS
};

/* The largest request: a command line, mostly. */
#define SPAWN_MAX_REQUEST 65536

/* What a request begins with; NUL-terminated strings follow: the mark, then the words. */
struct spawn_request {
    uint32_t kind;
    uint32_t sandbox;      /* a boolean */
    uint64_t memory_bytes; /* to be bounded by RLIMIT_DATA; 0: not */
};

struct spawn_answer {
    int32_t pid;   /* 0: an answer to SPAWN_PING, or none was started */
    int32_t error; /* an errno; 0: none */
};

struct spawn_setting {
    const struct user *user;       /* NULL: the daemon's */
    const struct sandbox *sandbox; /* NULL: no filter */
    pid_t daemon;
    bool background;
};

/*
 * spawner_process_run serves the socket (SOCK_SEQPACKET) until it ends, and returns the exit
 * status. Its first answer, without a request, is whether it could take its user.
 *
 * A process that was started waits for one byte on SPAWN_REPORT before it executes the program, so
 * that the daemon can do with it what it has to; it answers with an errno (an int) if it cannot,
 * and the end of the connection says that it has.
 */
int spawner_process_run(int socket, const struct spawn_setting *setting);

#endif
