/* All kernels, as the one module that an executor loads. */
#include "executor/cuda/kernels.cu"
