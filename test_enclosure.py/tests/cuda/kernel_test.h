/*
 * What the tests of the kernels share. Each file of kernels has its file of tests, with one
 * function that runs them all; test_main.cpp calls it for each order of the threads.
 */
#ifndef VGPUFS_TESTS_CUDA_KERNEL_TEST_H
#define VGPUFS_TESTS_CUDA_KERNEL_TEST_H

#include "executor/cuda/kernels.h"
#include "executor/generate.h"
#include "kernel_table.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

void test_array_kernels();
void test_reduce_kernels();
void test_fft_kernels();
void test_numeric_kernels();
void test_sort_kernels();

/* How many checks have failed. */
extern int failures;
extern const char *const orders[SHIM_ORDERS];

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, " (threads %s)\n", orders[shim_thread_order]);                         \
            failures++;                                                                            \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* An array as cuMemAlloc would give it: aligned, and full of garbage. */
template <typename T> struct array {
    T *data;
    size_t size;
    explicit array(size_t count) : size(count)
    {
        void *memory = nullptr;
        if (posix_memalign(&memory, 256, count * sizeof(T) + !count) != 0)
            abort();
        memset(memory, 0xcd, count * sizeof(T));
        data = (T *)memory;
    }
    ~array()
    {
        free(data);
    }
    array(const array &) = delete;
    array &operator=(const array &) = delete;
};

/* launch runs the kernel of that name on a grid of across by down blocks. */
void launch(const char *name, unsigned across, unsigned down, unsigned threads,
            std::vector<void *> arguments);

template <typename T> std::string typed(const char *name)
{
    return std::string(name) + (sizeof(T) == 4 ? "_f32" : "_f64");
}

/* make fills an array with numbers of many sizes. */
template <typename T> void make(array<T> &a, unsigned stream)
{
    for (size_t i = 0; i < a.size; i++)
        a.data[i] = (T)(generate_real(stream, i, 40) - 0.5) * (T)(1 << (i % 20));
}

/* parts_of: how many parts so many elements are. */
inline unsigned parts_of(size_t count)
{
    return (unsigned)((count + PART_ELEMENTS - 1) / PART_ELEMENTS);
}

#endif
