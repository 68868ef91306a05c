/*
 * The one table of configuration keys: section, type, default, bounds and help
 * of each. Checking, setting, defaults, --help-config and vgpufs.conf(5) all
 * come from it. config_keys.c is the table, config_values.c what its types
 * mean, config_print.c the lists. Only the config*.c files use this.
 *
 * The table is constant. config_key_set allocates strings inside the object that it sets;
 * config_object_finish frees them.
 */
#ifndef VGPUFS_CONFIG_KEYS_H
#define VGPUFS_CONFIG_KEYS_H

#include "config.h"

/* The kinds of section; also bits of config_key.sections. */
enum config_section_kind {
    SECTION_VGPUFS = 1,
    SECTION_DEFAULTS = 2,
    SECTION_VM = 4,
    SECTION_POOL = 8,
    SECTION_NFS = 16,
};

/* What a key sets: the struct that `offset` counts from. */
enum config_object { OBJECT_CONFIG, OBJECT_VM, OBJECT_POOL };

enum config_type {
    TYPE_PATH,
    TYPE_VMS,
    TYPE_DURABILITY,
    TYPE_CHOICE, /* an enum or bool: the index into `choices` */
    TYPE_NAME,   /* a string, one of `choices` */
    TYPE_DURATION,
    TYPE_COUNT,
    TYPE_BYTES,
    TYPE_PERCENT,
    TYPE_MODE,
    TYPE_PRIORITY,
    TYPE_POOL,
    TYPE_POOLS,
    TYPE_DEVICE,
    TYPE_COMMAND,
    TYPE_ADDRESS,
    TYPE_USER,
};

struct config_key {
    const char *name;
    unsigned sections;
    enum config_object object;
    enum config_type type;
    const char *default_value; /* in the syntax of the file; NULL: config.c finds it */
    const char *default_note;  /* shown in its place where the default is not a plain value */
    uint64_t min, max;         /* durations in ms, sizes in bytes */
    const char *choices;       /* separated by '|' */
    bool fixed;                /* cannot change while the daemon runs */
    size_t offset, size;
    const char *help;
};

/* config_key_next walks the table: NULL gives the first key; returns NULL behind the last one. */
const struct config_key *config_key_next(const struct config_key *key);
const struct config_key *config_key_find(enum config_section_kind kind, const char *name);

/* Keys and sections of the design that this version does not have. */
bool config_key_is_unsupported(enum config_section_kind kind, const char *name);
bool config_section_is_unsupported(const char *name);

/* config_section_title returns "[vm N]" and the like. */
const char *config_section_title(enum config_section_kind kind);

/* config_key_describe appends what the key takes; config_key_word is one word for it. */
void config_key_describe(const struct config_key *key, struct text *out);
const char *config_key_word(const struct config_key *key);

/*
 * config_key_check judges the text alone, before the pools are known. 0, or -1 and *why goes on
 * after "key = 'value': ". TYPE_VMS: *vms, if not NULL, has CONFIG_MAX_VM_ID + 1 elements and gets
 * true where a VM is listed.
 */
int config_key_check(const struct config_key *key, const char *value, bool *vms, struct text *why);
/*
 * config_key_set puts the value into `object`, which is what key->object says. `config` gives the
 * pools. -1 and *why as above; -1 and an empty *why when memory ran out.
 */
int config_key_set(const struct config_key *key, const char *value, void *object,
                   const struct config *config, struct text *why);
/* config_key_same: does the key have the same value in both? */
bool config_key_same(const struct config_key *key, const void *object, const void *other);
/* config_object_finish frees what the keys of that kind of object own. */
void config_object_finish(enum config_object kind, void *object);
/* config_pool_name_is_valid: [A-Z][A-Za-z0-9_-]{0,30}, which vm3 is not. */
bool config_pool_name_is_valid(const char *name);

#endif
