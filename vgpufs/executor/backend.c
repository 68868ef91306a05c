#include "backend.h"

#include <string.h>

/* In the order in which "auto" tries them. */
const struct backend *const backends[] = {
    &backend_cpu,
};
const size_t backend_count = sizeof(backends) / sizeof(backends[0]);

const struct backend *backend_open(const char *name, const char *device, char *error, size_t size)
{
    bool any = strcmp(name, "auto") == 0;
    snprintf(error, size, "this build has no backend %s: choose --backend=cpu or --backend=auto",
             name);
    for (size_t i = 0; i < backend_count; i++) {
        if (!any && strcmp(backends[i]->name, name) != 0)
            continue;
        if (backends[i]->open(device, error, size) == 0)
            return backends[i];
    }
    return NULL;
}
