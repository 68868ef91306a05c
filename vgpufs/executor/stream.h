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
/* Parts are that much longer than they must be, and the rest of an input is zero. */
#define STREAM_LANES ((size_t)64)

struct stream_part {
    uint64_t first;
    size_t count, padded; /* elements; padded: the next multiple of STREAM_LANES */
    void *arrays[STREAM_MAX_ARRAYS];
    void *result; /* of `result_bytes`, zero before the first phase */
};

struct stream_phase {
    void (*work)(const void *context, const struct stream_part *part);
    /* In the order of the parts, after all parts of a chunk have been worked on. -1: see job_end.
     */
    int (*fold)(struct job *job, void *context, const struct stream_part *part);
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
    void *context;
    /* Instead of reading, where the files were not given. Called before the first phase's work. */
    void (*fill)(const void *context, const struct stream_part *part);
    struct stream_phase phases[STREAM_MAX_PHASES]; /* the second may be empty */
};

/* stream_run reserves room for the outputs and works through `count` elements. -1: see job_end. */
int stream_run(struct job *job, const struct stream *stream, uint64_t count);

#endif
