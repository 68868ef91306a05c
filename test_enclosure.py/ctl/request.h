/*
 * Lines for MOUNT/ctl: made from the words of a command line, written, and
 * their errors explained.
 */
#ifndef VGPUFS_CTL_REQUEST_H
#define VGPUFS_CTL_REQUEST_H

#include "common/text.h"

/*
 * What each word behind a verb is, one letter a word: 't' a pool or a VM, 'v' a VM, 'j' a job's tag
 * or `all`, 'p' a priority.
 *
 * request_make appends "VERB WORDS\n" to *line. 0, or -1 if a word cannot be what it should; then
 * *error says what it may be.
 */
int request_make(struct text *line, const char *verb, const char *kinds, char *const *words,
                 struct text *error);

/* request_send writes the line to MOUNT/ctl. 0, or -1 and *error. */
int request_send(const char *mount, const struct text *line, const char *kinds, struct text *error);

/* request_parse_vm reads "3" or "vm3". 0, or -1. */
int request_parse_vm(const char *word, unsigned *id);

#endif
