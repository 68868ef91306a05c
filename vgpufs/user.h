/*
 * The user that executors run as, and giving up privileges for it.
 *
 * A process that has the privilege borrows the user first: the effective ids are the user's, the
 * real and the saved ones stay the daemon's, and every capability is gone. So it can become that
 * user, for good, or go back to what it was before, and nothing else; and processes of that user
 * cannot signal it, since the kernel compares with the real and the saved uid (kill(2)).
 *
 * The calls that change ids are for processes of one thread.
 */
#ifndef VGPUFS_USER_H
#define VGPUFS_USER_H

#include "common/text.h"

#include <sys/types.h>

struct user {
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* all that the group database gives it, gid too */
    size_t group_count;
    char *name, *home, *shell;
};

/* user_find looks it up. -1 and *error in one line. user_finish frees what it found. */
int user_find(const char *name, struct user *user, struct text *error);
/* user_wanted finds the executor_user of a configuration: 1 if executors are to have another user
 * than this process, 0 if not (`name` is NULL, say); -1 and *error. user_finish follows it in any
 * case. */
int user_wanted(const char *name, struct user *user, struct text *error);
void user_finish(struct user *user);

/* user_borrow takes its ids and groups, and no capability is left. -1 with errno. */
int user_borrow(const struct user *user);
/* user_give_back follows user_borrow: the effective ids are the daemon's again; the groups and the
 * capabilities are not. -1 with errno. */
int user_give_back(void);
/* user_become follows user_borrow; there is no way back. Async-signal-safe. -1 with errno. */
int user_become(const struct user *user);
/* user_environment sets what login(1) sets: HOME and the like. -1 with errno. */
int user_environment(const struct user *user);

/* capabilities_drop gives all of them up; they come back by executing a set-uid program, or as
 * root, only. -1 with errno. */
int capabilities_drop(void);

#endif
