/*
 * What must survive a restart, in SQLite (state_dir/state.db): VMs' counters
 * and identities, the names of data files, the executors that are alive.
 *
 * One thread writes, in groups: whatever was asked for while one transaction
 * was under way goes into the next one together. Asking never waits for the
 * disk; who must, calls state_wait. Thread-safe after state_open.
 */
#ifndef VGPUFS_STATE_H
#define VGPUFS_STATE_H

#include "common/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct state;

/* A position in the order of what was asked for. */
typedef uint64_t state_ticket;

/*
 * state_open locks state_dir for this process, opens or makes the database and the data folder,
 * and starts the writer. NULL, and *error in one line: another daemon uses it, the file is damaged
 * or of a newer version, the disk.
 */
struct state *state_open(const char *state_dir, struct text *error);
/* state_close writes what is still to be written and stops the thread. Accepts NULL. */
void state_close(struct state *state);

/* The folder that holds data/<vm>/<number>, as a descriptor that lives as long as the state. */
int state_data_dir(const struct state *state);

/*
 * Reading, at the start. What was asked for and is not written yet is not seen. The callbacks may
 * ask, but neither load nor wait; their strings are theirs only.
 */
struct state_vm {
    unsigned id;
    uint64_t next_job, next_file; /* no number from here on was ever used */
    const char *identity;         /* NULL: none was claimed */
};
void state_load_vms(struct state *state, void (*each)(void *context, const struct state_vm *vm),
                    void *context);
/* state_load_files: -1 if not all could be read. */
int state_load_files(struct state *state, unsigned vm,
                     void (*each)(void *context, uint64_t number, const char *name), void *context);
void state_load_executors(struct state *state,
                          void (*each)(void *context, pid_t pid, uint64_t start_time),
                          void *context);

/* Asking. Each returns the ticket to wait for. */
state_ticket state_put_job_numbers(struct state *state, unsigned vm, uint64_t next);
state_ticket state_put_file_numbers(struct state *state, unsigned vm, uint64_t next);
/* NULL forgets the identity. */
state_ticket state_put_identity(struct state *state, unsigned vm, const char *identity);
/* state_put_file also renames, and takes the name away from the file that had it. */
state_ticket state_put_file(struct state *state, unsigned vm, uint64_t number, const char *name);
state_ticket state_delete_file(struct state *state, unsigned vm, uint64_t number);
/* state_remove_bytes removes data/<vm>/<number> once all that was asked for before is on disk. */
state_ticket state_remove_bytes(struct state *state, unsigned vm, uint64_t number);
state_ticket state_put_executor(struct state *state, pid_t pid, uint64_t start_time);
state_ticket state_delete_executor(struct state *state, pid_t pid);

/* state_wait returns when all up to the ticket is on disk. 0, or an errno when the disk refuses. */
int state_wait(struct state *state, state_ticket ticket);
/* state_is_behind: guests' changes that can be refused must be (ENOSPC), or they fill the memory.
 */
bool state_is_behind(struct state *state);
/* state_now is the ticket of all that was asked for so far. */
state_ticket state_now(struct state *state);

#endif
