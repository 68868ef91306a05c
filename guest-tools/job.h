/*
 * One job as a directory of the mount, MOUNT/vmN/jobs/TAG. See vgpufs(7).
 *
 * Not thread-safe. What is read from the mount is bounded and not trusted.
 */
#ifndef VGPUFS_GUEST_JOB_H
#define VGPUFS_GUEST_JOB_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define JOB_TAG_SIZE     65   /* bytes of a tag, NUL included */
#define JOB_LINE_SIZE    4096 /* of a command line: 4095 bytes and a NUL, its newline not counted */
#define JOB_MESSAGE_SIZE (PATH_MAX + 1024)

struct job {
    char vm_directory[PATH_MAX];
    char directory[PATH_MAX];
    bool created; /* by job_submit, so that a failed submission takes it away again */
};

enum job_phase { JOB_PENDING, JOB_ENDED, JOB_REJECTED };

struct job_status {
    enum job_phase phase;
    char state[16];
    char error[512];   /* of a rejected line; may be "" */
    uint64_t position; /* in the queue, from 1; 0: unknown */
    bool held;         /* it is queued, and the host lets no job of the VM start */
    double progress;   /* 0..1, or negative: unknown */
};

/* What has been read of a result; all zero before the first call of job_fetch. */
struct job_result {
    char header[8192]; /* the first line, without its newline; "" until it is complete */
    off_t offset;      /* of the first byte that was not handed on yet */
};

enum job_fetch {
    JOB_FETCHED,       /* all of it */
    JOB_FETCH_FAILED,  /* errno; another call goes on where this one stopped */
    JOB_FETCH_CUT,     /* the result has no header, or fewer bytes than its header says */
    JOB_OUTPUT_FAILED, /* errno: the output could not be written */
};

/* A tag as a guest may choose it: [A-Za-z][A-Za-z0-9._-]{0,63} and not "all". */
bool job_tag_is_valid(const char *tag);
/* job_tag_make makes a tag that no other job has: 0, or -1 with errno. */
int job_tag_make(char tag[JOB_TAG_SIZE]);

/*
 * job_line_build makes the line from COMMAND and its key=value arguments, quoted where that is
 * needed: 0, or -1 and message[size] says what is wrong with them.
 */
int job_line_build(char line[JOB_LINE_SIZE], int count, char *const *arguments, char *message,
                   size_t size);

/* job_init: 0, or -1 if a path is too long. */
int job_init(struct job *job, const char *mount, uint32_t vm_id, const char *tag);
/*
 * job_submit makes the directory, if need be, and writes the line: 0, or -1 and message[size];
 * errno is EINTR if a signal was caught.
 */
int job_submit(struct job *job, const char *line, char *message, size_t size);
/*
 * job_poll reads the status: 0, or -1 with errno; ENOENT means that the job is gone, while a mount
 * that is away is ENOTCONN.
 */
int job_poll(const struct job *job, struct job_status *status);
/* job_fetch hands the bytes behind the header on to the descriptor `output`. */
enum job_fetch job_fetch(const struct job *job, struct job_result *result, int output);
/* job_remove forgets the job, and cancels it if it has not ended: 0, or -1 with errno. */
int job_remove(const struct job *job);

#endif
