/*
 * A growable string of bytes, and the one escape that every file, header and
 * log line of vgpufs uses for bytes that came from a guest or a program.
 *
 * Not thread-safe: a struct text belongs to one thread at a time.
 */
#ifndef VGPUFS_COMMON_TEXT_H
#define VGPUFS_COMMON_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * All zero is a valid empty text. When memory runs out, `failed` is set, what
 * is there stays as it is, and every later call does nothing: callers check
 * once, at the end.
 */
struct text {
    char *data; /* NUL-terminated when not NULL; may hold further NULs */
    size_t size;
    size_t capacity;
    bool failed;
};

void text_finish(struct text *text);
/* text_clear forgets the content and keeps the memory. */
void text_clear(struct text *text);
/* text_reserve makes room for `more` bytes and a NUL behind the content; false when there is none.
 */
bool text_reserve(struct text *text, size_t more);
void text_append(struct text *text, const void *bytes, size_t size);
void text_puts(struct text *text, const char *string);
/* text_number appends it in decimal: what a job's way prints has no printf in it, which took half
 * of a job's instructions. */
void text_number(struct text *text, uint64_t number);
void text_printf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_vprintf(struct text *text, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

/*
 * text_escape appends at most `limit` bytes of escaped text (SIZE_MAX: all):
 * `"` and `\` become `\"` and `\\`; bytes below 0x20, 0x7f and bytes that are
 * not valid UTF-8 become \xHH. An escape or a character is never cut in two.
 */
void text_escape(struct text *text, const void *bytes, size_t size, size_t limit);
/* text_quote appends the escaped bytes between double quotes. */
void text_quote(struct text *text, const char *string);

/*
 * text_take gives the caller the bytes (to be freed with free()) and leaves an
 * empty text, or returns NULL if memory had run out. An empty text gives "".
 */
char *text_take(struct text *text, size_t *size);

#endif
