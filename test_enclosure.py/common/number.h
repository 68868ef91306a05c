/*
 * Bounded parsing of the numbers, sizes and durations that appear in
 * configuration, commands and registers. Pure functions; thread-safe.
 *
 * Each takes the whole string: leading or trailing characters, signs, an empty
 * string and values outside [min, max] are errors. They return 0, or -1 with
 * *result untouched.
 */
#ifndef VGPUFS_COMMON_NUMBER_H
#define VGPUFS_COMMON_NUMBER_H

#include <stddef.h>
#include <stdint.h>

/* Decimal digits. */
int number_parse(const char *string, uint64_t min, uint64_t max, uint64_t *result);
/* Decimal digits with an optional K, M, G or T (powers of 1024). */
int number_parse_bytes(const char *string, uint64_t min, uint64_t max, uint64_t *result);
/* "250ms", "20s", "5m", "1h", "2d", or digits alone for seconds; fractions as in "0.5s". In ms. */
int number_parse_ms(const char *string, uint64_t min, uint64_t max, uint64_t *result_ms);
/* A finite decimal floating-point number. */
int number_parse_real(const char *string, double min, double max, double *result);

/* number_print writes it in decimal, with a 0 behind it, to the start of `text`: its length. */
#define NUMBER_TEXT_SIZE sizeof("18446744073709551615")
size_t number_print(char text[NUMBER_TEXT_SIZE], uint64_t number);

#endif
