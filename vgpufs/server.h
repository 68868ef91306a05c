/*
 * The daemon as a whole: what its rooms share.
 *
 * Lock order, outermost first: a VM's `nfs_lines.lock`, its `lock`, a pool's `lock`, a VM's
 * `data.lock`, the state's. libfuse's own locks may be taken (by replying, or by
 * setting an interrupt callback) under a VM's lock, and the interrupt callback,
 * which runs under them, takes none of ours. Two VMs or two pools are never
 * locked at once.
 */
#ifndef VGPUFS_SERVER_H
#define VGPUFS_SERVER_H

#include "command.h"
#include "config.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "spawner.h"
#include "state.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct callers;
struct fuse_session;
struct nfs_wait;
struct notifier;
struct pool;
struct running;
struct session_options;
struct vm;

struct server {
    const struct config *config; /* the one it was started with: pools never change after that */
    struct catalogue catalogue;
    struct state *state;
    struct running *running;
    struct enclosures *enclosures;
    struct spawner *spawner;
    struct pool *pools;
    size_t pool_count;
    _Atomic(struct vm *) vms; /* by ascending id; only the main thread adds, none is removed */
    _Atomic(struct vm *) *vm_by_id; /* CONFIG_MAX_VM_ID + 1 of them */
    struct fuse_session *session;
    struct notifier *notifier;
    struct callers *callers;
    struct nfs_wait *nfs;
    struct nfs_lines nfs_lines; /* of the root's ctl; VMs have their own */
    struct nfs_views nfs_views; /* of the root's files */
    atomic_bool serving;        /* mounted: before that the start tells its own errors */
    atomic_bool stopping;       /* and draining */
    atomic_bool draining;       /* no submission is accepted */
    atomic_bool log_jobs;
    _Atomic mode_t stats_mode;
    uid_t root_uid; /* owner of the root and of the administrator's files */
    gid_t root_gid;
    atomic_bool closing; /* nobody may begin to wait */
    atomic_bool leaving; /* the next daemon goes on with what runs here, and with who waits */
    _Atomic(enum config_on_restart) on_restart;
    _Atomic uint64_t max_reruns; /* 0: no limit */
    uint64_t started_us, stop_timeout_ms;
    struct timespec started; /* times of what never changes */
};

/*
 * server_start opens the state, makes VMs and pools, starts the executors and mounts. -1, and
 * *error in one line. What it took, the spawner too, is given back by server_stop in either case.
 */
int server_start(struct server *server, const struct config *config,
                 const struct session_options *options, struct spawner *spawner,
                 struct text *error);
/* server_restore is the part of it that needs no mount and no executor: VMs and pools with all that
 * the state had, and nothing that runs. For tests; server_stop ends it too. */
int server_restore(struct server *server, const struct config *config, struct text *error);
/*
 * server_stop ends all in order: running jobs get stop_timeout (or less: until `signals` can be
 * read), then the mount and the executors go. What is queued stays in the state. A mount of
 * vgpufs-mount stays, and who waits in it goes on waiting, for the next daemon.
 */
void server_stop(struct server *server, int signals);
/* server_reload takes a new configuration for VMs and pools; refused changes are logged. The
 * caller keeps `config`. */
void server_reload(struct server *server, const struct config *config);
/* server_expire forgets old results. */
void server_expire(struct server *server);

/* server_find_vm returns NULL if there is no such VM. */
struct vm *server_find_vm(struct server *server, unsigned id);
/* server_vm_of returns a VM that has this uid, or NULL: it is the administrator's, or no VM's. */
struct vm *server_vm_of(struct server *server, uid_t uid);
/* server_find_pool returns NULL if there is no such pool. */
struct pool *server_find_pool(struct server *server, const char *name);

#endif
