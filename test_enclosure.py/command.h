/*
 * A line -> a checked command. Pure, so that it can be fuzzed; thread-safe.
 */
#ifndef VGPUFS_COMMAND_H
#define VGPUFS_COMMAND_H

#include "common/workload.h"
#include "identity.h"
#include "lines.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMMAND_MAX_TAG     64
#define COMMAND_MAX_ERROR   512
#define COMMAND_MAX_TIME_MS (30ull * 86400 * 1000)

struct command_argument {
    const struct workload_param *param;
    const char *value; /* in the command's storage */
};

struct command {
    const struct workload_info *workload;
    struct command_argument arguments[WORKLOAD_MAX_PARAMS];
    size_t argument_count;
    const char *tag;                  /* in the storage; NULL: the job's number */
    uint64_t timeout_ms, deadline_ms; /* 0: none given */
    bool has_claim;
    struct claim claim;
    char storage[LINES_MAX_LINE + 1];
};

struct catalogue {
    const struct workload_info *workloads;
    size_t count;
};

/*
 * command_parse: 0, or EINVAL and `error` (COMMAND_MAX_ERROR bytes) in words. The struct points
 * into itself: it must not be copied.
 */
int command_parse(struct command *command, const struct catalogue *catalogue, const char *line,
                  size_t size, char *error);

/* command_tag_is_valid: [A-Za-z][A-Za-z0-9._-]{0,63} and not `all`. */
bool command_tag_is_valid(const char *tag);

/* command_trim narrows the line to what stands between its leading and trailing blanks. */
struct line command_trim(const char *bytes, size_t size);

#endif
