/*
 * Who makes a FUSE request: a local process, or an NFS server on behalf of a
 * guest. FUSE gives the thread's pid; the rest is in proc(5).
 *
 * Any kernel thread counts as the kernel's NFS server: nfsd's own threads, and
 * the workers that close files for it or serve a client on the same machine.
 * nfs-ganesha is known by its name, which is believed only of a process that is
 * root in every way, or any local user could take it. What cannot be read is
 * local. The answer decides how a request waits and how bytes become lines,
 * never what it may do: the uid that nfs-ganesha passes is no guest's.
 *
 * Thread-safe. Answers are kept for a second: a pid does not come round again in
 * that time.
 */
#ifndef VGPUFS_CALLER_H
#define VGPUFS_CALLER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum caller { CALLER_LOCAL, CALLER_KERNEL, CALLER_GANESHA };

struct callers;

/* callers_create: `proc` is where proc(5) is mounted. NULL with errno. */
struct callers *callers_create(const char *proc);
void callers_destroy(struct callers *callers); /* accepts NULL */
/* callers_find takes the time (us, monotonic) as an argument, for the tests' sake. */
enum caller callers_find(struct callers *callers, pid_t pid, uint64_t now_us);

/*
 * caller_looks_for_a_name: does a kernel thread that opens a directory with these flags look for
 * the name of one that it has a handle of (get_name in Linux' fs/exportfs/expfs.c), and not list it
 * for a client? nfsd opens all that a client wants with O_LARGEFILE (__nfsd_open in fs/nfsd/vfs.c).
 */
bool caller_looks_for_a_name(int flags);

#endif
