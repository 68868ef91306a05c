#include "number.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* digits_parse reads the digits at `string` and returns what follows them, or NULL. */
static const char *digits_parse(const char *string, uint64_t *value)
{
    if (!isdigit((unsigned char)*string))
        return NULL;
    *value = 0;
    for (; isdigit((unsigned char)*string); string++) {
        uint64_t digit = (uint64_t)(*string - '0');
        if (*value > (UINT64_MAX - digit) / 10)
            return NULL;
        *value = *value * 10 + digit;
    }
    return string;
}

static int bounded(uint64_t value, uint64_t min, uint64_t max, uint64_t *result)
{
    if (value < min || value > max)
        return -1;
    *result = value;
    return 0;
}

int number_parse(const char *string, uint64_t min, uint64_t max, uint64_t *result)
{
    uint64_t value;
    const char *end = digits_parse(string, &value);
    if (!end || *end)
        return -1;
    return bounded(value, min, max, result);
}

int number_parse_bytes(const char *string, uint64_t min, uint64_t max, uint64_t *result)
{
    static const char suffixes[] = "KMGT";
    uint64_t value;
    const char *end = digits_parse(string, &value);
    if (!end)
        return -1;
    if (*end) {
        const char *suffix = strchr(suffixes, *end);
        if (!suffix || end[1])
            return -1;
        unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);
        if (value > UINT64_MAX >> shift)
            return -1;
        value <<= shift;
    }
    return bounded(value, min, max, result);
}

int number_parse_ms(const char *string, uint64_t min, uint64_t max, uint64_t *result_ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"", 1000},       {"s", 1000},        {"ms", 1},
                 {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 86400 * 1000}};
    uint64_t whole, thousandths = 0;
    const char *end = digits_parse(string, &whole);
    if (!end)
        return -1;
    if (*end == '.') {
        uint64_t scale = 1000;
        for (end++; isdigit((unsigned char)*end) && scale > 1; end++) {
            scale /= 10;
            thousandths += (uint64_t)(*end - '0') * scale;
        }
        if (scale == 1000)
            return -1;
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        if (whole > UINT64_MAX / 2 / units[i].ms)
            return -1;
        return bounded(whole * units[i].ms + thousandths * units[i].ms / 1000, min, max, result_ms);
    }
    return -1;
}

int number_parse_real(const char *string, double min, double max, double *result)
{
    if (strspn(string, "0123456789+-.eE") != strlen(string) || !*string)
        return -1;
    char *end;
    double value = strtod(string, &end);
    if (*end || !isfinite(value) || value < min || value > max)
        return -1;
    *result = value;
    return 0;
}

size_t number_print(char text[NUMBER_TEXT_SIZE], uint64_t number)
{
    size_t length = 1;
    for (uint64_t rest = number; rest >= 10; rest /= 10)
        length++;
    text[length] = '\0';
    for (size_t i = length; i-- > 0; number /= 10)
        text[i] = (char)('0' + number % 10);
    return length;
}
