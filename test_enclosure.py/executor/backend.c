#include "backend.h"

#include "common/log.h"

#include <string.h>

/* In the order in which "auto" tries them. */
const struct backend *const backends[] = {
    &backend_cuda,
    &backend_cpu,
};
const size_t backend_count = sizeof(backends) / sizeof(backends[0]);

static const struct backend *open_named(const char *name, const struct backend_options *options,
                                        char *error, size_t size)
{
    for (size_t i = 0; i < backend_count; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i]->open(options, error, size) == 0 ? backends[i] : NULL;
    snprintf(error, size,
             "there is no backend %s: choose --backend=auto, --backend=cuda or --backend=cpu",
             name);
    return NULL;
}

/* open_auto says once why a better backend was passed over. */
static const struct backend *open_auto(const struct backend_options *options, char *error,
                                       size_t size)
{
    char passed[512] = "";
    for (size_t i = 0; i < backend_count; i++) {
        if (backends[i]->open(options, error, size) == 0) {
            if (passed[0])
                log_info("backend auto takes %s, not %s", backends[i]->name, passed);
            return backends[i];
        }
        size_t used = strlen(passed);
        snprintf(passed + used, sizeof(passed) - used, "%s%s: %s", used ? "; " : "",
                 backends[i]->name, error);
    }
    snprintf(error, size, "no backend takes the device: %s", passed);
    return NULL;
}

const struct backend *backend_open(const char *name, const struct backend_options *options,
                                   char *error, size_t size)
{
    return strcmp(name, "auto") == 0 ? open_auto(options, error, size)
                                     : open_named(name, options, error, size);
}
