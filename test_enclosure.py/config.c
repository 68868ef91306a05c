#include "config.h"

#include "config_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX (1024u * 1024)

/* section_apply sets what the section says about `object`. */
static void section_apply(struct config_parser *parser, struct config *config,
                          const struct config_section *section, enum config_object kind,
                          void *object)
{
    const struct config_source *source = parser->source;
    for (size_t i = section->first; i < section->first + section->count; i++) {
        const struct config_entry *entry = &source->entries[i];
        struct text why = {0};
        if (entry->key->object == kind &&
            config_key_set(entry->key, entry->value, object, config, &why) < 0)
            config_fail_value(parser, entry, &why);
        text_finish(&why);
    }
}

static void defaults_apply(struct config_parser *parser, const struct config *config,
                           enum config_object kind, void *object)
{
    for (const struct config_key *key = NULL; (key = config_key_next(key));) {
        struct text why = {0};
        if (key->object == kind && key->default_value &&
            config_key_set(key, key->default_value, object, config, &why) < 0)
            config_fail_memory(
                parser); /* the table's own values are right: the unit test sees to it */
        text_finish(&why);
    }
}

/* path_resolve makes *path absolute, relative to the file's directory. */
static void path_resolve(struct config_parser *parser, const char *directory, char **path)
{
    const char *relative = *path;
    struct text absolute = {0};
    while (relative[0] == '.' && relative[1] == '/')
        relative += 1 + strspn(relative + 1, "/");
    if (relative[0] != '/')
        text_printf(&absolute, "%s/", strcmp(directory, "/") == 0 ? "" : directory);
    text_puts(&absolute, strcmp(relative, ".") == 0 ? "" : relative);
    while (!absolute.failed && absolute.size > 1 && absolute.data[absolute.size - 1] == '/')
        absolute.data[--absolute.size] = '\0';
    char *taken = text_take(&absolute, NULL);
    if (!taken) {
        config_fail_memory(parser);
        return;
    }
    free(*path);
    *path = taken;
}

/* directory_of returns the real path of the directory that `path` is in, or NULL with errno. */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return realpath(".", NULL);
    char *copy = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    char *directory = copy ? realpath(copy, NULL) : NULL;
    int error = errno;
    free(copy);
    errno = error;
    return directory;
}

static bool path_is_in(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    if (size == 1)
        return true; /* "/" */
    return strncmp(path, directory, size) == 0 && (path[size] == '\0' || path[size] == '/');
}

int config_set_mountpoint(struct config *config, const char *mountpoint, struct text *error)
{
    struct config_parser parser = {.error = error};
    char *path = strdup(mountpoint), *directory = realpath(".", NULL);
    if (!path || !directory)
        text_printf(error, "cannot use mountpoint %s: %s", mountpoint, strerror(errno));
    else
        path_resolve(&parser, directory, &path);
    free(directory);
    if (path && !error->size && path_is_in(config->state_dir, path))
        text_printf(error, "state_dir %s lies in mountpoint %s, which hides it: choose another",
                    config->state_dir, path);
    if (error->size) {
        free(path);
        return -1;
    }
    free(config->mountpoint);
    config->mountpoint = path;
    return 0;
}

static unsigned vgpufs_line(const struct config_parser *parser, const char *key)
{
    const struct config_section *section =
        config_source_section(parser->source, SECTION_VGPUFS, "");
    return section ? config_source_line(parser->source, section, key) : 0;
}

static void config_build_paths(struct config_parser *parser, struct config *config)
{
    char *directory = directory_of(parser->path);
    if (!directory) {
        config_fail_at(parser, 0,
                       "cannot find the directory of this file: %s: name another with -c",
                       strerror(errno));
        return;
    }
    const char *slash = strrchr(parser->path, '/');
    const char *name = slash ? slash + 1 : parser->path;
    free(config->file);
    if (asprintf(&config->file, "%s/%s", directory[1] ? directory : "", name) < 0) {
        config->file = NULL;
        config_fail_memory(parser);
    }
    path_resolve(parser, directory, &config->mountpoint);
    path_resolve(parser, directory, &config->state_dir);
    free(directory);
    if (parser->failed)
        return;
    if (path_is_in(config->state_dir, config->mountpoint)) {
        unsigned line = vgpufs_line(parser, "state_dir");
        config_fail_at(
            parser, line ? line : vgpufs_line(parser, "mountpoint"),
            "state_dir lies in the mountpoint, which hides it: choose another directory");
    }
}

