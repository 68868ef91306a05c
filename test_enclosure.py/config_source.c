#include "config_source.h"

#include "common/nearest.h"
#include "common/number.h"

#include <ctype.h>
#include <ini.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LINE_LIMIT 4096 /* what inih is asked to take; see config_source_read */
#define QUOTE_MAX  80   /* bytes of the file in a message */

void config_fail_at(struct config_parser *parser, unsigned line, const char *format, ...)
{
    if (parser->failed && parser->error_line <= line)
        return;
    parser->failed = true;
    parser->error_line = line;
    text_clear(parser->error);
    text_escape(parser->error, parser->path, strlen(parser->path), PATH_MAX);
    if (line)
        text_printf(parser->error, ":%u", line);
    text_puts(parser->error, ": ");
    va_list args;
    va_start(args, format);
    text_vprintf(parser->error, format, args);
    va_end(args);
}

void config_fail_memory(struct config_parser *parser)
{
    config_fail_at(parser, 0, "out of memory: end other programs and try again");
    parser->no_memory = true;
}

/* shown gives a piece of the file as it may stand in a message. */
static const char *shown(struct text *text, const char *bytes, size_t size)
{
    text_clear(text);
    text_escape(text, bytes, size, QUOTE_MAX);
    if (size > QUOTE_MAX)
        text_puts(text, "...");
    return text->data ? text->data : "";
}

/* array_grow returns the array with room for one more element, or NULL; then the old one stays. */
static void *array_grow(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    size_t more = *capacity ? *capacity * 2 : 16;
    void *bigger = realloc(array, more * size);
    if (bigger)
        *capacity = more;
    return bigger;
}

void config_source_destroy(struct config_source *source)
{
    if (!source)
        return;
    for (size_t i = 0; i < source->entry_count; i++)
        free(source->entries[i].value);
    free(source->entries);
    free(source->sections);
    free(source);
}

unsigned config_source_line(const struct config_source *source,
                            const struct config_section *section, const char *key)
{
    for (size_t i = section->first; i < section->first + section->count; i++)
        if (strcmp(source->entries[i].key->name, key) == 0)
            return source->entries[i].line;
    return 0;
}

const struct config_section *config_source_section(const struct config_source *source,
                                                   enum config_section_kind kind, const char *pool)
{
    for (size_t i = 0; i < source->section_count; i++) {
        const struct config_section *section = &source->sections[i];
        if (section->kind == kind && (kind != SECTION_POOL || strcmp(section->pool, pool) == 0))
            return section;
    }
    return NULL;
}

void config_section_heading(struct text *out, const struct config_section *section)
{
    if (section->kind == SECTION_VM)
        text_printf(out, "[vm %u]", section->vm);
    else if (section->kind == SECTION_POOL)
        text_printf(out, "[pool %s]", section->pool);
    else
        text_puts(out, config_section_title(section->kind));
}

/* The words before the first blank of a heading, and what section they begin. */
static const struct {
    const char *word;
    enum config_section_kind kind;
} headings[] = {{"vgpufs", SECTION_VGPUFS},
                {"nfs", SECTION_NFS},
                {"defaults", SECTION_DEFAULTS},
                {"vm", SECTION_VM},
                {"pool", SECTION_POOL}};

static void heading_unknown(struct config_parser *parser, const char *heading, const char *word)
{
    struct text quoted = {0};
    const char *title = shown(&quoted, heading, strlen(heading));
    if (config_section_is_unsupported(word)) {
        config_fail_at(parser, parser->line,
                       "section [%s] is not supported by this version: remove it and its keys",
                       title);
        text_finish(&quoted);
        return;
    }
    struct nearest nearest = {.word = word};
    const char *meant = NULL;
    for (size_t i = 0; i < sizeof(headings) / sizeof(headings[0]); i++) {
        const char *before = nearest.best;
        nearest_offer(&nearest, headings[i].word, strlen(headings[i].word));
        if (nearest.best != before)
            meant = config_section_title(headings[i].kind);
    }
    if (meant)
        config_fail_at(parser, parser->line, "unknown section [%s]: did you mean %s?", title,
                       meant);
    else
        config_fail_at(
            parser, parser->line,
            "unknown section [%s]: there are [vgpufs], [nfs], [defaults], [vm N] and [pool NAME]",
            title);
    text_finish(&quoted);
}

