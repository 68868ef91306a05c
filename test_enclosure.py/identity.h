/*
 * What a guest says of itself: a claim (pool, priority, vm_id), and what the
 * configuration makes of it. Pure functions; thread-safe.
 */
#ifndef VGPUFS_IDENTITY_H
#define VGPUFS_IDENTITY_H

#include "config.h"

struct claim {
    char pool[CONFIG_POOL_NAME];
    unsigned priority; /* 0..2 */
    unsigned vm_id;
};

/* The effective identity of a VM. */
struct identity {
    unsigned pool; /* index into config.pools */
    unsigned priority;
    enum identity_source { IDENTITY_DEFAULT, IDENTITY_CLAIM, IDENTITY_CONFIG } source;
};

/*
 * identity_parse reads `pool=A priority=2 vm_id=3` or `A:2:3`. Returns 0, or EINVAL and `error`
 * (of `size` bytes) in words.
 */
int identity_parse(const char *line, struct claim *claim, char *error, size_t size);

/*
 * claim_parse reads the `A:2:3` at the start of `text` and sets *rest to what follows the vm_id: a
 * ':', a blank or the end. Returns 0 or EINVAL, and `error` in words.
 */
int claim_parse(const char *text, struct claim *claim, const char **rest, char *error, size_t size);

/*
 * identity_judge: is the claim inside what the configuration allows this VM? 0 and *identity, or
 * EACCES and `error` in words.
 */
int identity_judge(const struct config *config, const struct config_vm *vm,
                   const struct claim *claim, struct identity *identity, char *error, size_t size);

/* identity_is_fixed: does the configuration leave nothing to claim? */
bool identity_is_fixed(const struct config_vm *vm);

/* identity_default is what holds until the VM has claimed one: fixed values, else pool A (or the
 * first that is allowed) and priority 1. */
struct identity identity_default(const struct config *config, const struct config_vm *vm);

/* The source's name as `status` shows it. */
const char *identity_source_name(enum identity_source source);

#endif