static void config_build_pools(struct config_parser *parser, struct config *config)
{
    const struct config_source *source = parser->source;
    config->pools = calloc(CONFIG_MAX_POOLS, sizeof(*config->pools));
    if (!config->pools) {
        config_fail_memory(parser);
        return;
    }
    strcpy(config->pools[0].name, "A");
    strcpy(config->pools[1].name, "B");
    config->pool_count = 2;
    for (size_t i = 0; i < source->section_count; i++) {
        const struct config_section *section = &source->sections[i];
        if (section->kind == SECTION_POOL && config_find_pool(config, section->pool) < 0)
            strcpy(config->pools[config->pool_count++].name, section->pool);
    }
    for (size_t i = 0; i < config->pool_count; i++) {
        struct config_pool *pool = &config->pools[i];
        const struct config_section *section =
            config_source_section(source, SECTION_POOL, pool->name);
        defaults_apply(parser, config, OBJECT_POOL, pool);
        if (section)
            section_apply(parser, config, section, OBJECT_POOL, pool);
    }
}

static void config_build_globals(struct config_parser *parser, struct config *config,
                                 bool plain_user)
{
    static const enum config_section_kind kinds[] = {SECTION_VGPUFS, SECTION_NFS, SECTION_DEFAULTS};
    defaults_apply(parser, config, OBJECT_CONFIG, config);
    if (plain_user)
        config->uid_base = 0;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const struct config_section *section = config_source_section(parser->source, kinds[i], "");
        if (section)
            section_apply(parser, config, section, OBJECT_CONFIG, config);
        unsigned line = section ? config_source_line(parser->source, section, "uid_base") : 0;
        if (plain_user && config->uid_base && line)
            config_fail_at(parser, line,
                           "uid_base = '%llu': only root can give files to other users: "
                           "remove the key or set 0",
                           (unsigned long long)config->uid_base);
    }
}

/*
 * vm_check looks for limits that stand in a section and contradict the identity that is fixed for
 * it. A limit of [defaults] does not: it is for those that claim, and [vm N] may fix another.
 */
static void vm_check(struct config_parser *parser, const struct config *config,
                     const struct config_section *section, const struct config_vm *vm)
{
    const struct config_source *source = parser->source;
    struct text title = {0};
    config_section_heading(&title, section);
    const char *in = title.data ? title.data : "";
    if (vm->fixed_pool >= 0 && !(vm->allowed_pools >> vm->fixed_pool & 1) &&
        config_source_line(source, section, "pools")) {
        unsigned line = config_source_line(source, section, "pool");
        config_fail_at(
            parser, line ? line : config_source_line(source, section, "pools"),
            "%s has the fixed pool %s, which its pools do not allow: add it there or choose "
            "another",
            in, config->pools[vm->fixed_pool].name);
    }
    if (vm->fixed_priority > (int)vm->max_priority &&
        config_source_line(source, section, "max_priority")) {
        unsigned line = config_source_line(source, section, "priority");
        config_fail_at(
            parser, line ? line : config_source_line(source, section, "max_priority"),
            "%s has the fixed priority %d, which exceeds its max_priority %u: lower the one or "
            "raise the other",
            in, vm->fixed_priority, vm->max_priority);
    }
    text_finish(&title);
}

/* vm_settle_uid decides who owns the VM's directory. */
static void vm_settle_uid(struct config_parser *parser, const struct config *config,
                          const struct config_section *section, struct config_vm *vm,
                          bool plain_user)
{
    unsigned line = section ? config_source_line(parser->source, section, "uid") : 0;
    if (!line)
        vm->uid = config->uid_base ? (uid_t)(config->uid_base + vm->id) : geteuid();
    else if (plain_user && vm->uid != geteuid())
        config_fail_at(parser, line,
                       "uid = '%lu': only root can give files to other users: remove the key",
                       (unsigned long)vm->uid);
}

static const char *vms_value(const struct config_source *source)
{
    const struct config_section *section = config_source_section(source, SECTION_VGPUFS, "");
    for (size_t i = 0; section && i < section->count; i++)
        if (source->entries[section->first + i].key->type == TYPE_VMS)
            return source->entries[section->first + i].value;
    return config_key_find(SECTION_VGPUFS, "vms")->default_value;
}