/* section_name reads what stands behind the heading's first word. */
static int section_name(struct config_parser *parser, struct config_section *section,
                        const char *name)
{
    uint64_t vm;
    struct text quoted = {0};
    const char *title = config_section_title(section->kind);
    int result = -1;
    switch (section->kind) {
    case SECTION_VGPUFS:
    case SECTION_NFS:
    case SECTION_DEFAULTS:
        if (!*name)
            return 0;
        config_fail_at(parser, parser->line, "%s takes no name: remove '%s'", title,
                       shown(&quoted, name, strlen(name)));
        break;
    case SECTION_VM:
        result = number_parse(name, 1, CONFIG_MAX_VM_ID, &vm);
        if (result == 0)
            section->vm = (unsigned)vm;
        else
            config_fail_at(parser, parser->line, "%s with N = '%s': takes a number from 1 to %u",
                           title, shown(&quoted, name, strlen(name)), CONFIG_MAX_VM_ID);
        break;
    case SECTION_POOL:
        result = config_pool_name_is_valid(name) ? 0 : -1;
        if (result == 0)
            strcpy(section->pool, name); /* valid names fit */
        else
            config_fail_at(
                parser, parser->line,
                "%s with NAME = '%s': takes a capital letter, then at most %d letters, digits, "
                "'_' or '-'",
                title, shown(&quoted, name, strlen(name)), CONFIG_POOL_NAME - 2);
        break;
    }
    text_finish(&quoted);
    return result;
}

static unsigned section_first_line(const struct config_parser *parser,
                                   const struct config_section *section)
{
    if (section->kind == SECTION_VM)
        return parser->vm_lines[section->vm];
    const struct config_section *first =
        config_source_section(parser->source, section->kind, section->pool);
    return first ? first->line : 0;
}

static void section_add(struct config_parser *parser, struct config_section *section)
{
    struct config_source *source = parser->source;
    unsigned first = section_first_line(parser, section);
    if (first) {
        struct text title = {0};
        config_section_heading(&title, section);
        config_fail_at(parser, parser->line,
                       "%s stands at line %u already: make one section of both",
                       title.data ? title.data : "", first);
        text_finish(&title);
        return;
    }
    bool counts = section->kind == SECTION_POOL && strcmp(section->pool, "A") != 0 &&
                  strcmp(section->pool, "B") != 0;
    parser->pool_sections += counts;
    if (parser->pool_sections > CONFIG_MAX_POOLS - 2) {
        config_fail_at(parser, parser->line,
                       "[pool %s] is one too many: at most %d pools, A and B among "
                       "them",
                       section->pool, CONFIG_MAX_POOLS);
        return;
    }
    struct config_section *sections = array_grow(source->sections, source->section_count,
                                                 &source->section_capacity, sizeof(*sections));
    if (!sections) {
        config_fail_memory(parser);
        return;
    }
    source->sections = sections;
    section->line = parser->line;
    section->first = source->entry_count;
    if (section->kind == SECTION_VM)
        parser->vm_lines[section->vm] = parser->line;
    source->sections[source->section_count++] = *section;
    parser->in_section = true;
}

