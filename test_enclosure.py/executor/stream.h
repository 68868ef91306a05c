/*
 * Work on arrays of any size in little memory: chunk after chunk is read or made up, computed in
 * parts by all processors, and written. Where one part ends and the next begins depends on nothing
 * but the index, and what parts have found is put together in their order: the result does not
 * depend on how many processors there are.
 *
 * For the executor's one thread; `work` is called in several.
 */
#ifndef VGPUFS_EXECUTOR_STREAM_H
#define VGPUFS_EXECUTOR_STREAM_H

#include "array.h"

/* Three arrays' parts of f64 stay in the second-level cache while they are used. */
#define STREAM_PART       ((size_t)16384)
#define STREAM_MAX_ARRAYS 6
#define STREAM_MAX_PHASES 2
/* On the cpu parts are that much longer than they must be, and the rest of an input is zero. */
#define STREAM_LANES ((size_t)64)

struct stream_part {
    uint64_t first;
    size_t count, padded; /* elements; padded: the next multiple of STREAM_LANES */
    void *arrays[STREAM_MAX_ARRAYS];
    void *result; /* of `result_bytes`, zero before the first phase */
};

struct device_chunk; /* cuda/device_stream.h */

struct stream_phase {
    void (*work)(const void *context, const struct stream_part *part);
    /* In the order of the parts, after all parts of a chunk have been worked on. On a device a part
     * has no arrays. -1: see job_end. */
    int (*fold)(struct job *job, void *context, const struct stream_part *part);
    /* What `work` is on a device: gives the chunk's lane its kernels. NULL: there is none. */
    int (*launch)(struct job *job, const void *context, const struct device_chunk *chunk);
};

struct stream {
    /* Of the file parameters: inputs first, then outputs, which are written where they were given.
     */
    const char *names[STREAM_MAX_ARRAYS];
    size_t input_count, array_count;
    const struct element_type *type;
    size_t result_bytes;
    size_t chunk_parts; /* between two looks at the clock; 0: as many as is good for a few
                           operations */
    bool chunk_result;  /* on a device all parts of a chunk have one result together */
    void *context;
    /* Inputs that were not given are made up: with array_fill of these keys and so many bits, or
     * by `fill`, which is called before the first phase's work. */
    const uint64_t *keys;
    unsigned bits;
    void (*fill)(const void *context, const struct stream_part *part);
    /* Before the first phase, all of a chunk as one part, by the executor's own thread: for what a
     * device computes. It counts its own times. -1: see job_end. NULL: nothing. */
    int (*whole)(struct job *job, void *context, const struct stream_part *chunk);
    struct stream_phase phases[STREAM_MAX_PHASES]; /* the second may be empty */
};

/* A runner reserves room for the outputs and works through `count` elements. -1: see job_end. */
typedef int stream_runner(struct job *job, const struct stream *stream, uint64_t count);

/* stream_run is the cpu's; the device's is device_stream_run. */
stream_runner stream_run;

/* stream_reserve is a runner's first step. */
int stream_reserve(struct job *job, const struct stream *stream, uint64_t count);

#endif
