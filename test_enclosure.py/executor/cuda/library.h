/*
 * A library of NVIDIA's that is there or not: loaded at run time, never linked. For the executor's
 * one thread.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_LIBRARY_H
#define VGPUFS_EXECUTOR_CUDA_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* What is in use, in words: the library with its version, or why it is not. */
struct library_name {
    char text[192];
    bool known; /* why not */
};

struct library_call {
    const char *name;
    size_t offset; /* of its pointer in the table */
};

/* library_is_wanted: false, and says so, with a driver that such libraries do not work with. */
bool library_is_wanted(struct library_name *name, const char *what);
/* library_load loads the file and finds all of the calls. False, and says why, if it cannot. */
bool library_load(struct library_name *name, const char *file, const struct library_call *calls,
                  size_t count, void *table);
/* library_leave_out says that own kernels are used, and why. */
void library_leave_out(struct library_name *name, const char *what, const char *why);

#endif
