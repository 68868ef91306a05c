#include "workloads.h"

#include <string.h>

#define WORKLOAD_POINTER(name) &workload_##name,
const struct workload *const workloads[] = {WORKLOADS(WORKLOAD_POINTER)};
const size_t workload_count = sizeof(workloads) / sizeof(workloads[0]);

const struct workload *workload_find(const char *name)
{
    for (size_t i = 0; i < workload_count; i++)
        if (strcmp(workloads[i]->info.name, name) == 0)
            return workloads[i];
    return NULL;
}
