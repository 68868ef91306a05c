#include "command.h"

#include "common/number.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int refuse(char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(char *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error, COMMAND_MAX_ERROR, format, args);
    va_end(args);
    return EINVAL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct line command_trim(const char *bytes, size_t size)
{
    while (size && is_blank(*bytes)) {
        bytes++;
        size--;
    }
    while (size && is_blank(bytes[size - 1]))
        size--;
    return (struct line){.bytes = bytes, .size = size};
}

bool command_tag_is_valid(const char *tag)
{
    size_t length = strlen(tag);
    if (length == 0 || length > COMMAND_MAX_TAG || strcmp(tag, "all") == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)tag[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        bool other = (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
        if (!letter && !(other && i > 0))
            return false;
    }
    return true;
}

/* A blank that separates words ends up as this in the storage, a quoted one stays as it is. */
#define END '\0'

/*
 * value_unquote reads the value at *cursor: up to the next blank, or between double quotes with
 * \" and \\ for the two bytes that mean something there. It writes it back in place, terminates it
 * and moves the cursor behind it. Returns NULL if a quote does not end.
 */
static const char *value_unquote(char **cursor)
{
    char *from = *cursor, *to = from, *value = from;
    if (*from != '"') {
        while (*from && !is_blank(*from) && *from != '"')
            from++;
        if (*from == '"')
            return NULL;
        *cursor = *from ? from + 1 : from;
        *from = END;
        return value;
    }
    for (from++; *from && *from != '"'; from++) {
        if (*from == '\\' && (from[1] == '"' || from[1] == '\\'))
            from++;
        *to++ = *from;
    }
    if (*from != '"' || (from[1] && !is_blank(from[1])))
        return NULL;
    *cursor = from[1] ? from + 2 : from + 1;
    *to = END;
    return value;
}

/* The keys of every command. */
static int common_key_set(struct command *command, const char *key, const char *value, char *error)
{
    if (strcmp(key, "tag") == 0) {
        if (!command_tag_is_valid(value))
            return refuse(error,
                          "tag= takes a letter and up to 63 of A-Z a-z 0-9 . _ -, not 'all'");
        command->tag = value;
        return 0;
    }
    uint64_t *target = key[0] == 't' ? &command->timeout_ms : &command->deadline_ms;
    if (number_parse_ms(value, 1, COMMAND_MAX_TIME_MS, target) < 0)
        return refuse(error, "%s= takes seconds, above 0 and at most 30 days", key);
    return 0;
}

static bool argument_is_given(const struct command *command, const struct workload_param *param)
{
    for (size_t i = 0; i < command->argument_count; i++)
        if (command->arguments[i].param == param)
            return true;
    return false;
}

/* names_append writes ", name" for each name that fits. */
static void names_append(char *error, size_t *used, const char *name)
{
    int n = snprintf(error + *used, COMMAND_MAX_ERROR - *used, "%s%s", *used ? ", " : "", name);
    if (n > 0 && *used + (size_t)n < COMMAND_MAX_ERROR)
        *used += (size_t)n;
    else
        error[*used] = '\0';
}

static int refuse_key(const struct command *command, const char *key, char *error)
{
    char names[COMMAND_MAX_ERROR] = "";
    size_t used = 0;
    for (size_t i = 0; i < command->workload->param_count; i++)
        names_append(names, &used, command->workload->params[i].name);
    names_append(names, &used, "tag, timeout, deadline");
    return refuse(error, "unknown key %.32s; keys of %s: %.400s", key, command->workload->name,
                  names);
}

static int argument_set(struct command *command, const char *key, const char *value, char *error)
{
    static const char *const common[] = {"tag", "timeout", "deadline"};
    for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
        if (strcmp(key, common[i]) == 0)
            return common_key_set(command, key, value, error);
    const struct workload_param *param = workload_find_param(command->workload, key);
    if (!param)
        return refuse_key(command, key, error);
    if (argument_is_given(command, param))
        return refuse(error, "%s= stands twice", key);
    if (command->argument_count == WORKLOAD_MAX_PARAMS)
        return refuse(error, "more than %d keys", WORKLOAD_MAX_PARAMS);
    if (workload_param_check(param, value, error, COMMAND_MAX_ERROR) < 0)
        return EINVAL;
    command->arguments[command->argument_count++] =
        (struct command_argument){.param = param, .value = value};
    return 0;
}

static int arguments_parse(struct command *command, char *cursor, char *error)
{
    unsigned common_seen = 0;
    for (;;) {
        while (is_blank(*cursor))
            cursor++;
        if (!*cursor)
            return 0;
        char *key = cursor;
        while (islower((unsigned char)*cursor) || isdigit((unsigned char)*cursor) || *cursor == '_')
            cursor++;
        if (cursor == key || *cursor != '=')
            return refuse(error, "expected key=value after the command, with no blanks around =");
        *cursor++ = END;
        unsigned bit = strcmp(key, "tag") == 0        ? 1
                       : strcmp(key, "timeout") == 0  ? 2
                       : strcmp(key, "deadline") == 0 ? 4
                                                      : 0;
        if (common_seen & bit)
            return refuse(error, "%s= stands twice", key);
        common_seen |= bit;
        const char *value = value_unquote(&cursor);
        if (!value)
            return refuse(error,
                          "%.32s= has a value with a double quote that does not end, or "
                          "that has something behind it",
                          key);
        int failed = argument_set(command, key, value, error);
        if (failed)
            return failed;
    }
}

static int refuse_command(const struct catalogue *catalogue, const char *name, char *error)
{
    char names[COMMAND_MAX_ERROR] = "";
    size_t used = 0;
    for (size_t i = 0; i < catalogue->count; i++)
        names_append(names, &used, catalogue->workloads[i].name);
    return refuse(error, "unknown command %.64s; commands: %.400s", name, names);
}

/* bytes_check refuses what could never be part of a command, before anything is made of it. */
static int bytes_check(const char *line, size_t size, char *error)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return refuse(error, "byte %zu of the line is the control character 0x%02x", i + 1, c);
    }
    return 0;
}

