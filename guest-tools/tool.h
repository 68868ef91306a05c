/*
 * What the guest tools share: messages, bounded numbers, and the reading and
 * writing of small files on the mount. libc only, so that a tool can be linked
 * statically and copied into any guest.
 *
 * Not thread-safe: each tool has one thread. Times are in ms of a clock that
 * never goes back.
 */
#ifndef VGPUFS_GUEST_TOOL_H
#define VGPUFS_GUEST_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TOOL_DEFAULT_MOUNT "/mnt/vgpu"
#define TOOL_MAX_VM_ID     65535u

/* `program` begins each message and must stay valid. */
void tool_init(const char *program);
/*
 * tool_error writes "program: message" as one line to standard error. Control characters, which
 * may come from the mount, become '?'.
 */
void tool_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* tool_bad_option reports what getopt_long(3) has just answered '?' or ':' for. */
void tool_bad_option(int answer, char *const *arguments);

/* The whole string is a decimal number in [min, max]: 0 and *value, or -1. */
int tool_number(const char *string, uint32_t min, uint32_t max, uint32_t *value);
/* The same for seconds, with at most three decimals ("0.5"), up to a year: 0 and *ms, or -1. */
int tool_seconds(const char *string, int64_t *ms);
/* tool_is_vm_id tells if the whole string is a VM's number: no leading zero, no sign. */
bool tool_is_vm_id(const char *string, uint32_t *vm_id);

int64_t tool_now_ms(void);
/* tool_sleep_ms returns early when a signal was caught. */
void tool_sleep_ms(int64_t ms);

/* tool_path prints into path[size]: 0, or -1 with errno ENAMETOOLONG. */
int tool_path(char *path, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/*
 * tool_read_file reads at most size - 1 bytes and ends them with a NUL. Returns their number (a
 * NUL in the file ends them early), or -1 with errno.
 */
ssize_t tool_read_file(const char *path, char *buffer, size_t size);

enum tool_step { TOOL_OPEN, TOOL_WRITE };
/*
 * tool_write_file gives an existing file new content with one write. NFS reports a refusal when
 * the file is closed, so that counts as writing. Returns 0, or -1 with errno and *step.
 */
int tool_write_file(const char *path, const char *content, size_t size, enum tool_step *step);

/* tool_is_outage: the daemon or its server is away; it may come back, and the job with it. */
bool tool_is_outage(int error);

#endif
