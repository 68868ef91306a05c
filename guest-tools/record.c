#include "record.h"

#include <string.h>

static bool ends_line(char c)
{
    return c == '\0' || c == '\n';
}

static bool ends_word(char c)
{
    return c == ' ' || ends_line(c);
}

const char *record_find(const char *text, const char *name)
{
    size_t length = strlen(name);
    while (text && *text) {
        if (strncmp(text, name, length) == 0 && text[length] == ' ')
            return text;
        text = strchr(text, '\n');
        if (text)
            text++;
    }
    return NULL;
}

/* word_end returns what follows the word at `word`; blanks between quotes belong to it. */
static const char *word_end(const char *word)
{
    bool quoted = false;
    for (; !ends_line(*word) && (quoted || *word != ' '); word++) {
        if (*word == '"')
            quoted = !quoted;
        else if (quoted && *word == '\\' && !ends_line(word[1]))
            word++;
    }
    return word;
}

static void value_copy(const char *from, char *value, size_t size)
{
    size_t used = 0;
    bool quoted = *from == '"';
    for (from += quoted; used < size - 1; from++) {
        if (ends_line(*from) || (quoted ? *from == '"' : ends_word(*from)))
            break;
        if (quoted && *from == '\\' && (from[1] == '"' || from[1] == '\\'))
            from++;
        value[used++] = *from;
    }
    value[used] = '\0';
}

bool record_get(const char *line, const char *key, char *value, size_t size)
{
    size_t length = strlen(key);
    while (!ends_line(*line)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            value_copy(line + length + 1, value, size);
            return true;
        }
        line = word_end(line);
        while (*line == ' ')
            line++;
    }
    return false;
}

bool record_number(const char *line, const char *key, uint64_t *value)
{
    char digits[32];
    if (!record_get(line, key, digits, sizeof(digits)))
        return false;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 18 || digits[count])
        return false;
    *value = 0;
    for (size_t i = 0; i < count; i++)
        *value = *value * 10 + (uint64_t)(digits[i] - '0');
    return true;
}
