/*
 * A temporary directory for one test. Not thread-safe.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

/* scratch_make returns a new directory's path, valid until the next call; it fails the test. */
const char *scratch_make(void);
/* scratch_path returns `name` in it; the last four stay valid. */
const char *scratch_path(const char *name);
/* scratch_remove removes it with all that it holds. */
void scratch_remove(void);

/* The same two as the setup and teardown of a group of tests. */
int scratch_enter(void **state);
int scratch_leave(void **state);

/* scratch_disk_full makes every write to a file of this process fail, or lets them pass again. */
void scratch_disk_full(int full);

#endif
