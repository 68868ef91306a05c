/* The shim-compiled kernels by name, as a module of the driver would have them. */
#ifndef VGPUFS_TESTS_CUDA_KERNEL_TABLE_H
#define VGPUFS_TESTS_CUDA_KERNEL_TABLE_H

#include "shim.h"

struct kernel_entry {
    const char *name;
    /* bind copies the arguments, which `arguments` points to as for cuLaunchKernel. */
    std::function<void()> (*bind)(void **arguments);
};

/* kernel_find returns the kernel of that name, or nullptr. */
const kernel_entry *kernel_find(const char *name);

#endif
