/*
 * What the kernels of SORT, FFT, CONV2D, BLACK_SCHOLES, NBODY, SHA256 and SANITY and those who
 * launch them must agree on. Read by C (the executor) and by C++ (nvcc, and the tests' g++).
 */
#ifndef VGPUFS_EXECUTOR_CUDA_KERNELS_NUMERIC_H
#define VGPUFS_EXECUTOR_CUDA_KERNELS_NUMERIC_H

/*
 * sort_count_*, sort_move_*: each block has so many tiles, one after the other. sort_offsets: one
 * block. SORT_DIGITS is also how many threads a block has: each looks after a digit.
 */
#define SORT_DIGITS 256
#define SORT_ITEMS  8 /* of one thread */
#define SORT_TILE   (SORT_DIGITS * SORT_ITEMS)

struct sort_found {
    unsigned long long checksum, unsorted;
};

/* fft_pass_*: one block for each so many bytes of columns that lie side by side. */
#define FFT_THREADS    256
#define FFT_TILE_BYTES 32768

/* convolve_*: one block for each tile of the output. */
#define CONVOLVE_SIDE    32
#define CONVOLVE_THREADS 256
#define CONVOLVE_MAX_K   31

/* accelerate_*, potential_*: one thread for each body. */
#define NBODY_THREADS 128
/* The numbers of a body, each of all bodies in a row. */
enum nbody_number {
    NBODY_MASS,
    NBODY_X,
    NBODY_VX = NBODY_X + 3,
    NBODY_AX = NBODY_VX + 3,
    NBODY_NUMBERS = NBODY_AX + 3
};

/* sha256_chunks: one thread for each chunk. */
#define SHA256_THREADS 64

/* Multiply-adds for each word of SANITY's step compute. */
#define SANITY_ROUNDS 64

/* ENTRY(kernel). */
#define FOR_EACH_NUMERIC_KERNEL(ENTRY)                                                             \
    ENTRY(sort_encode_f32)                                                                         \
    ENTRY(sort_encode_f64)                                                                         \
    ENTRY(sort_count_f32)                                                                          \
    ENTRY(sort_count_f64)                                                                          \
    ENTRY(sort_offsets)                                                                            \
    ENTRY(sort_move_f32)                                                                           \
    ENTRY(sort_move_f64)                                                                           \
    ENTRY(sort_decode_f32)                                                                         \
    ENTRY(sort_decode_f64)                                                                         \
    ENTRY(fft_roots_f32)                                                                           \
    ENTRY(fft_roots_f64)                                                                           \
    ENTRY(fft_chirp_f32)                                                                           \
    ENTRY(fft_chirp_f64)                                                                           \
    ENTRY(fft_pass_f32)                                                                            \
    ENTRY(fft_pass_f64)                                                                            \
    ENTRY(fft_spread_f32)                                                                          \
    ENTRY(fft_spread_f64)                                                                          \
    ENTRY(fft_multiply_f32)                                                                        \
    ENTRY(fft_multiply_f64)                                                                        \
    ENTRY(fft_gather_f32)                                                                          \
    ENTRY(fft_gather_f64)                                                                          \
    ENTRY(fft_divide_f32)                                                                          \
    ENTRY(fft_divide_f64)                                                                          \
    ENTRY(convolve_f32)                                                                            \
    ENTRY(convolve_f64)                                                                            \
    ENTRY(price_f32)                                                                               \
    ENTRY(price_f64)                                                                               \
    ENTRY(accelerate_f32)                                                                          \
    ENTRY(accelerate_f64)                                                                          \
    ENTRY(potential_f32)                                                                           \
    ENTRY(potential_f64)                                                                           \
    ENTRY(move_f32)                                                                                \
    ENTRY(move_f64)                                                                                \
    ENTRY(sha256_fill)                                                                             \
    ENTRY(sha256_chunks)                                                                           \
    ENTRY(sanity_write)                                                                            \
    ENTRY(sanity_copy)                                                                             \
    ENTRY(sanity_check)                                                                            \
    ENTRY(sanity_compute)

#endif
