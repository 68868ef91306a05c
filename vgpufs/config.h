/*
 * The configuration: /etc/vgpufs/vgpufs.conf as a struct. vgpufs.conf(5) is
 * generated from the same table that checks it.
 *
 * A struct config is built by one thread and read-only after that.
 */
#ifndef VGPUFS_CONFIG_H
#define VGPUFS_CONFIG_H

#include "common/log.h"
#include "common/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define CONFIG_DEFAULT_FILE "/etc/vgpufs/vgpufs.conf"
#define CONFIG_MAX_VM_ID    65535
#define CONFIG_MAX_POOLS    64 /* a VM's allowed pools are a bit set */
#define CONFIG_POOL_NAME    32 /* bytes, NUL included */
/* What a pool's name consists of; it begins with a capital letter. */
#define CONFIG_POOL_NAME_BYTES "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

enum config_durability { DURABILITY_SYNC, DURABILITY_GROUP, DURABILITY_NONE };
enum config_on_restart { ON_RESTART_RERUN, ON_RESTART_FAIL };
enum config_order { ORDER_FIFO, ORDER_FAIR };

/* The keys of [defaults] and [vm N]. */
struct config_vm {
    unsigned id;
    int fixed_pool;         /* index into config.pools, or -1: the VM may claim one */
    int fixed_priority;     /* 0..2, or -1 */
    uint64_t allowed_pools; /* bit i: config.pools[i] may be claimed */
    unsigned max_priority;  /* 0..2 */
    bool identity_required;
    uid_t uid;
    char *address;                              /* NULL: none */
    uint64_t max_queued, max_jobs, max_running; /* max_running 0: as many as the pool has slots */
    unsigned device_share_percent;              /* 1..100 */
    uint64_t max_crashes;                       /* 0: never held */
    uint64_t data_quota_bytes, max_data_files, max_data_open;
    uint64_t max_open, max_open_bytes, max_waiting;
    uint64_t retain_jobs, retain_for_ms;
};

struct config_pool {
    char name[CONFIG_POOL_NAME];
    char *backend; /* auto, cpu, cuda */
    char *device;
    unsigned slots;
    char *executor; /* a command line; words split at blanks, quotes as in a shell */
    enum config_order order;
    uint64_t max_wait_ms; /* 0: strict priority */
    uint64_t max_queued, max_run_ms, max_result_bytes;
    bool scrub;                   /* a job's device memory is cleared */
    bool sandbox;                 /* executors are under the system-call filter */
    uint64_t host_memory_bytes;   /* of an executor; 0: no bound */
    uint64_t max_processes;       /* of an executor; 0: no bound */
    uint64_t device_memory_bytes; /* 0: all that the device has */
    unsigned mps_percent;         /* 0: as the MPS server says */
};

/* Which line set which key: private to config.c, kept for the messages of a refused reload. */
struct config_source;

struct config {
    char *file; /* where it was read from; absolute, so that SIGHUP finds it after chdir("/") */
    char *mountpoint, *state_dir; /* absolute */
    char *executor_user;          /* NULL: executors run as the daemon's */
    enum config_durability durability;
    uint64_t group_ms; /* with DURABILITY_GROUP */
    enum config_on_restart on_restart;
    uint64_t max_reruns; /* 0: no limit */
    uint64_t stop_timeout_ms, stats_log_interval_ms;
    enum log_level log_level;
    bool log_jobs;
    mode_t stats_mode;
    uint64_t nfs_hold_ms, nfs_threads, nfs_waiting_per_vm;
    uint64_t uid_base;
    struct config_pool *pools; /* A, B, then those that the file adds, in its order */
    size_t pool_count;
    struct config_vm *vms; /* by ascending id; [vm N] sections and `vms` together */
    size_t vm_count;
    struct config_source *source;
};

/*
 * config_load reads `path`. NULL on an error, and *error (to be text_finish()ed by the caller) is
 * one line: file:line, what is wrong, the nearest known name. `plain_user` sets the defaults that
 * hold without root (uid_base 0, every uid that of the caller).
 */
struct config *config_load(const char *path, bool plain_user, struct text *error);
/* config_parse is the same for a text in memory; `path` names it in messages and is the base of
 * relative paths. */
struct config *config_parse(const char *content, const char *path, bool plain_user,
                            struct text *error);
void config_destroy(struct config *config);

/*
 * config_set_mountpoint takes another one than the file's, relative to the working directory. -1
 * and *error in one line, if state_dir lies inside it.
 */
int config_set_mountpoint(struct config *config, const char *mountpoint, struct text *error);

/* config_find_vm returns NULL if there is no such VM. */
const struct config_vm *config_find_vm(const struct config *config, unsigned id);
/* config_find_pool returns its index, or -1. */
int config_find_pool(const struct config *config, const char *name);

/*
 * config_reload_refused returns false if a running daemon may go from `old` to `new`. Else true,
 * and *error says in one line which key cannot change while it runs.
 */
bool config_reload_refused(const struct config *old, const struct config *new, struct text *error);

/*
 * config_split_command splits an executor's command line into words as a shell would, without
 * expansions: 'literal', "with \" and \\", \x. Returns a NULL-terminated array that is one
 * allocation (free() it), or NULL and *error says why.
 */
char **config_split_command(const char *command, const char **error);

/* What the table knows, for `vgpufs --help-config` and for the man page. */
void config_print_help(FILE *out);
void config_print_mdoc(FILE *out);

#endif
