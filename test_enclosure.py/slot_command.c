#include "slot_command.h"

#include "pool.h"
#include "server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The options that an executor gets at most, beyond the words of the configuration. */
#define MOST_OPTIONS 5

void slot_command_free(const struct slot *slot, char **words)
{
    size_t count = 0;
    while (slot->pool->executor[count])
        count++;
    for (size_t i = count; words && words[i]; i++)
        free(words[i]);
    free(words);
}

/* add_options: those of the defaults are left out, so that executors that lack them can serve. */
static int add_options(char **words, const struct slot *slot, const struct config_pool *config)
{
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"device-memory", config->device_memory_bytes},
                   {"mps-percent", config->mps_percent}};
    /* Where auto has found a device, one that is lost must not go unnoticed. */
    bool had_device = strcmp(config->backend, "auto") == 0 && strcmp(slot->backend, "cuda") == 0;
    if (asprintf(words++, "--backend=%s", had_device ? slot->backend : config->backend) < 0 ||
        asprintf(words++, "--device=%s", config->device) < 0 ||
        (!config->scrub && asprintf(words++, "--scrub=no") < 0))
        return -1;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (numbers[i].value &&
            asprintf(words++, "--%s=%" PRIu64, numbers[i].name, numbers[i].value) < 0)
            return -1;
    return 0;
}

char **slot_command(const struct slot *slot)
{
    const struct config_pool *config = &slot->pool->server->config->pools[slot->pool->index];
    size_t count = 0;
    while (slot->pool->executor[count])
        count++;
    char **words = calloc(count + MOST_OPTIONS + 1, sizeof(*words));
    if (!words)
        return NULL;
    memcpy(words, slot->pool->executor, count * sizeof(*words));
    if (add_options(words + count, slot, config) == 0)
        return words;
    slot_command_free(slot, words);
    return NULL;
}
