#include "record.h"

#include "common/number.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A line being read: `in` is what is left of it, `out` where unescaped bytes go. */
struct scan {
    const char *in, *end;
    char *out;
};

static int hex_digit(char c)
{
    if (isdigit((unsigned char)c))
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* scan_escape reads what follows a backslash. */
static int scan_escape(struct scan *scan)
{
    size_t left = (size_t)(scan->end - scan->in);
    if (left && (*scan->in == '"' || *scan->in == '\\')) {
        *scan->out++ = *scan->in++;
        return 0;
    }
    if (left < 3 || *scan->in != 'x')
        return -1;
    int high = hex_digit(scan->in[1]), low = hex_digit(scan->in[2]);
    if (high < 0 || low < 0)
        return -1;
    *scan->out++ = (char)(high * 16 + low);
    scan->in += 3;
    return 0;
}

/* scan_quoted reads up to the closing quote, which a blank or the line's end must follow. */
static int scan_quoted(struct scan *scan)
{
    while (scan->in < scan->end && *scan->in != '"') {
        if (*scan->in != '\\') {
            *scan->out++ = *scan->in++;
            continue;
        }
        scan->in++;
        if (scan_escape(scan) != 0)
            return -1;
    }
    if (scan->in == scan->end)
        return -1;
    scan->in++;
    return scan->in == scan->end || *scan->in == ' ' ? 0 : -1;
}

static int scan_field(struct scan *scan, struct record_field *field)
{
    char *start = scan->out;
    *field = (struct record_field){0};
    while (scan->in < scan->end && *scan->in != ' ') {
        char c = *scan->in++;
        if (c == '=' && !field->key && scan->out > start) {
            *scan->out++ = '\0';
            field->key = start;
            start = scan->out;
        } else if (c == '"' && field->key && scan->out == start) {
            if (scan_quoted(scan) != 0)
                return -1;
        } else {
            *scan->out++ = c;
        }
    }
    field->value = start;
    field->value_size = (size_t)(scan->out - start);
    *scan->out++ = '\0';
    return 0;
}

/* The bytes of a field and its NULs never take more room than the line had for it and its blank. */
int record_parse(struct record *record, const char *line, size_t size)
{
    struct record result = {0};
    int error = E2BIG;
    if (size > RECORD_MAX_BYTES)
        goto failed;
    error = ENOMEM;
    result.storage = malloc(size + 1);
    result.fields = calloc(RECORD_MAX_FIELDS, sizeof(*result.fields));
    if (!result.storage || !result.fields)
        goto failed;
    struct scan scan = {line, line + size, result.storage};
    for (;;) {
        while (scan.in < scan.end && *scan.in == ' ')
            scan.in++;
        if (scan.in == scan.end)
            break;
        error = E2BIG;
        if (result.field_count == RECORD_MAX_FIELDS)
            goto failed;
        error = EINVAL;
        if (scan_field(&scan, &result.fields[result.field_count]) != 0)
            goto failed;
        result.field_count++;
    }
    struct record_field *fields =
        reallocarray(result.fields, result.field_count + 1, sizeof(*result.fields));
    if (fields)
        result.fields = fields;
    *record = result;
    return 0;

failed:
    record_finish(&result);
    errno = error;
    return -1;
}

void record_finish(struct record *record)
{
    free(record->fields);
    free(record->storage);
    *record = (struct record){0};
}

const char *record_word(const struct record *record, size_t index)
{
    if (index >= record->field_count || record->fields[index].key)
        return NULL;
    return record->fields[index].value;
}

const struct record_field *record_find(const struct record *record, const char *key)
{
    for (size_t i = 0; i < record->field_count; i++)
        if (record->fields[i].key && strcmp(record->fields[i].key, key) == 0)
            return &record->fields[i];
    return NULL;
}

uint64_t record_count(const struct record *record, const char *key)
{
    uint64_t value = 0;
    const struct record_field *field = record_find(record, key);
    if (field)
        number_parse(field->value, 0, UINT64_MAX, &value);
    return value;
}
