#include "config_keys.h"

#include "common/nearest.h"
#include "common/number.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000ull /* ms */
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)
#define KIB    1024ull

#define ADDRESS_MAX     255 /* RFC 1035 2.3.4: the longest host name */
#define USER_MAX        31  /* of useradd(8) and systemd */
#define GROUP_MIN_MS    1
#define GROUP_MAX_MS    (10 * SECOND)
#define MODE_READ       0444
#define COMMAND_ARG_MAX 256

/* One value as the types' functions see it; which member holds it is the type's business. */
struct value {
    const char *text;
    uint64_t number;
    uint64_t group_ms;
};

static int index_of(const char *names, const char *name)
{
    size_t size = strlen(name);
    for (int i = 0;; i++) {
        size_t length = strcspn(names, "|");
        if (length == size && memcmp(names, name, size) == 0)
            return i;
        if (!names[length])
            return -1;
        names += length + 1;
    }
}

/* words_next cuts the next word out of *rest, a copy of a value; NULL at the end. */
static char *words_next(char **rest)
{
    return strtok_r(NULL, " \t,", rest);
}

bool config_pool_name_is_valid(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size >= CONFIG_POOL_NAME || name[0] < 'A' || name[0] > 'Z')
        return false;
    return strspn(name, CONFIG_POOL_NAME_BYTES) == size;
}

static int path_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    size_t size = strlen(value->text);
    bool quoted = value->text[0] == '"' || value->text[0] == '\'';
    return size > 0 && size < PATH_MAX / 2 && !quoted ? 0 : -1;
}

static int choice_parse(const struct config_key *key, struct value *value)
{
    int i = index_of(key->choices, value->text);
    value->number = (uint64_t)i;
    return i < 0 ? -1 : 0;
}

static int duration_parse(const struct config_key *key, struct value *value)
{
    return number_parse_ms(value->text, key->min, key->max, &value->number);
}

static int count_parse(const struct config_key *key, struct value *value)
{
    return number_parse(value->text, key->min, key->max, &value->number);
}

static int bytes_parse(const struct config_key *key, struct value *value)
{
    return number_parse_bytes(value->text, key->min, key->max, &value->number);
}

static int percent_parse(const struct config_key *key, struct value *value)
{
    char digits[8];
    size_t size = strlen(value->text);
    if (size && value->text[size - 1] == '%')
        size--;
    if (size >= sizeof(digits))
        return -1;
    memcpy(digits, value->text, size);
    digits[size] = '\0';
    return number_parse(digits, key->min, key->max, &value->number);
}

static int mode_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    size_t size = strlen(value->text);
    if (size < 3 || size > 4 || strspn(value->text, "01234567") != size)
        return -1;
    value->number = strtoul(value->text, NULL, 8);
    return value->number & ~(uint64_t)MODE_READ ? -1 : 0;
}

static int priority_parse(const struct config_key *key, struct value *value)
{
    if (strcmp(value->text, "any") != 0)
        return count_parse(key, value);
    value->number = (uint64_t)-1;
    return 0;
}

static int durability_parse(const struct config_key *key, struct value *value)
{
    static const char group[] = "group";
    (void)key;
    size_t word = sizeof(group) - 1;
    value->group_ms = 0;
    bool none = strcmp(value->text, "none") == 0;
    if (none || strcmp(value->text, "sync") == 0) {
        value->number = none ? DURABILITY_NONE : DURABILITY_SYNC;
        return 0;
    }
    if (strncmp(value->text, group, word) != 0 || !isblank((unsigned char)value->text[word]))
        return -1;
    value->number = DURABILITY_GROUP;
    const char *time = value->text + word + strspn(value->text + word, " \t");
    return number_parse_ms(time, GROUP_MIN_MS, GROUP_MAX_MS, &value->group_ms);
}

static int device_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    uint64_t number;
    if (number_parse(value->text, 0, 255, &number) == 0)
        return 0;
    if (strncmp(value->text, "GPU-", 4) != 0 && strncmp(value->text, "MIG-", 4) != 0)
        return -1;
    size_t size = strlen(value->text);
    /* Up to driver 465 a MIG device is MIG-GPU-<uuid>/<gpu instance>/<compute instance>. */
    bool plain = strspn(value->text, "GPUMIG0123456789abcdefABCDEF-/") == size;
    return plain && size > 4 && size <= 64 ? 0 : -1;
}

static int command_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    const char *error;
    char **words = config_split_command(value->text, &error);
    free(words);
    return words ? 0 : -1;
}

