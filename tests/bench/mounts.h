/*
 * The daemons that are measured, each on a mount of its own in the run's
 * folder, and the calls that a client makes there.
 *
 * mount_start waits until the mount answers; mount_stop ends the daemon and
 * waits for it. The calls are thread-safe and end the program if they fail.
 */
#ifndef BENCH_MOUNTS_H
#define BENCH_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct mount {
    pid_t pid;
    char name[32];
    char folder[300]; /* where it is mounted */
};

/*
 * mount_start_vgpufs starts the daemon. `settings` are lines of [vgpufs], `sections` all that
 * follows; each may be "". Every limit of a queue is a million, unless `sections` says otherwise.
 */
void mount_start_vgpufs(struct mount *mount, const char *name, const char *settings,
                        const char *sections);
/* mount_start_floor starts the filesystem that does nothing, with `vms` directories. */
void mount_start_floor(struct mount *mount, const char *name, unsigned vms);
void mount_start_bindfs(struct mount *mount, const char *name, const char *source);
void mount_stop(struct mount *mount);
/* mounts_remove_left unmounts what is mounted right below the folder. */
void mounts_remove_left(const char *folder);
/* mounts_stop_all: before the program gives up. */
void mounts_stop_all(void);

/* program_start starts a program with its output in the run's folder; program_run waits for it. */
pid_t program_start(const char *const *words);
int program_run(const char *const *words);
bool program_exists(const char *name);

int file_open(const char *path, int flags);
void file_write(int file, const void *bytes, size_t size);
/* file_put: open, write, close. */
void file_put(const char *path, const void *bytes, size_t size);
void file_puts(const char *path, const char *text);
/* file_get: open, read to the end, close. Returns how much; the first `room` bytes are in `buffer`,
 * with a 0 behind them. */
size_t file_get(const char *path, char *buffer, size_t room);

/* The clients of one mount. */
const char *mount_path(const struct mount *mount, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* mount_submit_and_read: the six calls of one job. */
void mount_submit_and_read(const struct mount *mount, unsigned vm, const char *line);
/* mount_submit_many writes `count` lines in writes of 10,000. */
void mount_submit_many(const struct mount *mount, unsigned vm, const char *line, size_t count);
void mount_ctl(const struct mount *mount, const char *line);
/* mount_wait_newest waits until the VM's newest job has ended. */
void mount_wait_newest(const struct mount *mount, unsigned vm);
/* mount_counter reads `key=NUMBER` of the line of `stats` that begins with `line`. */
double mount_counter(const struct mount *mount, const char *line, const char *key);

/* process_wait_rest waits until the process computes nothing more. Returns when that was, as
 * bench_now_us does, to some 20 ms. */
double process_wait_rest(pid_t pid);
/* process_memory_kib: VmRSS; process_switches: how often its threads have slept, in all. */
double process_memory_kib(pid_t pid);
double process_switches(pid_t pid);
unsigned process_threads(pid_t pid);

#endif
