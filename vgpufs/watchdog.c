#include "watchdog.h"

#include "clock.h"
#include "common/log.h"
#include "nfs_wait.h"
#include "parked.h"
#include "pool.h"
#include "server.h"
#include "session.h"
#include "spawner.h"
#include "vm.h"

#include <inttypes.h>
#include <stdio.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

/* So many looks in the time after which the manager acts: one that comes late does no harm. */
#define LOOKS 4

void manager_tell(const char *lines)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, lines);
#else
    (void)lines;
#endif
}

void watchdog_start(struct watchdog *watchdog)
{
    *watchdog = (struct watchdog){.due_us = UINT64_MAX};
#ifdef HAVE_SYSTEMD
    uint64_t us;
    if (sd_watchdog_enabled(0, &us) > 0) {
        watchdog->interval_us = us < LOOKS ? 1 : us / LOOKS;
        watchdog->due_us = clock_now_us();
    }
#endif
}

static void ask_all(struct server *server)
{
    spawner_ask(server->spawner);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_ask(&server->pools[i]);
    state_ask(server->state);
    notifier_ask(server->notifier);
    nfs_wait_ask(server->nfs);
    session_ask();
}

/* silent_one names a loop that has not answered; NULL: there is none. */
static const char *silent_one(const struct server *server)
{
    if (spawner_is_silent(server->spawner)) /* before the pools, which wait for it */
        return "what starts executors";
    for (size_t i = 0; i < server->pool_count; i++)
        if (pool_is_silent(&server->pools[i]))
            return server->pools[i].name;
    return state_is_silent(server->state)         ? "the journal"
           : notifier_is_silent(server->notifier) ? "the thread that answers interrupts"
           : nfs_wait_is_silent(server->nfs)      ? "the thread that ends the waits of NFS servers"
           : session_is_silent()                  ? "a thread that serves the mount"
                                                  : NULL;
}

/* status_tell is what `systemctl status` shows. */
static void status_tell(const struct server *server, const char *silent)
{
    char line[160];
    uint64_t queued = 0, running = 0;
    for (const struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        queued += atomic_load(&vm->queued);
        running += atomic_load(&vm->running);
    }
    snprintf(line, sizeof(line), "STATUS=%" PRIu64 " jobs queued, %" PRIu64 " running%s%s", queued,
             running, silent ? "; no answer from: " : "", silent ? silent : "");
    manager_tell(line);
}

void watchdog_tick(struct watchdog *watchdog, struct server *server)
{
    const char *silent = watchdog->asked ? silent_one(server) : NULL;
    if (silent && silent != watchdog->silent)
        log_warning("watchdog: no answer from: %s", silent);
    watchdog->silent = silent;
    status_tell(server, silent);
    if (!silent) {
        manager_tell("WATCHDOG=1");
        ask_all(server);
        watchdog->asked = true;
    } else {
        /* The others' waking is not lost, and asking them takes locks that the silent one may hold
         * for ever. */
        session_ask();
    }
    watchdog->due_us = clock_now_us() + watchdog->interval_us;
}
