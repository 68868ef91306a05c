/*
 * One attempt at one job, as its workload sees it: checked parameters, open data
 * files, a place for its output, and the question whether it should stop.
 *
 * A struct job belongs to the executor's one thread. It owns its files and texts,
 * and is used again for the next job: job_start clears, job_finish frees.
 */
#ifndef VGPUFS_EXECUTOR_JOB_H
#define VGPUFS_EXECUTOR_JOB_H

#include "channel.h"
#include "common/workload.h"

#include <stdint.h>

/* An error in words has at most this many bytes, NUL included. */
#define JOB_ERROR_SIZE 512

enum job_status { JOB_DONE, JOB_FAILED, JOB_CANCELLED };

struct job_value {
    const char *value; /* as given or the default; NULL if neither */
    bool given;
    int descriptor; /* of a file parameter; -1: none */
};

struct job {
    struct channel *channel;
    const struct workload_info *info;
    uint64_t attempt;
    struct job_value values[WORKLOAD_MAX_PARAMS]; /* in the order of info->params */
    struct text fields;                           /* the job's frame, which values point into */
    int descriptors[FRAME_MAX_DESCRIPTORS];
    size_t descriptor_count;
    struct text output; /* not sent yet */
    uint64_t output_left;
    struct text frames; /* being built */
    char error[JOB_ERROR_SIZE];
    const char *backend, *device; /* what it ran on, if not on the executor's own; else NULL */
    const char *fault;            /* what an error of the device's driver means; NULL: none was */
    bool stopped;                 /* cancelled, or the daemon is gone */
    uint64_t start_ns, next_progress_ns, next_poll_ns;
    /* For the workload to add to; job_read and job_write do. What is verified while something else
     * is computed counts for what it takes of the time. */
    uint64_t compute_ns, copy_ns, verify_ns;
};

/* For workloads: what the job was given. */
bool job_given(const struct job *job, const char *name);
const char *job_text(const struct job *job, const char *name);
/* job_uint and job_real are for parameters that have been checked and have a default. */
uint64_t job_uint(const struct job *job, const char *name);
double job_real(const struct job *job, const char *name);

/* job_fail sets the error that the guest will read, and returns JOB_FAILED. */
enum job_status job_fail(struct job *job, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* job_end is what a workload returns when a call below said -1: failed, or cancelled. */
enum job_status job_end(const struct job *job);

/* job_printf appends to the job's output; what is beyond the pool's max_result is dropped. */
void job_printf(struct job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* job_print_times ends a line of output with what computing and moving data took. */
void job_print_times(struct job *job);

/* real_text writes the shortest decimal that reads back as the same number, and returns `buffer`.
 */
#define REAL_TEXT_SIZE 32
const char *real_text(char buffer[REAL_TEXT_SIZE], double value);

/*
 * job_step is called between chunks of work: it tells the daemon how far the job is
 * (0..1), and returns -1 if the job should stop. It costs little more than a look at the clock.
 */
int job_step(struct job *job, double progress);
/* job_wait waits up to `ms`; -1 if the job should stop. */
int job_wait(struct job *job, uint64_t ms);
/* job_clock_ns is a monotonic clock. */
uint64_t job_clock_ns(void);
/* job_count_times: of work that took `took`, and on which threads spent so many nanoseconds, all of
 * them together. */
struct job_shares {
    uint64_t computed, verified, copied;
};
void job_count_times(struct job *job, uint64_t took, const struct job_shares *shares);

/* Data files (job_files.c). Each returns 0, or -1 and the job has failed or should stop. */
int job_file_size(struct job *job, const char *name, uint64_t *bytes);
/* job_reserve asks the daemon for that much room before the output file is written. */
int job_reserve(struct job *job, const char *name, uint64_t bytes);
int job_read(struct job *job, const char *name, void *data, size_t size, uint64_t offset);
int job_write(struct job *job, const char *name, const void *data, size_t size, uint64_t offset);

/*
 * The same in other threads than the job's, which has to tell the failure and to count the time
 * afterwards.
 */
struct job_failure {
    const char *name;
    bool writing;
    int error; /* 0: the file has ended */
    uint64_t at;
};
int job_try_read(const struct job *job, const char *name, void *data, size_t size, uint64_t offset,
                 struct job_failure *failure);
int job_try_write(const struct job *job, const char *name, const void *data, size_t size,
                  uint64_t offset, struct job_failure *failure);
void job_fail_transfer(struct job *job, const struct job_failure *failure);

/*
 * For the server: job_start clears, copies a FRAME_JOB with the descriptors that came
 * with it, and checks it; -1 with job->error if it cannot run. `find` looks workloads up.
 */
int job_start(struct job *job, struct channel *channel, const struct frame *frame,
              const struct workload_info *(*find)(const char *name));
/* job_answer closes the files and sends what is left of the output, and FRAME_DONE; `leaving` tells
 * the daemon to send this process nothing more. */
void job_answer(struct job *job, enum job_status status, bool leaving);
void job_finish(struct job *job);

#endif