/* config_list_vms makes a VM like `model` for each number of `vms` and each [vm N]. */
static int config_list_vms(struct config_parser *parser, struct config *config,
                           const struct config_vm *model)
{
    bool *exists = calloc(CONFIG_MAX_VM_ID + 1, sizeof(*exists));
    struct text why = {0};
    int result = -1;
    if (!exists)
        goto out;
    const struct config_key *vms = config_key_find(SECTION_VGPUFS, "vms");
    if (config_key_check(vms, vms_value(parser->source), exists, &why) < 0)
        goto out;
    for (unsigned id = 1; id <= CONFIG_MAX_VM_ID; id++) {
        exists[id] = exists[id] || parser->vm_lines[id];
        config->vm_count += exists[id];
    }
    config->vms = calloc(config->vm_count ? config->vm_count : 1, sizeof(*config->vms));
    if (!config->vms)
        goto out;
    size_t count = 0;
    for (unsigned id = 1; id <= CONFIG_MAX_VM_ID; id++) {
        if (!exists[id])
            continue;
        config->vms[count] = *model;
        config->vms[count++].id = id;
    }
    result = 0;
out:
    if (result < 0) {
        config->vm_count = 0;
        config_fail_memory(parser); /* the value itself was checked when it was read */
    }
    text_finish(&why);
    free(exists);
    return result;
}

