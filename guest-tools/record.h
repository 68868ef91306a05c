/*
 * Records as vgpufs writes them: blank-separated words of which some are
 * key=value, the value perhaps between double quotes. Pure functions over
 * NUL-terminated memory; thread-safe. What they read is not trusted.
 */
#ifndef VGPUFS_GUEST_RECORD_H
#define VGPUFS_GUEST_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* record_find returns the line of `text` that begins with that name and a blank, or NULL. */
const char *record_find(const char *text, const char *name);
/*
 * record_get copies the first value of that key in the line at `line`, cut to size - 1 bytes, and
 * returns true if there is one. In quotes \" and \\ become one byte; \xHH stays as it is, which
 * makes it safe to print.
 */
bool record_get(const char *line, const char *key, char *value, size_t size);
/* The same for a decimal number of at most 18 digits. */
bool record_number(const char *line, const char *key, uint64_t *value);

#endif
