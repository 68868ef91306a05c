/*
 * What holds an executor and all that it starts: bounds on memory and processes,
 * and the means to find whatever it leaves behind.
 *
 * Where the service manager has delegated a cgroup (version 2) to the daemon,
 * each slot has one of its own in it: its bounds hold for all processes
 * together, and cgroup.kill reaches every one. Elsewhere memory is bounded for
 * each process by itself (RLIMIT_DATA), and what is left behind is known by a
 * variable of its environment, which a process can hide if it wants to.
 *
 * Thread-safe, for different slots; one slot's belongs to its pool's thread.
 */
#ifndef VGPUFS_ENCLOSURE_H
#define VGPUFS_ENCLOSURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct enclosures;

/* The bounds of one executor; 0: none. */
struct enclosure_limits {
    uint64_t memory_bytes, processes;
};

/* What a child needs to enter, made before it. */
struct enclosure {
    char mark[96];         /* NAME=VALUE, for its environment */
    int procs;             /* of its cgroup, to write to; -1: there is none */
    bool required;         /* it must not run without the cgroup */
    uint64_t memory_bytes; /* to be bounded by RLIMIT_DATA; 0: not */
};

/*
 * enclosures_create finds out what there is, moves this process and its helper (0: none) into a
 * cgroup beside the slots' where it must, and kills what earlier daemons on the same state_dir have
 * left behind. NULL without memory.
 */
struct enclosures *enclosures_create(const char *state_dir, pid_t helper);
void enclosures_destroy(struct enclosures *enclosures); /* accepts NULL */
/* enclosures_require: executors run in cgroups, which can be killed whatever their users are
 * (cgroup.kill, since Linux 5.14), or not at all. -1 if there are none. */
int enclosures_require(struct enclosures *enclosures);

/* enclosure_open prepares a slot for its next executor; enclosure_close gives back what it took. */
void enclosure_open(struct enclosures *enclosures, const char *slot,
                    const struct enclosure_limits *limits, struct enclosure *enclosure);
void enclosure_close(struct enclosure *enclosure);
/* enclosure_take puts a process into its cgroup, whose bounds then hold for it. -1 with errno. */
int enclosure_take(const struct enclosure *enclosure, pid_t pid);
/* enclosure_enter sets, for the calling process, the bounds that need no cgroup. Only
 * async-signal-safe calls. */
void enclosure_enter(uint64_t memory_bytes);
/* enclosure_kill kills all that is in the slot's cgroup, if it has one. Accepts NULL. */
void enclosure_kill(struct enclosures *enclosures, const char *slot);
/* enclosure_clear kills all that the slot's executors have left behind. */
void enclosure_clear(struct enclosures *enclosures, const char *slot);
/* enclosure_ooms: how often the kernel has killed in the slot's cgroup for want of memory. */
uint64_t enclosure_ooms(struct enclosures *enclosures, const char *slot);

/* The cgroup of the process that /proc/self/cgroup and mountinfo (their texts) describe, in
 * path[size]; -1: none of version 2. */
int enclosure_find_cgroup(const char *cgroups, const char *mounts, char *path, unsigned size);
/* enclosures_create_in is enclosures_create in that cgroup, "" for none, whoever it was given to;
 * the process is not moved. */
struct enclosures *enclosures_create_in(const char *state_dir, const char *cgroup);

#endif
