/*
 * state.db in the scratch directory's state/, looked at and changed behind the daemon's back.
 * Each fails the test if it cannot be done. Not thread-safe.
 */
#ifndef STATE_FILE_H
#define STATE_FILE_H

#include <sys/types.h>

/* run_sql changes the database, which is closed. */
void run_sql(const char *sql);
/* number_of asks the database for one number, with a connection of its own. */
long number_of(const char *sql);
/* damage_table fills the first page of a table, whose rows are many, with bytes of no meaning, in
 * the database that nobody has open. */
void damage_table(const char *name);
/* aside_path finds state/damaged-<time>/<name>, as scratch_path does; NULL: nothing was set aside.
 */
const char *aside_path(const char *name);

/* replace_write has SQLite write with that function from now on; NULL: with pwrite(2). */
typedef ssize_t write_function(int descriptor, const void *bytes, size_t size, off_t offset);
void replace_write(write_function *function);

#endif
