/*
 * config: a file is refused with one line that begins with its name, or it is a configuration
 * inside all bounds, which may be reloaded in its own place. The first byte says whether root reads
 * it.
 */
#include "config.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define NAME "/etc/vgpufs/fuzzed.conf"

static void check_vm(const struct config *config, const struct config_vm *vm)
{
    CHECK(vm->id <= CONFIG_MAX_VM_ID && config_find_vm(config, vm->id) == vm);
    CHECK(vm->fixed_pool >= -1 && vm->fixed_pool < (int)config->pool_count);
    CHECK(vm->fixed_priority >= -1 && vm->fixed_priority <= 2 && vm->max_priority <= 2);
    CHECK(vm->device_share_percent >= 1 && vm->device_share_percent <= 100);
}

static void check_pool(const struct config *config, size_t index)
{
    const struct config_pool *pool = &config->pools[index];
    const char *error = NULL;
    CHECK(pool->name[0] && memchr(pool->name, '\0', sizeof(pool->name)));
    CHECK(config_find_pool(config, pool->name) == (int)index);
    CHECK(pool->slots > 0 && pool->max_queued > 0);
    char **words = config_split_command(pool->executor, &error);
    CHECK(words && words[0]);
    free(words);
}

static void check_config(const struct config *config)
{
    struct text error = {0};
    CHECK(config->mountpoint[0] == '/' && config->state_dir[0] == '/');
    CHECK(config->pool_count >= 2 && config->pool_count <= CONFIG_MAX_POOLS);
    for (size_t i = 0; i < config->pool_count; i++)
        check_pool(config, i);
    for (size_t i = 0; i < config->vm_count; i++) {
        check_vm(config, &config->vms[i]);
        CHECK(i == 0 || config->vms[i - 1].id < config->vms[i].id);
    }
    CHECK(!config_reload_refused(config, config, &error));
    text_finish(&error);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct text error = {0};
    char *content = fuzz_copy(data + 1, size - 1);
    struct config *config = config_parse(content, NAME, data[0] & 1, &error);
    free(content);
    if (config) {
        check_config(config);
    } else {
        CHECK(error.size && !memchr(error.data, '\n', error.size));
        CHECK(strncmp(error.data, NAME, sizeof(NAME) - 1) == 0);
    }
    config_destroy(config);
    text_finish(&error);
    return 0;
}