static int address_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    /* Nothing that could end the word in exports(5): no blank, no '(' and no '#'. */
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:/_-";
    size_t size = strlen(value->text);
    bool plain = strspn(value->text, allowed) == size && isalnum((unsigned char)value->text[0]);
    plain = plain || (value->text[0] == ':' && strspn(value->text, allowed) == size);
    return plain && size <= ADDRESS_MAX ? 0 : -1;
}

/* user_parse: the characters that systemd.exec(5) allows in names of users. */
static int user_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t size = strlen(value->text);
    bool plain = strspn(value->text, allowed) == size && value->text[0] != '-' &&
                 !isdigit((unsigned char)value->text[0]);
    return plain && size > 0 && size <= USER_MAX ? 0 : -1;
}

/* vms_parse_range reads "7" or "1-10" (cut up on the way). */
static int vms_parse_range(char *range, uint64_t *first, uint64_t *last)
{
    char *dash = strchr(range, '-');
    if (dash)
        *dash = '\0';
    if (number_parse(range, 1, CONFIG_MAX_VM_ID, first) < 0)
        return -1;
    *last = *first;
    return dash ? number_parse(dash + 1, *first, CONFIG_MAX_VM_ID, last) : 0;
}

static int vms_parse(const char *text, bool *vms)
{
    if (strcmp(text, "none") == 0)
        return 0;
    char *copy = strdup(text);
    char *rest = copy;
    int result = -1;
    if (!copy)
        return -1;
    for (char *word; (word = words_next(&rest));) {
        uint64_t first, last;
        result = vms_parse_range(word, &first, &last);
        if (result < 0)
            break;
        for (uint64_t id = first; vms && id <= last; id++)
            vms[id] = true;
    }
    free(copy);
    return result;
}

static int vm_list_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    return vms_parse(value->text, NULL);
}

static int pool_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    value->number = (uint64_t)-1;
    return strcmp(value->text, "any") == 0 || config_pool_name_is_valid(value->text) ? 0 : -1;
}

static int pools_parse(const struct config_key *key, struct value *value)
{
    (void)key;
    if (strcmp(value->text, "all") == 0)
        return 0;
    char *copy = strdup(value->text);
    char *rest = copy;
    int result = -1;
    if (!copy)
        return -1;
    for (char *word; (word = words_next(&rest));) {
        result = config_pool_name_is_valid(word) ? 0 : -1;
        if (result < 0)
            break;
    }
    free(copy);
    return result;
}

static void print_duration(struct text *out, uint64_t ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"d", DAY}, {"h", HOUR}, {"m", 60 * SECOND}, {"s", SECOND}};
    for (size_t i = 0; ms && i < sizeof(units) / sizeof(units[0]); i++) {
        if (ms % units[i].ms == 0) {
            text_printf(out, "%llu%s", (unsigned long long)(ms / units[i].ms), units[i].name);
            return;
        }
    }
    text_printf(out, "%llu%s", (unsigned long long)ms, ms ? "ms" : "");
}

static void print_bytes(struct text *out, uint64_t bytes)
{
    static const char suffixes[] = "KMGT";
    size_t i = 0;
    for (; bytes && bytes % KIB == 0 && suffixes[i]; i++)
        bytes /= KIB;
    text_printf(out, "%llu", (unsigned long long)bytes);
    text_append(out, suffixes + i - (i > 0), i > 0);
}

static void choices_describe(const struct config_key *key, struct text *out)
{
    for (const char *c = key->choices; *c;) {
        size_t length = strcspn(c, "|");
        const char *next = c + length + (c[length] == '|');
        text_append(out, c, length);
        if (*next)
            text_puts(out, next[strcspn(next, "|")] ? ", " : " or ");
        c = next;
    }
}

static void duration_describe(const struct config_key *key, struct text *out)
{
    text_puts(out, "a time from ");
    print_duration(out, key->min);
    text_puts(out, " to ");
    print_duration(out, key->max);
    text_puts(out, ", as 250ms, 20s, 5m, 1h or 2d; seconds without a unit");
}

static void count_describe(const struct config_key *key, struct text *out)
{
    text_printf(out, "a whole number from %llu to %llu", (unsigned long long)key->min,
                (unsigned long long)key->max);
}

static void bytes_describe(const struct config_key *key, struct text *out)
{
    text_puts(out, "a size from ");
    print_bytes(out, key->min);
    text_puts(out, " to ");
    print_bytes(out, key->max);
    text_puts(out, " bytes, with an optional K, M, G or T");
}

