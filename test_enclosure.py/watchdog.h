/*
 * The service manager's watchdog: fed only while every loop of the daemon
 * answers (sd_watchdog_enabled(3)). What the manager is told otherwise goes
 * through here too. The main thread's, whose own loop is watched by that.
 */
#ifndef VGPUFS_WATCHDOG_H
#define VGPUFS_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

struct server;

struct watchdog {
    uint64_t interval_us, due_us; /* between looks; UINT64_MAX: nobody watches */
    bool asked;                   /* the loops, at the last look */
    const char *silent;           /* who did not answer then; NULL: all did */
};

/* watchdog_start reads what the manager wants. It is fed for the first time at the next tick. */
void watchdog_start(struct watchdog *watchdog);
/* watchdog_tick is to be called at `due_us` or later: it feeds if all have answered, and asks. */
void watchdog_tick(struct watchdog *watchdog, struct server *server);

/* manager_tell sends lines as sd_notify(3) takes them; nothing where there is no manager. */
void manager_tell(const char *lines);

#endif
