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

/* transfer reads into `data`, or writes what is there. */
static int transfer(const struct job *job, const char *name, void *data, size_t size,
                    uint64_t offset, bool writing, struct job_failure *failure)
{
    int file = job_descriptor(job, name);
    char *at = data;
    size_t done = 0;
    while (done < size) {
        off_t place = (off_t)(offset + done);
        ssize_t piece = writing ? pwrite(file, at + done, size - done, place)
                                : pread(file, at + done, size - done, place);
        if (piece < 0 && errno == EINTR)
            continue;
        if (piece < 0 || (piece == 0 && !writing)) {
            *failure = (struct job_failure){name, writing, piece < 0 ? errno : 0, offset + done};
            return -1;
        }
        done += (size_t)piece;
    }
    return 0;
}

int job_try_read(const struct job *job, const char *name, void *data, size_t size, uint64_t offset,
                 struct job_failure *failure)
{
    return transfer(job, name, data, size, offset, false, failure);
}

int job_try_write(const struct job *job, const char *name, const void *data, size_t size,
                  uint64_t offset, struct job_failure *failure)
{
    return transfer(job, name, (void *)(uintptr_t)data, size, offset, true, failure);
}

void job_fail_transfer(struct job *job, const struct job_failure *failure)
{
    const char *name = failure->name, *value = job_text(job, name);
    if (failure->error)
        job_fail(job, "%s=%s: %s at byte %" PRIu64 ": %s", name, value,
                 failure->writing ? "writing" : "reading", failure->at, strerror(failure->error));
    else
        job_fail(job, "%s=%s ends at byte %" PRIu64 ": it was truncated while the job ran", name,
                 value, failure->at);
}

int job_read(struct job *job, const char *name, void *data, size_t size, uint64_t offset)
{
    struct job_failure failure;
    uint64_t start = job_clock_ns();
    int result = job_try_read(job, name, data, size, offset, &failure);
    if (result < 0)
        job_fail_transfer(job, &failure);
    job->copy_ns += job_clock_ns() - start;
    return result;
}

int job_write(struct job *job, const char *name, const void *data, size_t size, uint64_t offset)
{
    struct job_failure failure;
    uint64_t start = job_clock_ns();
    int result = job_try_write(job, name, data, size, offset, &failure);
    if (result < 0)
        job_fail_transfer(job, &failure);
    job->copy_ns += job_clock_ns() - start;
    return result;
}