static void percent_describe(const struct config_key *key, struct text *out)
{
    text_printf(out, "a percentage from %llu%% to %llu%%", (unsigned long long)key->min,
                (unsigned long long)key->max);
}

static void priority_describe(const struct config_key *key, struct text *out)
{
    (void)key;
    text_puts(out, "2, 1, 0 or any");
}

/* What a type is: how it is read, what the file's author is told, its word in the lists. */
static const struct type {
    int (*parse)(const struct config_key *key, struct value *value);
    void (*describe)(const struct config_key *key, struct text *out);
    const char *description; /* where `describe` is NULL */
    const char *word;
} types[] = {
    [TYPE_PATH] = {path_parse, NULL, "a path, without quotes", "path"},
    [TYPE_VMS] = {vm_list_parse, NULL, "numbers and ranges from 1 to 65535, as 1-10 200, or none",
                  "list"},
    [TYPE_DURABILITY] = {durability_parse, NULL,
                         "sync, group with a time from 1ms to 10s, as group 50ms, or none", "mode"},
    [TYPE_CHOICE] = {choice_parse, choices_describe, NULL, "choice"},
    [TYPE_NAME] = {choice_parse, choices_describe, NULL, "choice"},
    [TYPE_DURATION] = {duration_parse, duration_describe, NULL, "time"},
    [TYPE_COUNT] = {count_parse, count_describe, NULL, "number"},
    [TYPE_BYTES] = {bytes_parse, bytes_describe, NULL, "size"},
    [TYPE_PERCENT] = {percent_parse, percent_describe, NULL, "percentage"},
    [TYPE_MODE] = {mode_parse, NULL, "an octal mode of read permissions, as 0444 or 0440", "mode"},
    [TYPE_PRIORITY] = {priority_parse, priority_describe, NULL, "priority"},
    [TYPE_POOL] = {pool_parse, NULL, "the name of a pool, as A, or any", "pool"},
    [TYPE_POOLS] = {pools_parse, NULL, "names of pools, as A B, or all", "list"},
    [TYPE_DEVICE] = {device_parse, NULL, "a number from 0 to 255, GPU-uuid or MIG-uuid", "device"},
    [TYPE_COMMAND] = {command_parse, NULL, "a command line whose quotes are closed", "command"},
    [TYPE_ADDRESS] = {address_parse, NULL,
                      "a host name, an IP address or a network, as 192.0.2.3 or 192.0.2.0/24",
                      "address"},
    [TYPE_USER] = {user_parse, NULL, "the name of a user", "user"},
};

void config_key_describe(const struct config_key *key, struct text *out)
{
    const struct type *type = &types[key->type];
    if (type->describe)
        type->describe(key, out);
    else
        text_puts(out, type->description);
}

const char *config_key_word(const struct config_key *key)
{
    return types[key->type].word;
}

static void explain(const struct config_key *key, const char *value, struct text *why)
{
    text_puts(why, "takes ");
    config_key_describe(key, why);
    struct nearest nearest = {.word = value};
    for (const char *c = key->choices; c && *c;) {
        size_t length = strcspn(c, "|");
        nearest_offer(&nearest, c, length);
        c += length + (c[length] == '|');
    }
    if (nearest.best)
        text_printf(why, ": did you mean '%.*s'?", (int)nearest.best_size, nearest.best);
}

static int value_parse(const struct config_key *key, const char *text, struct value *value,
                       struct text *why)
{
    *value = (struct value){.text = text};
    if (types[key->type].parse(key, value) == 0)
        return 0;
    explain(key, text, why);
    return -1;
}

int config_key_check(const struct config_key *key, const char *text, bool *vms, struct text *why)
{
    struct value value;
    if (value_parse(key, text, &value, why) < 0)
        return -1;
    return key->type == TYPE_VMS && vms ? vms_parse(text, vms) : 0;
}

static int pool_resolve(const struct config *config, const char *name, struct text *why)
{
    int found = config_find_pool(config, name);
    if (found >= 0)
        return found;
    struct nearest nearest = {.word = name};
    for (size_t i = 0; i < config->pool_count; i++)
        nearest_offer(&nearest, config->pools[i].name, strlen(config->pools[i].name));
    text_printf(why, "there is no [pool %s]: ", name);
    if (nearest.best)
        text_printf(why, "did you mean '%s'?", nearest.best);
    else
        text_puts(why, "add that section or name another pool");
    return -1;
}

