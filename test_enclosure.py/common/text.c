#include "text.h"

#include "number.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_finish(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

void text_clear(struct text *text)
{
    text->size = 0;
    text->failed = false;
    if (text->data)
        text->data[0] = '\0';
}

bool text_reserve(struct text *text, size_t more)
{
    if (text->failed)
        return false;
    if (more >= SIZE_MAX / 4 - text->size) {
        text->failed = true;
        return false;
    }
    size_t needed = text->size + more + 1;
    if (needed <= text->capacity)
        return true;
    size_t capacity = text->capacity ? text->capacity : 64;
    while (capacity < needed)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_append(struct text *text, const void *bytes, size_t size)
{
    if (!text_reserve(text, size))
        return;
    if (size)
        memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void text_puts(struct text *text, const char *string)
{
    text_append(text, string, strlen(string));
}

void text_number(struct text *text, uint64_t number)
{
    char digits[NUMBER_TEXT_SIZE];
    text_append(text, digits, number_print(digits, number));
}

void text_vprintf(struct text *text, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    size_t room = text->data ? text->capacity - text->size : 0;
    int length = vsnprintf(room ? text->data + text->size : NULL, room, format, args);
    if (length < 0) {
        text->failed = true;
    } else if ((size_t)length < room) {
        text->size += (size_t)length;
    } else if (text_reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->size, (size_t)length + 1, format, again);
        text->size += (size_t)length;
    }
    va_end(again);
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_vprintf(text, format, args);
    va_end(args);
}

/*
 * utf8_length returns the length of the well-formed UTF-8 sequence that begins
 * at `s` (Unicode 15, table 3-7), or 0 if there is none.
 */
static size_t utf8_length(const unsigned char *s, size_t size)
{
    if (s[0] < 0x80)
        return 1;
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || size < length)
        return 0;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

/* plain_length: so many bytes from `s` on stand for themselves, one by one. */
static size_t plain_length(const unsigned char *s, size_t size)
{
    size_t length = 0;
    while (length < size && s[length] >= 0x20 && s[length] < 0x7f && s[length] != '"' &&
           s[length] != '\\')
        length++;
    return length;
}

void text_escape(struct text *text, const void *bytes, size_t size, size_t limit)
{
    const unsigned char *s = bytes;
    while (size) {
        size_t plain = plain_length(s, size < limit ? size : limit);
        text_append(text, s, plain);
        limit -= plain;
        s += plain;
        size -= plain;
        if (!size)
            return;
        char piece[5];
        size_t used = utf8_length(s, size);
        size_t length = used;
        const void *from = s;
        if (used == 1 && (s[0] == '"' || s[0] == '\\')) {
            piece[0] = '\\';
            piece[1] = (char)s[0];
            from = piece;
            length = 2;
        } else if (used == 0 || s[0] < 0x20 || s[0] == 0x7f) {
            length = (size_t)snprintf(piece, sizeof(piece), "\\x%02X", s[0]);
            from = piece;
            used = 1;
        }
        if (length > limit)
            return;
        text_append(text, from, length);
        limit -= length;
        s += used;
        size -= used;
    }
}

void text_quote(struct text *text, const char *string)
{
    text_puts(text, "\"");
    text_escape(text, string, strlen(string), SIZE_MAX);
    text_puts(text, "\"");
}

char *text_take(struct text *text, size_t *size)
{
    text_append(text, "", 0);
    char *data = text->failed ? NULL : text->data;
    if (size)
        *size = data ? text->size : 0;
    if (!data)
        free(text->data);
    *text = (struct text){0};
    return data;
}
