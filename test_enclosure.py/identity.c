#include "identity.h"

#include "common/number.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* claim_set stores one of the three values. Returns 0, or EINVAL and `error` in words. */
static int claim_set(struct claim *claim, const char *key, const char *value, char *error,
                     size_t size)
{
    uint64_t number;
    if (strcmp(key, "pool") == 0) {
        size_t length = strspn(value, CONFIG_POOL_NAME_BYTES);
        if (!length || value[length] || length >= sizeof(claim->pool)) {
            snprintf(error, size, "pool= takes the name of a pool");
            return EINVAL;
        }
        strcpy(claim->pool, value);
    } else if (strcmp(key, "priority") == 0) {
        if (number_parse(value, 0, 2, &number) < 0) {
            snprintf(error, size, "priority= takes 0, 1 or 2");
            return EINVAL;
        }
        claim->priority = (unsigned)number;
    } else if (strcmp(key, "vm_id") == 0) {
        if (number_parse(value, 1, CONFIG_MAX_VM_ID, &number) < 0) {
            snprintf(error, size, "vm_id= takes a number from 1 to %d", CONFIG_MAX_VM_ID);
            return EINVAL;
        }
        claim->vm_id = (unsigned)number;
    } else {
        snprintf(error, size, "an identity is pool=, priority= and vm_id=");
        return EINVAL;
    }
    return 0;
}

/* piece_copy copies the bytes up to one of `stops` and returns what follows; NULL if too long. */
static const char *piece_copy(const char *text, const char *stops, char *piece, size_t size)
{
    size_t length = strcspn(text, stops);
    if (length >= size)
        return NULL;
    memcpy(piece, text, length);
    piece[length] = '\0';
    return text + length;
}

int claim_parse(const char *text, struct claim *claim, const char **rest, char *error, size_t size)
{
    static const char *const keys[] = {"pool", "priority", "vm_id"};
    for (size_t i = 0; i < 3; i++) {
        char piece[CONFIG_POOL_NAME];
        if (i > 0 && *text++ != ':') {
            snprintf(error, size, "a claim is POOL:PRIORITY:VM_ID, as in A:2:3");
            return EINVAL;
        }
        text = piece_copy(text, ": \t", piece, sizeof(piece));
        if (!text) {
            snprintf(error, size, "a claim is POOL:PRIORITY:VM_ID, as in A:2:3");
            return EINVAL;
        }
        int failed = claim_set(claim, keys[i], piece, error, size);
        if (failed)
            return failed;
    }
    *rest = text;
    return 0;
}

/* pairs_parse reads `pool=A priority=2 vm_id=3`, each key once. */
static int pairs_parse(const char *line, struct claim *claim, char *error, size_t size)
{
    unsigned seen = 0;
    for (line += strspn(line, " \t"); *line; line += strspn(line, " \t")) {
        char key[16], value[CONFIG_POOL_NAME];
        line = piece_copy(line, "= \t", key, sizeof(key));
        if (line && *line == '=')
            line = piece_copy(line + 1, " \t", value, sizeof(value));
        else
            line = NULL;
        if (!line) {
            snprintf(error, size, "an identity is pool=A priority=2 vm_id=3 or A:2:3");
            return EINVAL;
        }
        int failed = claim_set(claim, key, value, error, size);
        if (failed)
            return failed;
        unsigned bit = 1u << (key[0] == 'v' ? 2 : key[1] == 'r');
        if (seen & bit) {
            snprintf(error, size, "%s= stands twice", key);
            return EINVAL;
        }
        seen |= bit;
    }
    if (seen == 7)
        return 0;
    snprintf(error, size, "an identity needs all of pool=, priority= and vm_id=");
    return EINVAL;
}

int identity_parse(const char *line, struct claim *claim, char *error, size_t size)
{
    *claim = (struct claim){0};
    line += strspn(line, " \t");
    if (strchr(line, '='))
        return pairs_parse(line, claim, error, size);
    const char *rest;
    int failed = claim_parse(line, claim, &rest, error, size);
    if (!failed && rest[strspn(rest, " \t")]) {
        snprintf(error, size, "something follows the identity; it is A:2:3");
        failed = EINVAL;
    }
    return failed;
}

bool identity_is_fixed(const struct config_vm *vm)
{
    return vm->fixed_pool >= 0 && vm->fixed_priority >= 0;
}

static void pools_error(const struct config *config, const char *pool, char *error, size_t size)
{
    int used = snprintf(error, size, "there is no pool %s; pools:", pool);
    for (size_t i = 0; i < config->pool_count && used > 0 && (size_t)used < size; i++)
        used += snprintf(error + used, size - (size_t)used, " %s", config->pools[i].name);
}

int identity_judge(const struct config *config, const struct config_vm *vm,
                   const struct claim *claim, struct identity *identity, char *error, size_t size)
{
    int pool = config_find_pool(config, claim->pool);
    if (claim->vm_id != vm->id)
        snprintf(error, size, "this is vm%u: it cannot speak for vm%u", vm->id, claim->vm_id);
    else if (pool < 0)
        pools_error(config, claim->pool, error, size);
    else if (vm->fixed_pool >= 0 && pool != vm->fixed_pool)
        snprintf(error, size, "the configuration puts vm%u into pool %s", vm->id,
                 config->pools[vm->fixed_pool].name);
    else if (vm->fixed_pool < 0 && !(vm->allowed_pools >> pool & 1))
        snprintf(error, size, "the configuration does not allow vm%u pool %s", vm->id,
                 config->pools[pool].name);
    else if (vm->fixed_priority >= 0 && claim->priority != (unsigned)vm->fixed_priority)
        snprintf(error, size, "the configuration gives vm%u priority %d", vm->id,
                 vm->fixed_priority);
    else if (vm->fixed_priority < 0 && claim->priority > vm->max_priority)
        snprintf(error, size, "the configuration allows vm%u at most priority %u", vm->id,
                 vm->max_priority);
    else {
        *identity = (struct identity){
            .pool = (unsigned)pool,
            .priority = claim->priority,
            .source = identity_is_fixed(vm) ? IDENTITY_CONFIG : IDENTITY_CLAIM,
        };
        return 0;
    }
    return EACCES;
}

struct identity identity_default(const struct config *config, const struct config_vm *vm)
{
    struct identity identity = {.priority = vm->max_priority < 1 ? vm->max_priority : 1};
    identity.source = identity_is_fixed(vm) ? IDENTITY_CONFIG : IDENTITY_DEFAULT;
    if (vm->fixed_priority >= 0)
        identity.priority = (unsigned)vm->fixed_priority;
    if (vm->fixed_pool >= 0) {
        identity.pool = (unsigned)vm->fixed_pool;
        return identity;
    }
    for (unsigned i = 0; i < config->pool_count; i++)
        if (vm->allowed_pools >> i & 1) {
            identity.pool = i;
            break;
        }
    return identity;
}

const char *identity_source_name(enum identity_source source)
{
    static const char *const names[] = {"default", "claim", "config"};
    return names[source];
}