static int pools_resolve(const struct config *config, const char *names, uint64_t *set,
                         struct text *why)
{
    *set = UINT64_MAX >> (CONFIG_MAX_POOLS - config->pool_count);
    if (strcmp(names, "all") == 0)
        return 0;
    char *copy = strdup(names);
    char *rest = copy;
    int pool = -1;
    if (!copy)
        return -1;
    *set = 0;
    for (char *word; (word = words_next(&rest));) {
        pool = pool_resolve(config, word, why);
        if (pool < 0)
            break;
        *set |= UINT64_C(1) << pool;
    }
    free(copy);
    return pool < 0 ? -1 : 0;
}

static bool type_is_string(enum config_type type)
{
    return type == TYPE_PATH || type == TYPE_NAME || type == TYPE_DEVICE || type == TYPE_COMMAND ||
           type == TYPE_ADDRESS || type == TYPE_USER;
}

static void *key_place(const struct config_key *key, void *object)
{
    return (char *)object + key->offset;
}

static int string_store(char **place, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return -1;
    free(*place);
    *place = copy;
    return 0;
}

/* number_store writes an integer, enum or bool of the member's own size. */
static void number_store(void *place, size_t size, uint64_t number)
{
    uint32_t word = (uint32_t)number;
    bool flag = number != 0;
    if (size == sizeof(number))
        memcpy(place, &number, size);
    else if (size == sizeof(word))
        memcpy(place, &word, size);
    else
        memcpy(place, &flag, sizeof(flag));
}

int config_key_set(const struct config_key *key, const char *text, void *object,
                   const struct config *config, struct text *why)
{
    struct value value;
    if (value_parse(key, text, &value, why) < 0)
        return -1;
    if (key->size == 0) /* vms: config.c makes the VMs of it */
        return 0;
    void *place = key_place(key, object);
    if (type_is_string(key->type))
        return string_store(place, text);
    if (key->type == TYPE_POOL && strcmp(text, "any") != 0) {
        int pool = pool_resolve(config, text, why);
        if (pool < 0)
            return -1;
        value.number = (uint64_t)pool;
    }
    if (key->type == TYPE_POOLS && pools_resolve(config, text, &value.number, why) < 0)
        return -1;
    if (key->type == TYPE_DURABILITY)
        ((struct config *)object)->group_ms = value.group_ms;
    number_store(place, key->size, value.number);
    return 0;
}

bool config_key_same(const struct config_key *key, const void *object, const void *other)
{
    const char *place = (const char *)object + key->offset;
    const char *other_place = (const char *)other + key->offset;
    if (!type_is_string(key->type))
        return memcmp(place, other_place, key->size) == 0;
    char *string, *other_string;
    memcpy(&string, place, sizeof(string));
    memcpy(&other_string, other_place, sizeof(other_string));
    return strcmp(string ? string : "", other_string ? other_string : "") == 0;
}

void config_object_finish(enum config_object kind, void *object)
{
    for (const struct config_key *key = NULL; (key = config_key_next(key));) {
        if (key->object != kind || !type_is_string(key->type))
            continue;
        char **place = key_place(key, object);
        free(*place);
        *place = NULL;
    }
}

/* command_next reads one word of a command line to *out; returns what follows it, or NULL. */
static const char *command_next(const char *in, char **out)
{
    char quote = '\0';
    for (; *in && (quote || !isblank((unsigned char)*in)); in++) {
        if (quote ? *in == quote : *in == '"' || *in == '\'') {
            quote = quote ? '\0' : *in;
            continue;
        }
        bool escapes = *in == '\\' && quote != '\'';
        if (escapes && quote == '"' && in[1] != '"' && in[1] != '\\')
            escapes = false;
        if (escapes && !*++in)
            return NULL;
        *(*out)++ = *in;
    }
    *(*out)++ = '\0';
    return quote ? NULL : in;
}

char **config_split_command(const char *command, const char **error)
{
    size_t array = (COMMAND_ARG_MAX + 1) * sizeof(char *);
    char **words = calloc(1, array + strlen(command) + 1);
    if (!words) {
        *error = "out of memory";
        return NULL;
    }
    char *out = (char *)words + array;
    size_t count = 0;
    *error = NULL;
    for (const char *in = command + strspn(command, " \t"); *in; in += strspn(in, " \t")) {
        if (count == COMMAND_ARG_MAX) {
            *error = "too many words";
            break;
        }
        words[count++] = out;
        in = command_next(in, &out);
        if (!in) {
            *error = "a quote that is not closed, or a backslash at the end";
            break;
        }
    }
    if (!*error && (count == 0 || !*words[0]))
        *error = "no command";
    if (!*error)
        return words;
    free(words);
    return NULL;
}
