/*
 * One line of vgpufs' text files (stats, status, queue, a result's header):
 * bare words, key=value, and key="value" with the escapes \" \\ and \xHH.
 *
 * A struct record owns its strings; record_finish frees them. Not thread-safe.
 */
#ifndef VGPUFS_CTL_RECORD_H
#define VGPUFS_CTL_RECORD_H

#include <stddef.h>
#include <stdint.h>

#define RECORD_MAX_FIELDS 256
#define RECORD_MAX_BYTES  65536

struct record_field {
    const char *key;   /* NULL: a bare word */
    const char *value; /* unescaped, NUL-terminated; may hold further NULs */
    size_t value_size; /* bytes */
};

struct record {
    struct record_field *fields;
    size_t field_count;
    char *storage;
};

/*
 * record_parse reads one line (without its newline). 0, or -1 with errno EINVAL (a quote that does
 * not end or an escape that does not exist), E2BIG (over the limits above) or ENOMEM; then nothing
 * is to be freed.
 */
int record_parse(struct record *record, const char *line, size_t size);
void record_finish(struct record *record);

/* record_word returns the field at `index` if it is a bare word, else NULL. */
const char *record_word(const struct record *record, size_t index);
/* record_find returns the first field with that key, or NULL. */
const struct record_field *record_find(const struct record *record, const char *key);
/* record_count returns the number under that key, or 0 if there is none. */
uint64_t record_count(const struct record *record, const char *key);

#endif
