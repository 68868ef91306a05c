/* Facts about processes, from /proc. Thread-safe. */
#ifndef VGPUFS_PROCESS_H
#define VGPUFS_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/*
 * process_start_time returns field 22 of /proc/PID/stat (proc(5): start time in clock ticks after
 * boot), which tells a process from a later one of the same pid; 0 if there is no such process, or
 * only its zombie.
 */
uint64_t process_start_time(pid_t pid);

/* process_descriptor returns a pidfd, or -1: before Linux 5.3 there are none. */
int process_descriptor(pid_t pid);
/* process_kill sends SIGKILL to the process of a pidfd, and never to a later one of its pid. */
void process_kill(int descriptor);

/* thread_name names the calling thread, for top(1), gdb(1) and their like: "room which". */
void thread_name(const char *room, const char *which);

#endif
