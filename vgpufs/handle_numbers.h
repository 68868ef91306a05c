/*
 * What the kernel calls open files: numbers, so that the next daemon can go on
 * with them (see handover.h). Finding one takes no lock.
 *
 * Thread-safe, but for handle_numbers_put_at and handle_numbers_settle, which come before all else,
 * and handle_numbers_finish.
 * What is behind a number is not freed before its drop.
 */
#ifndef VGPUFS_HANDLE_NUMBERS_H
#define VGPUFS_HANDLE_NUMBERS_H

#include <stdint.h>

/* Numbers are below this; one more open file is ENFILE. */
#define HANDLE_NUMBERS_MAX (UINT64_C(1) << 22)

struct handle;

/* handle_numbers_put gives the handle a number. -1 if there is none left, or no memory. */
int handle_numbers_put(struct handle *handle, uint64_t *number);
struct handle *handle_numbers_get(uint64_t number);
void handle_numbers_drop(uint64_t number);

/* handle_numbers_put_at gives it that number. -1 if it is taken or too large, or no memory. */
int handle_numbers_put_at(struct handle *handle, uint64_t number);
/* handle_numbers_settle: there are no more of those. */
void handle_numbers_settle(void);
/* handle_numbers_finish frees all, when no file is open and no request can come any more. */
void handle_numbers_finish(void);

#endif
