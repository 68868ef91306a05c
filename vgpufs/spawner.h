/*
 * Starting executors. All are started by one thread that lives as long as the
 * daemon, since PR_SET_PDEATHSIG fires when the *thread* that forked ends
 * (prctl(2)). Thread-safe.
 */
#ifndef VGPUFS_SPAWNER_H
#define VGPUFS_SPAWNER_H

#include "enclosure.h"
#include "sandbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct spawner;

struct spawner *spawner_create(void); /* NULL with errno */
void spawner_destroy(struct spawner *spawner);

/*
 * spawner_start runs `words` (NULL-terminated, words[0] looked up in PATH) in a process group of
 * its own, killed with the daemon, with standard input and output on *connection's other end (a
 * stream socket) and standard error on *errors' other end (a pipe). Both are non-blocking and
 * close-on-exec. It enters `enclosure`, which is the caller's. `sandbox` NULL: without one. Returns
 * its pid; or -1 with errno, also when the program cannot be executed.
 */
pid_t spawner_start(struct spawner *spawner, char *const *words, const struct sandbox *sandbox,
                    const struct enclosure *enclosure, int *connection, int *errors);

/* spawner_ask wakes the thread for an answer; spawner_is_silent: there is none yet. */
void spawner_ask(struct spawner *spawner);
bool spawner_is_silent(const struct spawner *spawner);

#endif
