/*
 * Starting executors: a process of its own (spawner_process.h) does it, made
 * before the daemon has threads, memory or anything of a guest's. So a start
 * costs the same however large the daemon is, and executors can have a user of
 * their own although the daemon has no privilege to give them one any more.
 * They are the daemon's children all the same.
 *
 * A thread of the daemon's talks to it. Thread-safe, but for create, begin and
 * destroy.
 */
#ifndef VGPUFS_SPAWNER_H
#define VGPUFS_SPAWNER_H

#include "common/text.h"
#include "enclosure.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct spawner;

struct spawner_options {
    const char *user; /* of the executors; NULL: the daemon's own */
    bool sandbox;     /* some of them are under the system-call filter */
    bool background;  /* the daemon leaves terminal and folder that it was started in */
};

/*
 * spawner_create makes the process; there must be no other thread yet. If the daemon is not root,
 * it has no capability from then on. NULL and *error in one line.
 */
struct spawner *spawner_create(const struct spawner_options *options, struct text *error);
/* spawner_begin starts the thread that talks to it. -1 with errno. */
int spawner_begin(struct spawner *spawner);
/* spawner_destroy ends both; what was started and still runs is killed. Accepts NULL. */
void spawner_destroy(struct spawner *spawner);

/*
 * spawner_start runs `words` (NULL-terminated, words[0] looked up in PATH) in a process group of
 * its own, killed with the daemon, with standard input and output on *connection's other end (a
 * stream socket) and standard error on *errors' other end (a pipe). Both are non-blocking and
 * close-on-exec. It enters `enclosure`, which is the caller's, and is a child of this process.
 * Returns its pid; or -1 with errno, also when the program cannot be executed.
 */
pid_t spawner_start(struct spawner *spawner, char *const *words, bool sandbox,
                    const struct enclosure *enclosure, int *connection, int *errors);

/* spawner_pid: of the process. spawner_is_other: executors have a user who is not this process's,
 * and whom it may not signal. */
pid_t spawner_pid(const struct spawner *spawner);
bool spawner_is_other(const struct spawner *spawner);
/* spawner_descriptor: poll(2) tells POLLHUP when the process has ended, for which there is no
 * remedy but a new daemon; spawner_death then appends how. */
int spawner_descriptor(const struct spawner *spawner);
void spawner_death(struct spawner *spawner, struct text *how);

/* spawner_ask asks thread and process for an answer; spawner_is_silent: there is none yet. */
void spawner_ask(struct spawner *spawner);
bool spawner_is_silent(const struct spawner *spawner);

#endif
