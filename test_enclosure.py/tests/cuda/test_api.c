/* api: the project's own declarations of the driver API are those of NVIDIA's header. */
#include <cuda.h>

#define VGPUFS_CUDA_TYPES_ARE_DECLARED
#include "executor/cuda/api.h"

#define SAME(name, exported, parameters)                                                           \
    _Static_assert(__builtin_types_compatible_p(__typeof__(exported), name##_type), #name);
FOR_EACH_NEEDED_CALL(SAME)
FOR_EACH_OPTIONAL_CALL(SAME)

_Static_assert(CU_GET_PROC_ADDRESS_SUCCESS == 0, "what driver.c takes for found");

int main(void)
{
    return 0;
}
