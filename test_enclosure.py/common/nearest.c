#include "nearest.h"

#include <ctype.h>
#include <string.h>

#define WORD_MAX 48 /* longer words are no slips of a finger; bounds the table */

static unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static int lower(char c)
{
    return tolower((unsigned char)c);
}

/*
 * edit_distance counts insertions, deletions, replacements and swaps of neighbours
 * (Damerau-Levenshtein, restricted: no substring is edited twice). Case does not count.
 */
static unsigned edit_distance(const char *a, size_t a_size, const char *b, size_t b_size)
{
    unsigned rows[3][WORD_MAX + 1];
    for (size_t j = 0; j <= b_size; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= a_size; i++) {
        unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_size; j++) {
            unsigned differs = lower(a[i - 1]) != lower(b[j - 1]);
            row[j] = min(above[j - 1] + differs, min(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                lower(a[i - 2]) == lower(b[j - 1]))
                row[j] = min(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[a_size % 3][b_size];
}

void nearest_offer(struct nearest *nearest, const char *name, size_t size)
{
    size_t word_size = strlen(nearest->word);
    if (word_size == 0 || word_size > WORD_MAX || size == 0 || size > WORD_MAX)
        return;
    unsigned distance = edit_distance(nearest->word, word_size, name, size);
    size_t longer = word_size > size ? word_size : size;
    /* One slip in three letters. Of words of two letters only the case may differ: on is not no. */
    if (distance > longer / 3)
        return;
    if (nearest->best && distance >= nearest->distance)
        return;
    nearest->best = name;
    nearest->best_size = size;
    nearest->distance = distance;
}
