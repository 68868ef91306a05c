/*
 * What workloads on arrays of numbers share: the elements' types, their parameters, how many
 * elements the files hold, made-up elements, memory, and whole arrays from and to files.
 *
 * For the executor's one thread, except array_fill and array_get, which are thread-safe.
 */
#ifndef VGPUFS_EXECUTOR_ARRAY_H
#define VGPUFS_EXECUTOR_ARRAY_H

#include "job.h"

struct element_type {
    const char *name;
    size_t bytes;
    unsigned mantissa; /* binary digits */
    double roundoff;   /* half the epsilon: the relative error of one rounded operation */
    double smallest;   /* normal number */
    double largest;
};

/* array_type returns the type that dtype= names. */
const struct element_type *array_type(const struct job *job);

#define PARAM_DTYPE                                                                                \
    {                                                                                              \
        .name = "dtype", .type = PARAM_CHOICE, .choices = "f32|f64", .default_value = "f32",       \
        .help = "The elements' type, IEEE 754 binary32 or binary64."                               \
    }
#define PARAM_SEED                                                                                 \
    {                                                                                              \
        .name = "seed", .type = PARAM_UINT, .max = UINT64_MAX, .default_value = "1",               \
        .help = "Without files: which made-up numbers."                                            \
    }
#define PARAM_ELEMENTS(most)                                                                       \
    {                                                                                              \
        .name = "n", .type = PARAM_UINT, .min = 1, .max = (most), .default_value = "1048576",      \
        .help = "How many elements; with files, as many as they hold."                             \
    }

/*
 * array_count finds how many elements there are: from the named input files, which go together and
 * have one size, or from n= without them. -1 after job_fail.
 */
int array_count(struct job *job, const char *const *names, size_t name_count, uint64_t *count);

/* array_sum_bits: sums of that many made-up numbers of so many bits are exact in float64. */
unsigned array_sum_bits(const struct element_type *type, uint64_t count);

/* array_fill makes elements first … first + count - 1 of a stream of generate.h up, at `to`. */
void array_fill(const struct element_type *type, void *to, uint64_t key, uint64_t first,
                size_t count, unsigned bits);

double array_get(const struct element_type *type, const void *data, uint64_t index);

/* A job may have at most this much memory for its arrays. */
#define ARRAY_MAX_BYTES ((uint64_t)8 << 30)

/*
 * array_check_memory: 0 if a job may have that many bytes here and now; else -1 after job_fail with
 * `advice`, as in "take a smaller n=".
 */
int array_check_memory(struct job *job, uint64_t bytes, const char *advice);

/* array_allocate returns memory on a cache line's border, to be freed with free(), or NULL after
 * job_fail. */
void *array_allocate(struct job *job, uint64_t bytes, const char *advice);

/*
 * Whole arrays, in pieces between which the job can be cancelled; progress goes from `from` to
 * `to`. array_load takes the file, or made-up numbers where it was not given. -1: see job_end.
 */
struct array_span {
    const struct element_type *type;
    void *data;
    uint64_t count;
    double from, to;
};
int array_load(struct job *job, const char *name, const struct array_span *span, uint64_t key,
               unsigned bits);
int array_store(struct job *job, const char *name, const struct array_span *span);

/*
 * array_checksum adds all elements, always in the same order, each times 1 to 7 by its index: so
 * elements that changed places are noticed. Progress stays at `from`. -1: the job should stop.
 */
int array_checksum(struct job *job, const struct array_span *span, double *checksum);

#endif
