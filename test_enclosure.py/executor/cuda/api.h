/*
 * The part of NVIDIA's driver API that this project uses, declared by itself: it is loaded at run
 * time, and the build needs no header of NVIDIA's. Names, values and prototypes are those of the
 * "CUDA Driver API Reference Manual"; tests/cuda/test_api.c holds them against <cuda.h> where that
 * is installed.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_API_H
#define VGPUFS_EXECUTOR_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

#ifndef VGPUFS_CUDA_TYPES_ARE_DECLARED
typedef int CUresult;
typedef int CUdevice;
typedef int CUdevice_attribute;
typedef int CUmemPool_attribute;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef struct CUuuid_st {
    char bytes[16];
} CUuuid;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEINITIALIZED = 4,
    CUDA_ERROR_STUB_LIBRARY = 34,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_DEVICE_NOT_LICENSED = 102,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_ECC_UNCORRECTABLE = 214,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_NVLINK_UNCORRECTABLE = 220,
    CUDA_ERROR_JIT_COMPILER_NOT_FOUND = 221,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_CONTAINED = 226,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_ERROR_LAUNCH_TIMEOUT = 702,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_ASSERT = 710,
    CUDA_ERROR_HARDWARE_STACK_ERROR = 714,
    CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
    CUDA_ERROR_MISALIGNED_ADDRESS = 716,
    CUDA_ERROR_INVALID_ADDRESS_SPACE = 717,
    CUDA_ERROR_INVALID_PC = 718,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_TENSOR_MEMORY_LEAK = 721,
    CUDA_ERROR_SYSTEM_NOT_READY = 802,
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
    CUDA_ERROR_MPS_CONNECTION_FAILED = 805,
    CUDA_ERROR_MPS_RPC_FAILURE = 806,
    CUDA_ERROR_MPS_SERVER_NOT_READY = 807,
    CUDA_ERROR_MPS_MAX_CLIENTS_REACHED = 808,
    CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED = 809,
    CUDA_ERROR_MPS_CLIENT_TERMINATED = 810,
    CUDA_ERROR_UNKNOWN = 999,
};

enum {
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,
    CU_MEMPOOL_ATTR_RELEASE_THRESHOLD = 4,
    CU_STREAM_NON_BLOCKING = 1,
};
#endif

/*
 * ENTRY(name, exported, parameters): `name` is what cuGetProcAddress is asked for, in the version
 * of CUDA 12.0; `exported` is the same function's name in the library. Without those of the second
 * list the backend still works, with less.
 */
#define FOR_EACH_NEEDED_CALL(ENTRY)                                                                \
    ENTRY(cuInit, cuInit, (unsigned int flags))                                                    \
    ENTRY(cuDriverGetVersion, cuDriverGetVersion, (int *version))                                  \
    ENTRY(cuDeviceGetCount, cuDeviceGetCount, (int *count))                                        \
    ENTRY(cuDeviceGet, cuDeviceGet, (CUdevice * device, int ordinal))                              \
    ENTRY(cuDeviceGetName, cuDeviceGetName, (char *name, int size, CUdevice device))               \
    ENTRY(cuDeviceGetAttribute, cuDeviceGetAttribute,                                              \
          (int *value, CUdevice_attribute attribute, CUdevice device))                             \
    ENTRY(cuDeviceTotalMem, cuDeviceTotalMem_v2, (size_t * bytes, CUdevice device))                \
    ENTRY(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain,                                      \
          (CUcontext * context, CUdevice device))                                                  \
    ENTRY(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice device))              \
    ENTRY(cuCtxSetCurrent, cuCtxSetCurrent, (CUcontext context))                                   \
    ENTRY(cuModuleLoadData, cuModuleLoadData, (CUmodule * module, const void *image))              \
    ENTRY(cuModuleGetFunction, cuModuleGetFunction,                                                \
          (CUfunction * function, CUmodule module, const char *name))                              \
    ENTRY(cuLaunchKernel, cuLaunchKernel,                                                          \
          (CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,     \
           unsigned int block_x, unsigned int block_y, unsigned int block_z,                       \
           unsigned int shared_bytes, CUstream stream, void **parameters, void **extra))           \
    ENTRY(cuStreamCreate, cuStreamCreate, (CUstream * stream, unsigned int flags))                 \
    ENTRY(cuStreamDestroy, cuStreamDestroy_v2, (CUstream stream))                                  \
    ENTRY(cuStreamSynchronize, cuStreamSynchronize, (CUstream stream))                             \
    ENTRY(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr * address, size_t bytes))                        \
    ENTRY(cuMemFree, cuMemFree_v2, (CUdeviceptr address))                                          \
    ENTRY(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2,                                                 \
          (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                       \
    ENTRY(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2,                                                 \
          (void *to, CUdeviceptr from, size_t bytes, CUstream stream))

#define FOR_EACH_OPTIONAL_CALL(ENTRY)                                                              \
    ENTRY(cuGetErrorName, cuGetErrorName, (CUresult result, const char **name))                    \
    ENTRY(cuGetErrorString, cuGetErrorString, (CUresult result, const char **text))                \
    ENTRY(cuDeviceGetUuid, cuDeviceGetUuid_v2, (CUuuid * uuid, CUdevice device))                   \
    ENTRY(cuModuleUnload, cuModuleUnload, (CUmodule module))                                       \
    ENTRY(cuMemGetInfo, cuMemGetInfo_v2, (size_t * available, size_t * total))                     \
    ENTRY(cuMemHostAlloc, cuMemHostAlloc, (void **memory, size_t bytes, unsigned int flags))       \
    ENTRY(cuMemFreeHost, cuMemFreeHost, (void *memory))                                            \
    ENTRY(cuMemsetD8Async, cuMemsetD8Async,                                                        \
          (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                    \
    ENTRY(cuDeviceGetDefaultMemPool, cuDeviceGetDefaultMemPool,                                    \
          (CUmemoryPool * pool, CUdevice device))                                                  \
    ENTRY(cuMemPoolSetAttribute, cuMemPoolSetAttribute,                                            \
          (CUmemoryPool pool, CUmemPool_attribute attribute, void *value))                         \
    ENTRY(cuMemAllocAsync, cuMemAllocAsync,                                                        \
          (CUdeviceptr * address, size_t bytes, CUstream stream))                                  \
    ENTRY(cuMemFreeAsync, cuMemFreeAsync, (CUdeviceptr address, CUstream stream))                  \
    ENTRY(cuEventCreate, cuEventCreate, (CUevent * event, unsigned int flags))                     \
    ENTRY(cuEventRecord, cuEventRecord, (CUevent event, CUstream stream))                          \
    ENTRY(cuEventElapsedTime, cuEventElapsedTime,                                                  \
          (float *milliseconds, CUevent start, CUevent end))                                       \
    ENTRY(cuEventDestroy, cuEventDestroy_v2, (CUevent event))

#define API_TYPE(name, exported, parameters) typedef CUresult name##_type parameters;
FOR_EACH_NEEDED_CALL(API_TYPE)
FOR_EACH_OPTIONAL_CALL(API_TYPE)
#undef API_TYPE

/* cuGetProcAddress of CUDA 12, and of 11.3. */
typedef CUresult cuGetProcAddress_v2_type(const char *name, void **address, int version,
                                          uint64_t flags, int *found);
typedef CUresult cuGetProcAddress_type(const char *name, void **address, int version,
                                       uint64_t flags);

#endif