/* heading_read takes a line that begins with '['. What inih makes of it does not matter. */
static void heading_read(struct config_parser *parser, const char *line, size_t size)
{
    const char *close = memchr(line, ']', size);
    const char *after = close ? close + 1 : line;
    while (after < line + size && isblank((unsigned char)*after))
        after++;
    if (!close || (after < line + size && *after != ';' && *after != '#')) {
        config_fail_at(parser, parser->line,
                       close ? "text behind ']': put it on a line of its own"
                             : "'[' without ']': close the heading");
        return;
    }
    char heading[LINE_LIMIT];
    size_t length = (size_t)(close - line) - 1;
    memcpy(heading, line + 1, length);
    heading[length] = '\0';
    char word[LINE_LIMIT];
    strcpy(word, heading);
    char *name;
    char *first = strtok_r(word, " \t", &name);
    name += strspn(name, " \t");
    for (size_t end = strlen(name); end && isblank((unsigned char)name[end - 1]); end--)
        name[end - 1] = '\0';
    for (size_t i = 0; first && i < sizeof(headings) / sizeof(headings[0]); i++) {
        if (strcmp(first, headings[i].word) != 0)
            continue;
        struct config_section section = {.kind = headings[i].kind};
        if (section_name(parser, &section, name) == 0)
            section_add(parser, &section);
        return;
    }
    heading_unknown(parser, heading, first ? first : "");
}

/* line_check refuses what inih would cut, or what could not be printed. */
static int line_check(struct config_parser *parser, const char *line, size_t size, size_t limit)
{
    if (size > limit) {
        config_fail_at(parser, parser->line, "the line has %zu bytes: shorten it to %zu", size,
                       limit);
        return -1;
    }
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            config_fail_at(parser, parser->line, "a control character (\\x%02X): remove it", c);
            return -1;
        }
    }
    return 0;
}

/*
 * parser_read_line is inih's reader. inih calls the handler for a line before it asks for the next
 * one, so parser->line is the handler's line on every build of inih (its own line argument,
 * INI_HANDLER_LINENO, is a build option that Debian's does not have). Blanks at the start are left
 * out: inih would take an indented line for more of the value above it. Comments come as empty
 * lines: they may be as long as they like.
 */
static char *parser_read_line(char *buffer, int size, void *stream)
{
    struct config_parser *parser = stream;
    if (parser->failed || parser->rest >= parser->end || size < 2)
        return NULL;
    parser->line++;
    const char *line = parser->rest;
    const char *end = memchr(line, '\n', (size_t)(parser->end - line));
    parser->rest = end ? end + 1 : parser->end;
    end = end ? end : parser->end;
    while (line < end && isblank((unsigned char)*line))
        line++;
    while (line < end && (isblank((unsigned char)end[-1]) || end[-1] == '\r'))
        end--;
    if (line == end || *line == ';' || *line == '#')
        line = end;
    size_t length = (size_t)(end - line);
    size_t limit = (size_t)size - 1 < LINE_LIMIT - 1 ? (size_t)size - 1 : LINE_LIMIT - 1;
    if (line_check(parser, line, length, limit) < 0)
        return NULL;
    if (length && *line == '[')
        heading_read(parser, line, length);
    memcpy(buffer, line, length);
    buffer[length] = '\0';
    return parser->failed ? NULL : buffer;
}

/* key_elsewhere returns in which section a key belongs that this one does not have, or NULL. */
static const char *key_elsewhere(const char *name)
{
    static const enum config_section_kind kinds[] = {SECTION_VGPUFS, SECTION_NFS, SECTION_DEFAULTS,
                                                     SECTION_VM, SECTION_POOL};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (config_key_find(kinds[i], name))
            return config_section_title(kinds[i]);
    return NULL;
}

static void key_unknown(struct config_parser *parser, const struct config_section *section,
                        const char *name)
{
    struct text title = {0}, quoted = {0};
    const char *key = shown(&quoted, name, strlen(name));
    config_section_heading(&title, section);
    const char *in = title.data ? title.data : "";
    struct nearest nearest = {.word = name};
    for (const struct config_key *known = NULL; (known = config_key_next(known));)
        if (known->sections & section->kind)
            nearest_offer(&nearest, known->name, strlen(known->name));
    const char *elsewhere = key_elsewhere(name);
    if (config_key_is_unsupported(section->kind, name))
        config_fail_at(parser, parser->line, "key '%s' is not supported by this version: remove it",
                       key);
    else if (elsewhere)
        config_fail_at(parser, parser->line, "unknown key '%s' in %s: it belongs in %s", key, in,
                       elsewhere);
    else if (nearest.best)
        config_fail_at(parser, parser->line, "unknown key '%s' in %s: did you mean '%s'?", key, in,
                       nearest.best);
    else
        config_fail_at(parser, parser->line,
                       "unknown key '%s' in %s: remove it (vgpufs --help-config lists the keys)",
                       key, in);
    text_finish(&title);
    text_finish(&quoted);
}