/* command_has_claim: does the first word hold a ':' as in A:2:3:NOP? */
static bool command_has_claim(const char *line)
{
    return line[strcspn(line, ": \t=\"")] == ':';
}

static const struct workload_info *catalogue_find(const struct catalogue *catalogue,
                                                  const char *name)
{
    const struct workload_info *end = catalogue->workloads + catalogue->count;
    for (const struct workload_info *workload = catalogue->workloads; workload < end; workload++)
        if (workload->name[0] == name[0] && strcmp(workload->name, name) == 0)
            return workload;
    return NULL;
}

int command_parse(struct command *command, const struct catalogue *catalogue, const char *line,
                  size_t size, char *error)
{
    struct line trimmed = command_trim(line, size);
    command->argument_count = 0;
    command->tag = NULL;
    command->timeout_ms = command->deadline_ms = 0;
    if (trimmed.size > LINES_MAX_LINE)
        return refuse(error, "a line has at most %d bytes", LINES_MAX_LINE);
    int failed = bytes_check(trimmed.bytes, trimmed.size, error);
    if (failed)
        return failed;
    memcpy(command->storage, trimmed.bytes, trimmed.size);
    command->storage[trimmed.size] = END;

    char *cursor = command->storage;
    command->has_claim = command_has_claim(cursor);
    if (command->has_claim) {
        const char *rest;
        failed = claim_parse(cursor, &command->claim, &rest, error, COMMAND_MAX_ERROR);
        if (failed)
            return failed;
        if (*rest != ':')
            return refuse(error, "a command must follow the claim, as in A:2:3:VECTOR_ADD");
        cursor += rest + 1 - cursor;
    }
    const char *name = cursor;
    cursor += strcspn(cursor, " \t");
    if (*cursor)
        *cursor++ = END;
    command->workload = catalogue_find(catalogue, name);
    if (!command->workload)
        return refuse_command(catalogue, name, error);
    return arguments_parse(command, cursor, error);
}
