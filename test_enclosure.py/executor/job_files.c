#include "job.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* job_descriptor returns the open file of a file parameter that was given. */
static int job_descriptor(const struct job *job, const char *name)
{
    const struct workload_param *param = workload_find_param(job->info, name);
    if (!param)
        abort(); /* a mistake in the workload */
    return job->values[param - job->info->params].descriptor;
}

int job_file_size(struct job *job, const char *name, uint64_t *bytes)
{
    struct stat status;
    if (fstat(job_descriptor(job, name), &status) < 0) {
        job_fail(job, "%s=%s: %s", name, job_text(job, name), strerror(errno));
        return -1;
    }
    *bytes = (uint64_t)status.st_size;
    return 0;
}

/* job_await_reserved waits for the daemon's answer; -1 and the job has failed or stops. */
static int job_await_reserved(struct job *job, const char *name)
{
    struct frame frame;
    while (channel_receive(job->channel, &frame, -1) > 0) {
        if (frame.attempt != job->attempt)
            continue;
        if (frame.type == FRAME_CANCEL)
            break;
        if (frame.type != FRAME_RESERVED)
            continue;
        const char *error = frame_get(&frame, "error");
        if (error)
            job_fail(job, "%s=%s: %s", name, job_text(job, name), error);
        return error ? -1 : 0;
    }
    job->stopped = true;
    return -1;
}

int job_reserve(struct job *job, const char *name, uint64_t bytes)
{
    struct frame_builder builder = frame_begin(&job->frames, FRAME_RESERVE, job->attempt);
    frame_field(&builder, "param", "%s", name);
    frame_field(&builder, "bytes", "%" PRIu64, bytes);
    frame_end(&builder, NULL, 0);
    if (channel_send(job->channel, &job->frames) < 0) {
        job->stopped = true;
        return -1;
    }
    return job_await_reserved(job, name);
}

int job_read(struct job *job, const char *name, void *data, size_t size, uint64_t offset)
{
    uint64_t start = job_clock_ns();
    int file = job_descriptor(job, name);
    char *to = data;
    size_t got = 0;
    while (got < size) {
        ssize_t piece = pread(file, to + got, size - got, (off_t)(offset + got));
        if (piece < 0 && errno == EINTR)
            continue;
        if (piece < 0)
            job_fail(job, "%s=%s: reading at byte %" PRIu64 ": %s", name, job_text(job, name),
                     offset + got, strerror(errno));
        if (piece == 0)
            job_fail(job, "%s=%s ends at byte %" PRIu64 ": it was truncated while the job ran",
                     name, job_text(job, name), offset + got);
        if (piece <= 0)
            return -1;
        got += (size_t)piece;
    }
    job->copy_ns += job_clock_ns() - start;
    return 0;
}

int job_write(struct job *job, const char *name, const void *data, size_t size, uint64_t offset)
{
    uint64_t start = job_clock_ns();
    int file = job_descriptor(job, name);
    const char *from = data;
    size_t put = 0;
    while (put < size) {
        ssize_t piece = pwrite(file, from + put, size - put, (off_t)(offset + put));
        if (piece < 0 && errno == EINTR)
            continue;
        if (piece < 0) {
            job_fail(job, "%s=%s: writing at byte %" PRIu64 ": %s", name, job_text(job, name),
                     offset + put, strerror(errno));
            return -1;
        }
        put += (size_t)piece;
    }
    job->copy_ns += job_clock_ns() - start;
    return 0;
}
