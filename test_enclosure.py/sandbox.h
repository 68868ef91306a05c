/*
 * The executors' system-call filter: what no workload, driver or remote shell needs, and what a
 * fault in one would be used for, fails with EPERM.
 *
 * A struct sandbox is read-only once made; thread-safe.
 */
#ifndef VGPUFS_SANDBOX_H
#define VGPUFS_SANDBOX_H

#include "common/text.h"

struct sandbox;

/* sandbox_create compiles the filter. NULL, and *error in one line. */
struct sandbox *sandbox_create(struct text *error);
void sandbox_destroy(struct sandbox *sandbox); /* accepts NULL */

/*
 * sandbox_enter puts the calling process, and all that it starts, under the filter, for good; no
 * set-uid program gives them anything from then on (PR_SET_NO_NEW_PRIVS). Async-signal-safe. 0, or
 * -1 with errno.
 */
int sandbox_enter(const struct sandbox *sandbox);

#endif
