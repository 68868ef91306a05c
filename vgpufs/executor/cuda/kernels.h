/*
 * What the kernels and those who launch them must agree on: names, shapes,
 * structs. Read by C (the executor) and by C++ (nvcc, and the tests' g++).
 */
#ifndef VGPUFS_EXECUTOR_CUDA_KERNELS_H
#define VGPUFS_EXECUTOR_CUDA_KERNELS_H

/* Threads of a block of the kernels that walk over arrays. */
#define ARRAY_THREADS 256

/*
 * verify_*: one block for each VERIFY_BYTES of an array, one thread for each of its lanes. These
 * are the pieces and lanes in which the cpu adds up, so that sums have the same digits.
 */
#define VERIFY_BYTES   (256 * 1024)
#define VERIFY_THREADS 64

struct verify_result {
    double sum;               /* of the piece's elements */
    double max_abs_error;     /* of those whose sum is finite in their type */
    unsigned long long wrong; /* how many are off by more than rounding can explain */
};

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
    ENTRY(multiply_f32)                                                                            \
    ENTRY(multiply_f32_small)                                                                      \
    ENTRY(multiply_f64)

#define KERNEL_ENUM(name) KERNEL_##name,
enum kernel_name { FOR_EACH_KERNEL(KERNEL_ENUM) KERNEL_COUNT };
#undef KERNEL_ENUM

#endif
