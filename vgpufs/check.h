/*
 * vgpufs --check: what of the machine does not fit the configuration, each with the command that
 * mends it. One thread; changes nothing.
 */
#ifndef VGPUFS_CHECK_H
#define VGPUFS_CHECK_H

#include "config.h"
#include "user.h"

#include <stdbool.h>
#include <stdio.h>

/* How the world outside is asked; the unit test puts its own in place. */
struct check_machine {
    const char *root;         /* in front of /proc, /dev ...: "" */
    const char *mount_socket; /* of vgpufs-mount, as on the daemon's command line; NULL: none */
    /*
     * Runs the executor's command line with --list, as that user (NULL: as this process's), and
     * appends what it prints. 0; or -1, and *out is why, in words.
     */
    int (*list)(const char *command, const struct user *user, struct text *out);
    bool is_root; /* so that it can run them as another user */
    /* Tells for each address whether a machine answers there; NULL entries are left out. */
    void (*reach)(const char *const *addresses, bool *answers, size_t count);
};

/* check_real_machine is this one. */
extern const struct check_machine check_real_machine;

/* check_run prints a line for each check and each finding; returns how many errors there are. */
unsigned check_run(const struct config *config, const struct check_machine *machine, FILE *out);

/* check_list and check_reach are those of check_real_machine, with limits of time. */
int check_list(const char *command, const struct user *user, struct text *out);
void check_reach(const char *const *addresses, bool *answers, size_t count);

#endif
