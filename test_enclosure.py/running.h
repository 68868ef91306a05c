/*
 * Which jobs run: noted in state_dir/running, a mapped page, so that a daemon
 * that died of a job knows it when it starts again. Noting costs a store; it
 * survives the end of the process, not that of the machine, which no job is to
 * blame for. Thread-safe after running_open.
 */
#ifndef VGPUFS_RUNNING_H
#define VGPUFS_RUNNING_H

#include "common/text.h"

#include <stdbool.h>
#include <stdint.h>

struct running;

/* running_open reads what an earlier daemon has noted. NULL, and *error in one line. */
struct running *running_open(const char *state_dir, struct text *error);
void running_close(struct running *running); /* accepts NULL */

/* running_was: did that job run when the earlier daemon ended? Until running_forget. */
bool running_was(const struct running *running, unsigned vm, uint64_t number);
/* running_forget: what was found is counted elsewhere now. Notes may be made from here on. */
void running_forget(struct running *running);

/* running_note returns the note's place, for running_clear, or 0 when there is no room for more:
 * then it is not noted. */
unsigned running_note(struct running *running, unsigned vm, uint64_t number);
/* running_clear accepts 0. */
void running_clear(struct running *running, unsigned place);

#endif
