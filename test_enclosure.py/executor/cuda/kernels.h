/*
 * What the kernels and those who launch them must agree on: names, shapes,
 * structs. Read by C (the executor) and by C++ (nvcc, and the tests' g++).
 */
#ifndef VGPUFS_EXECUTOR_CUDA_KERNELS_H
#define VGPUFS_EXECUTOR_CUDA_KERNELS_H

#include "executor/cuda/kernels_numeric.h"

#include <stdint.h>

/* Threads of a block of the kernels that walk over arrays. */
#define ARRAY_THREADS 256

/* Elements of one result: the parts of stream.h. */
#define PART_ELEMENTS 16384
/*
 * A block of the kernels that have a result for each part. sum_*, dot_* and extreme_* give each
 * part SUM_LANES threads, the others all of the block: these are the lanes in which the cpu adds
 * up, so that sums have the same digits.
 */
#define PART_THREADS 64
#define SUM_LANES    16
#define SCAN_THREADS 256

/* verify_*: of a part of an array whose elements were computed one by one. */
struct verify_result {
    double sum;           /* of the elements */
    double max_abs_error; /* of those that could be finite in their type */
    uint64_t wrong;       /* how many are off by more than rounding can explain */
};

/* sum_*, dot_*, extreme_* and their references: of a part. */
struct sum_result {
    double value;           /* the sum, or the extreme */
    double reference, lost; /* of a sum, with more digits: reference + lost */
    double absolute;        /* sum of the absolute values */
    uint64_t wrong;         /* an extreme that is not one */
};

/* scan_*: of a part. */
struct scan_result {
    double sum, reference, lost, absolute; /* as above */
    double before, reference_before, lost_before, absolute_before;
    double last, max_abs_error;
    uint64_t wrong;
};

/* histogram_*: what is in no bin. */
enum histogram_outside { HISTOGRAM_BELOW, HISTOGRAM_ABOVE, HISTOGRAM_NAN, HISTOGRAM_OUTSIDE };
#define HISTOGRAM_MAX_BINS 4096

/* transpose_*: one block for each tile. */
#define TRANSPOSE_SIDE    32
#define TRANSPOSE_THREADS 256

/* multiply_*: one block for each tile of C. A large tile reads less, a small one keeps more
 * multiprocessors busy. */
#define MULTIPLY_THREADS    256
#define MULTIPLY_LARGE_SIDE 128
#define MULTIPLY_SMALL_SIDE 64

/* Names of the kernels in the module. ENTRY(kernel). */
#define FOR_EACH_KERNEL(ENTRY)                                                                     \
    ENTRY(clear)                                                                                   \
    ENTRY(fill_f32)                                                                                \
    ENTRY(fill_f64)                                                                                \
    ENTRY(add_f32)                                                                                 \
    ENTRY(add_f64)                                                                                 \
    ENTRY(verify_f32)                                                                              \
    ENTRY(verify_f64)                                                                              \
    ENTRY(saxpy_f32)                                                                               \
    ENTRY(saxpy_f64)                                                                               \
    ENTRY(verify_saxpy_f32)                                                                        \
    ENTRY(verify_saxpy_f64)                                                                        \
    ENTRY(sum_f32)                                                                                 \
    ENTRY(sum_f64)                                                                                 \
    ENTRY(sum_reference_f32)                                                                       \
    ENTRY(sum_reference_f64)                                                                       \
    ENTRY(dot_f32)                                                                                 \
    ENTRY(dot_f64)                                                                                 \
    ENTRY(dot_reference_f32)                                                                       \
    ENTRY(dot_reference_f64)                                                                       \
    ENTRY(extreme_f32)                                                                             \
    ENTRY(extreme_f64)                                                                             \
    ENTRY(extreme_reference_f32)                                                                   \
    ENTRY(extreme_reference_f64)                                                                   \
    ENTRY(scan_sum_f32)                                                                            \
    ENTRY(scan_sum_f64)                                                                            \
    ENTRY(scan_f32)                                                                                \
    ENTRY(scan_f64)                                                                                \
    ENTRY(verify_scan_f32)                                                                         \
    ENTRY(verify_scan_f64)                                                                         \
    ENTRY(histogram_f32)                                                                           \
    ENTRY(histogram_f64)                                                                           \
    ENTRY(histogram_reference_f32)                                                                 \
    ENTRY(histogram_reference_f64)                                                                 \
    ENTRY(transpose_f32)                                                                           \
    ENTRY(transpose_f64)                                                                           \
    ENTRY(verify_transpose_f32)                                                                    \
    ENTRY(verify_transpose_f64)                                                                    \
    ENTRY(checksum_f32)                                                                            \
    ENTRY(checksum_f64)                                                                            \
    ENTRY(count_points)                                                                            \
    ENTRY(multiply_f32)                                                                            \
    ENTRY(multiply_f32_small)                                                                      \
    ENTRY(multiply_f64)                                                                            \
    FOR_EACH_NUMERIC_KERNEL(ENTRY)

#define KERNEL_ENUM(name) KERNEL_##name,
enum kernel_name { FOR_EACH_KERNEL(KERNEL_ENUM) KERNEL_COUNT };
#undef KERNEL_ENUM

#endif
