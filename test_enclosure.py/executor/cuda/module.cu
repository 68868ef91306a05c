/* All kernels, as the one module that an executor loads. */
#include "executor/cuda/kernels.cu"
#include "executor/cuda/kernels_fft.cu"
#include "executor/cuda/kernels_numeric.cu"
#include "executor/cuda/kernels_reduce.cu"
#include "executor/cuda/kernels_sort.cu"
