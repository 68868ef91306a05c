/*
 * The kernels as nvcc has built them (build_kernels.sh), inside the executable. Read-only. A build
 * without nvcc has none: KERNELS_IMAGE is not defined then.
 */
#ifndef VGPUFS_EXECUTOR_CUDA_IMAGE_H
#define VGPUFS_EXECUTOR_CUDA_IMAGE_H

#ifdef KERNELS_IMAGE
extern const char kernels_fatbin[];        /* for cuModuleLoadData */
extern const char kernels_ptx[];           /* the oldest architecture's, NUL-terminated */
extern const int kernels_cuda_version;     /* of the nvcc: 1000 * major + 10 * minor */
extern const char kernels_architectures[]; /* what the fatbin has, for people */
#endif

#endif
