/*
 * For the stand-ins of NVIDIA's libraries: their calls are ordered behind what their stream has.
 * The stand-in of the driver (standin.cpp) has been loaded by the executor before them.
 */
#ifndef VGPUFS_TESTS_CUDA_LIBRARY_STREAM_H
#define VGPUFS_TESTS_CUDA_LIBRARY_STREAM_H

#include "executor/cuda/api.h"

#include <dlfcn.h>

/* stream_wait: what was given to the stream before is done; false where that cannot be known. */
inline bool stream_wait(CUstream stream)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *find = library ? dlsym(library, "cuGetProcAddress_v2") : nullptr;
    void *synchronize = nullptr;
    if (!find || ((cuGetProcAddress_v2_type *)find)("cuStreamSynchronize", &synchronize, 12000, 0,
                                                    nullptr) != 0)
        return false;
    return ((cuStreamSynchronize_type *)synchronize)(stream) == 0;
}

#endif
