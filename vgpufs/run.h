/*
 * One job on one slot: its files, its output, its time limit.
 *
 * Not thread-safe: it belongs to whoever starts the job until it is sent, then
 * the pool's lock guards it, then to whoever ends it.
 */
#ifndef VGPUFS_RUN_H
#define VGPUFS_RUN_H

#include "command.h"
#include "common/frame.h"
#include "job.h"

#include <stdbool.h>
#include <stdint.h>

struct data_file;

struct run_file {
    const struct workload_param *param;
    struct data_file *file;
    int descriptor;
    char *install_as; /* an output's name; NULL for an input */
};

struct run {
    struct job *job;
    uint64_t attempt; /* never the same twice in a pool; 0: there is no job */
    struct run_file files[FRAME_MAX_DESCRIPTORS];
    size_t file_count;
    struct text output;
    uint64_t max_output_bytes;
    bool truncated;
    bool preparing; /* not sent yet */
    bool cancelled;
    const char *cancel_error;    /* NULL or static */
    uint64_t limit_ms, limit_us; /* the time limit, and when it passes */
    uint64_t kill_us;            /* when a cancelled job's executor is killed; UINT64_MAX: never */
};

/*
 * run_prepare opens the job's files and appends its JOB frame to `frame`. -1 and `error`
 * (COMMAND_MAX_ERROR bytes) in words if the job must fail.
 */
int run_prepare(struct run *run, const struct catalogue *catalogue, struct text *frame,
                char *error);
/* run_descriptors fills in what goes with the frame, and returns how many. */
size_t run_descriptors(const struct run *run, int *descriptors);

/* run_output takes a piece of the job's output; what is beyond the limit is dropped. */
void run_output(struct run *run, const void *bytes, size_t size);
/* run_reserve makes room for an output file: 0 or an errno. */
int run_reserve(struct run *run, const char *param, uint64_t bytes);

bool run_has_output(const struct run *run);
/* run_sync waits until the outputs' bytes are on disk. -1 and `error` in words if they cannot be.
 */
int run_sync(const struct run *run, char *error);
/*
 * run_install gives the outputs their names. Returns -1 and `error` in words if one is larger than
 * what was reserved, or cannot be installed.
 */
int run_install(struct run *run, char *error);
/* run_finish closes the files, drops outputs that have no name, and the job's reference. */
void run_finish(struct run *run);

#endif