static struct config_vm *find_vm(const struct config *config, unsigned id)
{
    size_t low = 0, high = config->vm_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (config->vms[middle].id == id)
            return &config->vms[middle];
        if (config->vms[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static void config_build_vms(struct config_parser *parser, struct config *config, bool plain_user)
{
    const struct config_source *source = parser->source;
    struct config_vm model = {0}; /* owns nothing: the only string, address, has no default */
    defaults_apply(parser, config, OBJECT_VM, &model);
    const struct config_section *defaults = config_source_section(source, SECTION_DEFAULTS, "");
    if (defaults) {
        section_apply(parser, config, defaults, OBJECT_VM, &model);
        vm_check(parser, config, defaults, &model);
    }
    if (config_list_vms(parser, config, &model) < 0)
        return;
    for (size_t i = 0; i < config->vm_count; i++)
        vm_settle_uid(parser, config, NULL, &config->vms[i], plain_user);
    for (size_t i = 0; i < source->section_count; i++) {
        const struct config_section *section = &source->sections[i];
        if (section->kind != SECTION_VM)
            continue;
        struct config_vm *vm = find_vm(config, section->vm);
        section_apply(parser, config, section, OBJECT_VM, vm);
        vm_check(parser, config, section, vm);
        vm_settle_uid(parser, config, section, vm, plain_user);
    }
}

static struct config *config_build(struct config_parser *parser, bool plain_user)
{
    struct config *config = calloc(1, sizeof(*config));
    if (!config) {
        config_fail_memory(parser);
        return NULL;
    }
    config_build_pools(parser, config);
    if (!parser->no_memory)
        config_build_globals(parser, config, plain_user);
    if (!parser->no_memory)
        config_build_vms(parser, config, plain_user);
    if (!parser->no_memory)
        config_build_paths(parser, config);
    if (!parser->failed)
        return config;
    config_destroy(config);
    return NULL;
}

static struct config *parse(const char *content, size_t size, const char *path, bool plain_user,
                            struct text *error)
{
    text_clear(error);
    struct config *config = NULL;
    struct config_parser *parser = calloc(1, sizeof(*parser));
    struct config_source *source = calloc(1, sizeof(*source));
    if (!parser || !source) {
        text_puts(error, "out of memory");
        goto out;
    }
    parser->path = path;
    parser->error = error;
    parser->source = source;
    if (size > FILE_MAX)
        config_fail_at(parser, 0, "the file is larger than %u bytes: name another with -c",
                       FILE_MAX);
    if (!parser->failed)
        config_source_read(parser, content, size);
    if (!parser->failed)
        config = config_build(parser, plain_user);
    if (config) {
        config->source = source;
        source = NULL;
    }
out:
    config_source_destroy(source);
    free(parser);
    return config;
}

struct config *config_parse(const char *content, const char *path, bool plain_user,
                            struct text *error)
{
    return parse(content, strlen(content), path, plain_user, error);
}

/* file_read appends the file, at most one byte more than FILE_MAX; -1 with errno. */
static int file_read(const char *path, struct text *content)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -1;
    ssize_t count = 0;
    while (content->size <= FILE_MAX) {
        size_t space = FILE_MAX + 1 - content->size;
        space = space < 65536 ? space : 65536;
        if (!text_reserve(content, space)) {
            errno = ENOMEM;
            count = -1;
            break;
        }
        do
            count = read(fd, content->data + content->size, space);
        while (count < 0 && errno == EINTR);
        if (count <= 0)
            break;
        content->size += (size_t)count;
    }
    int error = errno;
    close(fd);
    errno = error;
    return count < 0 ? -1 : 0;
}

struct config *config_load(const char *path, bool plain_user, struct text *error)
{
    struct text content = {0};
    struct config *config = NULL;
    text_clear(error);
    if (file_read(path, &content) < 0) {
        int number = errno;
        text_puts(error, "cannot read ");
        text_escape(error, path, strlen(path), PATH_MAX);
        text_printf(error, ": %s: %s name another with -c", strerror(number),
                    number == ENOENT ? "copy the sample or" : "mend that or");
    } else {
        config = parse(content.data, content.size, path, plain_user, error);
    }
    text_finish(&content);
    return config;
}

void config_destroy(struct config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < config->pool_count; i++)
        config_object_finish(OBJECT_POOL, &config->pools[i]);
    for (size_t i = 0; i < config->vm_count; i++)
        config_object_finish(OBJECT_VM, &config->vms[i]);
    config_object_finish(OBJECT_CONFIG, config);
    config_source_destroy(config->source);
    free(config->file);
    free(config->pools);
    free(config->vms);
    free(config);
}

const struct config_vm *config_find_vm(const struct config *config, unsigned id)
{
    return find_vm(config, id);
}

int config_find_pool(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->pool_count; i++)
        if (strcmp(config->pools[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* refuse writes the message; line 0: the file no longer has the line. */
static bool __attribute__((format(printf, 4, 5)))
refuse(const struct config *new, unsigned line, struct text *error, const char *format, ...)
{
    text_clear(error);
    text_escape(error, new->file, strlen(new->file), PATH_MAX);
    if (line)
        text_printf(error, ":%u", line);
    text_puts(error, ": ");
    va_list args;
    va_start(args, format);
    text_vprintf(error, format, args);
    va_end(args);
    text_puts(error, " while vgpufs runs: take that back, or restart vgpufs");
    return true;
}

static unsigned key_line(const struct config *config, const struct config_key *key,
                         const char *pool)
{
    static const enum config_section_kind kinds[] = {SECTION_VGPUFS, SECTION_NFS, SECTION_DEFAULTS,
                                                     SECTION_POOL};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!(key->sections & kinds[i]))
            continue;
        const struct config_section *section =
            config_source_section(config->source, kinds[i], pool);
        if (section)
            return config_source_line(config->source, section, key->name);
    }
    return 0;
}

static bool pools_refused(const struct config *old, const struct config *new, struct text *error)
{
    for (size_t i = 0; i < new->pool_count; i++) {
        const char *name = new->pools[i].name;
        const struct config_section *section =
            config_source_section(new->source, SECTION_POOL, name);
        unsigned line = section ? section->line : 0;
        if (config_find_pool(old, name) < 0)
            return refuse(new, line, error, "[pool %s] cannot be added", name);
    }
    for (size_t i = 0; i < old->pool_count; i++)
        if (config_find_pool(new, old->pools[i].name) < 0)
            return refuse(new, 0, error, "[pool %s] cannot be removed", old->pools[i].name);
    for (size_t i = 0; i < new->pool_count; i++) {
        const char *name = new->pools[i].name;
        const struct config_section *section =
            config_source_section(new->source, SECTION_POOL, name);
        if (strcmp(old->pools[i].name, name) != 0)
            return refuse(new, section ? section->line : 0, error,
                          "[pool %s] cannot change its place among the pools", name);
    }
    return false;
}

bool config_reload_refused(const struct config *old, const struct config *new, struct text *error)
{
    if (pools_refused(old, new, error))
        return true;
    for (const struct config_key *key = NULL; (key = config_key_next(key));) {
        if (!key->fixed)
            continue;
        if (key->object == OBJECT_CONFIG && !config_key_same(key, old, new))
            return refuse(new, key_line(new, key, ""), error, "%s cannot change", key->name);
        for (size_t i = 0; key->object == OBJECT_POOL && i < new->pool_count; i++)
            if (!config_key_same(key, &old->pools[i], &new->pools[i]))
                return refuse(new, key_line(new, key, new->pools[i].name), error,
                              "%s of [pool %s] cannot change", key->name, new->pools[i].name);
    }
    return false;
}
