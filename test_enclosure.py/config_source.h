/*
 * The text of a configuration file as a list of its sections and keys, each
 * checked by itself and with its line; and where the first error of the file
 * is kept. config.c makes a struct config of it. Only the config*.c files use
 * this.
 *
 * Not thread-safe: one thread reads a file.
 */
#ifndef VGPUFS_CONFIG_SOURCE_H
#define VGPUFS_CONFIG_SOURCE_H

#include "config_keys.h"

/* One "key = value" and where it stands. */
struct config_entry {
    const struct config_key *key;
    char *value;
    unsigned line;
};

/* One [section]; its entries follow each other, since no section may come twice. */
struct config_section {
    enum config_section_kind kind;
    unsigned vm;
    char pool[CONFIG_POOL_NAME];
    unsigned line;
    size_t first, count;
};

struct config_source {
    struct config_section *sections;
    size_t section_count, section_capacity;
    struct config_entry *entries;
    size_t entry_count, entry_capacity;
};

struct config_parser {
    const char *path;
    struct text *error;
    unsigned error_line;
    bool failed, no_memory;
    const char *rest, *end; /* what inih has not been given yet */
    unsigned line;          /* the one that it was given last */
    bool in_section;        /* source's last section is open */
    size_t pool_sections;
    struct config_source *source;
    unsigned vm_lines[CONFIG_MAX_VM_ID + 1]; /* where [vm N] stands, 0: nowhere */
};

/*
 * config_fail_at reports an error at that line (0: of the whole file), unless there is one further
 * up already.
 */
void config_fail_at(struct config_parser *parser, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void config_fail_memory(struct config_parser *parser);
/* config_fail_value: `why` is from config_key_check or config_key_set. */
void config_fail_value(struct config_parser *parser, const struct config_entry *entry,
                       const struct text *why);

/* config_source_read fills parser->source, which the caller allocated, all zero, and destroys. */
void config_source_read(struct config_parser *parser, const char *content, size_t size);
void config_source_destroy(struct config_source *source);
/* config_source_section returns NULL if the file has none; `pool` matters with SECTION_POOL. */
const struct config_section *config_source_section(const struct config_source *source,
                                                   enum config_section_kind kind, const char *pool);
/* config_source_line returns the line of the key in that section, or 0. */
unsigned config_source_line(const struct config_source *source,
                            const struct config_section *section, const char *key);
/* config_section_heading appends "[vm 3]" and the like. */
void config_section_heading(struct text *out, const struct config_section *section);

#endif