void config_fail_value(struct config_parser *parser, const struct config_entry *entry,
                       const struct text *why)
{
    struct text quoted = {0};
    if (!why->size)
        config_fail_memory(parser);
    else
        config_fail_at(parser, entry->line, "%s = '%s': %s", entry->key->name,
                       shown(&quoted, entry->value, strlen(entry->value)), why->data);
    text_finish(&quoted);
}

/* value_has_comment: " #" begins no comment here, though many expect it to. */
static bool value_has_comment(const char *value)
{
    for (const char *c = value; *c; c++)
        if (*c == '#' && (c == value || isblank((unsigned char)c[-1])))
            return true;
    return false;
}

static void entry_add(struct config_parser *parser, struct config_section *section,
                      const struct config_key *key, const char *value)
{
    struct config_source *source = parser->source;
    struct config_entry *entries =
        array_grow(source->entries, source->entry_count, &source->entry_capacity, sizeof(*entries));
    if (!entries) {
        config_fail_memory(parser);
        return;
    }
    source->entries = entries;
    struct config_entry entry = {key, strdup(value), parser->line};
    if (!entry.value) {
        config_fail_memory(parser);
        return;
    }
    source->entries[source->entry_count++] = entry;
    section->count++;
    struct text why = {0};
    if (config_key_check(key, value, NULL, &why) < 0)
        config_fail_value(parser, &entry, &why);
    text_finish(&why);
}

/* parser_take is inih's handler. The section that inih passes may be cut short: ours is not. */
static int parser_take(void *user, const char *ini_section, const char *name, const char *value)
{
    struct config_parser *parser = user;
    (void)ini_section;
    if (parser->failed || !name)
        return 1;
    struct text quoted = {0};
    if (!parser->in_section) {
        config_fail_at(parser, parser->line,
                       "key '%s' stands before any section: put it under [vgpufs], "
                       "[defaults], [vm N] or [pool NAME]",
                       shown(&quoted, name, strlen(name)));
        text_finish(&quoted);
        return 1;
    }
    struct config_section *section = &parser->source->sections[parser->source->section_count - 1];
    const struct config_key *key = config_key_find(section->kind, name);
    unsigned first = key ? config_source_line(parser->source, section, name) : 0;
    if (!key)
        key_unknown(parser, section, name);
    else if (first)
        config_fail_at(parser, parser->line,
                       "key '%s' stands at line %u already: remove one of them", name, first);
    else if (!value)
        config_fail_at(parser, parser->line, "%s has no value: write %s = VALUE", name, name);
    else if (value_has_comment(value))
        config_fail_at(parser, parser->line,
                       "%s: a comment behind a value begins with ' ;': replace the '#'", name);
    else
        entry_add(parser, section, key, value);
    return 1;
}

void config_source_read(struct config_parser *parser, const char *content, size_t size)
{
    static const char bom[] = "\xef\xbb\xbf";
    parser->rest = content;
    parser->end = content + size;
    if (size >= 3 && memcmp(content, bom, 3) == 0)
        parser->rest += 3;
#ifdef HAVE_INI_MAX_LINE
    /* Some builds of inih, Debian's among them, let the program choose; others were built with
     * their limit (200 if nobody changed it), which parser_read_line is told. */
    ini_max_line = LINE_LIMIT;
#endif
    int line = ini_parse_stream(parser_read_line, parser, parser_take, parser);
    if (line > 0)
        config_fail_at(parser, (unsigned)line,
                       "neither a [section] nor a 'key = value': correct it, or "
                       "make it a comment with '#' (a value has one line)");
    else if (line < 0)
        config_fail_memory(parser);
}
