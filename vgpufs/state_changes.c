/* What can be asked of the state: one table of statements, and what is bound to them. */
#include "state_internal.h"

#include "clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A result up to this size stands in its job's row, a larger one in a row of its own: updating the
 * job copies its row. */
#define INLINE_RESULT 2048

#define UPSERT_VM(column, value)                                                                   \
    "INSERT INTO vm (id, " column ") VALUES (?1, " value ")"                                       \
    " ON CONFLICT (id) DO UPDATE SET " column " = " value

static const struct {
    const char *sql;
    enum haste haste;
    /* In the log of groups; numbers that were used are never given to another. */
    uint8_t code;
} operations[OPERATION_COUNT] = {
    [PUT_JOB_NUMBERS] = {UPSERT_VM("next_job", "?2"), FIRM, 1},
    [PUT_FILE_NUMBERS] = {UPSERT_VM("next_file", "?2"), FIRM},
    [PUT_IDENTITY] = {UPSERT_VM("identity", "?2"), FIRM},
    /* Takes the row's old name and the name's old row away too: a rename is one statement. */
    [PUT_FILE] = {"INSERT OR REPLACE INTO file (vm, number, name) VALUES (?1, ?2, ?3)", FIRM},
    [DELETE_FILE] = {"DELETE FROM file WHERE vm = ?1 AND number = ?2", FIRM},
    [PUT_EXECUTOR] = {"INSERT OR REPLACE INTO executor (pid, start_time) VALUES (?1, ?2)", FIRM},
    [DELETE_EXECUTOR] = {"DELETE FROM executor WHERE pid = ?1", FIRM},
    /* An older one may come behind, out of the log. */
    [PUT_CHANGE_TIME] = {"INSERT INTO meta (key, value) VALUES ('change_ns', ?1)"
                         " ON CONFLICT (key) DO UPDATE SET value = max(value, ?1)",
                         LAZY, 2},
    [PUT_MARK] = {"INSERT INTO meta (key, value) VALUES ('mark', 1)"
                  " ON CONFLICT (key) DO UPDATE SET value = value + 1",
                  LAZY},
    [PUT_JOB] = {"INSERT OR REPLACE INTO job (id, tag, pool, line, priority, state, legacy,"
                 " sequence, entry, queued_us)"
                 " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7 * ?9, ?8, ?9, ?10)",
                 JOURNAL, 3},
    [PUT_DIRECTORY] = {"INSERT OR REPLACE INTO job (id, tag, priority, state, legacy, sequence,"
                       " entry, queued_us) VALUES (?1, ?2, 0, 0, 0, 0, 0, 0)",
                       LAZY, 4},
    [START_JOB] = {"UPDATE job SET state = 2, attempts = attempts + 1 WHERE id = ?1", JOURNAL, 5},
    [UNSTART_JOB] = {"UPDATE job SET state = 1, attempts = attempts - 1 WHERE id = ?1", LAZY, 6},
    [RERUN_JOB] = {"UPDATE job SET state = 1, attempts = ?2 WHERE id = ?1", JOURNAL, 7},
    [CANCEL_JOB] = {"UPDATE job SET cancel = ?2 WHERE id = ?1", JOURNAL, 8},
    [END_JOB] = {"UPDATE job SET state = ?2, kept_us = ?3, result_size = ?4, result = ?5"
                 " WHERE id = ?1",
                 JOURNAL, 9},
    [PUT_RESULT] = {"INSERT OR REPLACE INTO result (id, bytes) VALUES (?1, ?2)", JOURNAL},
    [READ_JOB] = {"UPDATE job SET read = 1, kept_us = ?2 WHERE id = ?1", LAZY, 10},
    [RENEW_JOB] = {"UPDATE job SET entry = ?2, legacy = max(legacy, ?3 * ?2) WHERE id = ?1",
                   JOURNAL, 11},
    [MOVE_JOB] = {"UPDATE job SET priority = ?2 WHERE id = ?1", JOURNAL, 12},
    [HIDE_JOB] = {"UPDATE job SET hidden = 1 WHERE id = ?1", LAZY, 13},
    [DELETE_JOB] = {"DELETE FROM job WHERE id = ?1", LAZY, 14},
    [DELETE_RESULT] = {"DELETE FROM result WHERE id = ?1", LAZY},
    [PUT_REJECTION] = {"INSERT INTO vm (id, entry, rejection) VALUES (?1, ?2, ?3)"
                       " ON CONFLICT (id) DO UPDATE SET entry = ?2, rejection = ?3",
                       LAZY},
    [PUT_REFUSED_REQUEST] = {"INSERT INTO vm (id, request_entry, request_error) VALUES (?1, ?2, ?3)"
                             " ON CONFLICT (id) DO UPDATE SET request_entry = ?2,"
                             " request_error = ?3",
                             LAZY},
    [PUT_VM_HELD] = {UPSERT_VM("held", "?2"), JOURNAL},
    [PUT_POOL_HELD] = {"INSERT OR REPLACE INTO pool (name, held) VALUES (?1, ?2)", JOURNAL},
    [PUT_DRAINING] = {"INSERT INTO meta (key, value) VALUES ('draining', ?1)"
                      " ON CONFLICT (key) DO UPDATE SET value = ?1",
                      JOURNAL},
};

enum haste operation_haste(enum operation operation)
{
    return operation == REMOVE_BYTES ? FIRM : operations[operation].haste;
}

const char *operation_sql(enum operation operation)
{
    return operations[operation].sql;
}

unsigned operation_code(enum operation operation)
{
    return operations[operation].code;
}

enum operation operation_of_code(uint64_t code)
{
    int operation = 0;
    while (operation < OPERATION_COUNT && (!code || operations[operation].code != code))
        operation++;
    return (enum operation)operation;
}

/* Making changes. */

/* vm_of: whose change that is; 0: no VM's. */
static unsigned vm_of(enum operation operation, const struct value *first)
{
    switch (operation) {
    case PUT_EXECUTOR:
    case DELETE_EXECUTOR:
    case PUT_CHANGE_TIME:
    case PUT_MARK:
    case PUT_POOL_HELD:
    case PUT_DRAINING:
        return 0;
    case PUT_JOB_NUMBERS:
    case PUT_FILE_NUMBERS:
    case PUT_IDENTITY:
    case PUT_FILE:
    case DELETE_FILE:
    case PUT_REJECTION:
    case PUT_REFUSED_REQUEST:
    case PUT_VM_HELD:
    case REMOVE_BYTES:
        return (unsigned)first->number;
    default: /* a job's */
        return (unsigned)(first->number >> 40) & CONFIG_MAX_VM_ID;
    }
}

static struct value number_value(uint64_t number)
{
    return (struct value){.kind = VALUE_NUMBER, .number = number};
}

/* text_value makes NULL of NULL. */
static struct value text_value(const char *text)
{
    return text ? (struct value){VALUE_BYTES, strlen(text), text} : (struct value){0};
}

/*
 * change_make copies the values' bytes. Without memory the daemon ends: to go on would be to
 * promise what the state will never have, or to run again what has a result already. What it has is
 * whole, and the next daemon goes on from there, as after kill -9.
 */
struct change *change_make(enum operation operation, const struct value *values, unsigned count,
                           struct blob *blob)
{
    size_t size = sizeof(struct change) + count * sizeof(uint64_t);
    for (unsigned i = 0; i < count; i++)
        size += values[i].kind == VALUE_BYTES ? values[i].number : 0;
    struct change *change = malloc(size);
    if (!change) {
        log_error("state: no memory for a change of %zu bytes: ending, so that nothing is lost",
                  size);
        abort();
    }
    *change = (struct change){.operation = (uint16_t)operation,
                              .count = (uint16_t)count,
                              .vm = vm_of(operation, values),
                              .bytes = size + (blob ? blob->size : 0),
                              .blob = blob ? blob_ref(blob) : NULL};
    char *bytes = (char *)(change->numbers + count);
    for (unsigned i = 0; i < count; i++) {
        change->numbers[i] = values[i].number;
        change->nulls |= (uint16_t)((values[i].kind == VALUE_NULL) << i);
        if (values[i].kind != VALUE_BYTES)
            continue;
        change->texts |= (uint16_t)(1u << i);
        memcpy(bytes, values[i].bytes, values[i].number);
        bytes += values[i].number;
    }
    return change;
}

struct change *change_stamp(void)
{
    struct value stamp = number_value(clock_change_last());
    return change_make(PUT_CHANGE_TIME, &stamp, 1, NULL);
}

void changes_owe(struct state *state, const struct change *first)
{
    for (; first; first = first->next) {
        atomic_fetch_add(&state->owed[first->vm].bytes, first->bytes);
        atomic_fetch_add(&state->owed[first->vm].changes, 1);
    }
}

void changes_pay(struct state *state, const struct change *first)
{
    for (; first; first = first->next) {
        atomic_fetch_sub(&state->owed[first->vm].bytes, first->bytes);
        atomic_fetch_sub(&state->owed[first->vm].changes, 1);
    }
}

struct change *change_mark(void)
{
    return change_make(PUT_MARK, NULL, 0, NULL);
}

void changes_free(struct change *first)
{
    for (struct change *next; first; first = next) {
        next = first->next;
        blob_unref(first->blob);
        free(first);
    }
}

#define COUNT(values) (sizeof(values) / sizeof((values)[0]))

static state_ticket ask_with(struct state *state, enum operation operation,
                             const struct value *values, unsigned count, struct blob *blob)
{
    struct change *change = change_make(operation, values, count, blob);
    return change_ask(state, change, change, 1);
}

#define ASK(state, operation, values) ask_with(state, operation, values, COUNT(values), NULL)

state_ticket state_put_job_numbers(struct state *state, unsigned vm, uint64_t next)
{
    struct value values[] = {number_value(vm), number_value(next)};
    return ASK(state, PUT_JOB_NUMBERS, values);
}

state_ticket state_put_file_numbers(struct state *state, unsigned vm, uint64_t next)
{
    struct value values[] = {number_value(vm), number_value(next)};
    return ASK(state, PUT_FILE_NUMBERS, values);
}

state_ticket state_put_identity(struct state *state, unsigned vm, const char *identity)
{
    struct value values[] = {number_value(vm), text_value(identity)};
    return ASK(state, PUT_IDENTITY, values);
}

state_ticket state_put_file(struct state *state, unsigned vm, uint64_t number, const char *name)
{
    struct value values[] = {number_value(vm), number_value(number), text_value(name)};
    return ASK(state, PUT_FILE, values);
}

state_ticket state_delete_file(struct state *state, unsigned vm, uint64_t number)
{
    struct value values[] = {number_value(vm), number_value(number)};
    return ASK(state, DELETE_FILE, values);
}

state_ticket state_remove_bytes(struct state *state, unsigned vm, uint64_t number)
{
    struct value values[] = {number_value(vm), number_value(number)};
    return ASK(state, REMOVE_BYTES, values);
}

state_ticket state_put_executor(struct state *state, pid_t pid, uint64_t start_time)
{
    struct value values[] = {number_value((uint64_t)pid), number_value(start_time)};
    return ASK(state, PUT_EXECUTOR, values);
}

state_ticket state_delete_executor(struct state *state, pid_t pid)
{
    struct value values[] = {number_value((uint64_t)pid)};
    return ASK(state, DELETE_EXECUTOR, values);
}

/* Jobs. */

static struct change *job_change(const struct state_job *job)
{
    struct value values[] = {
        number_value(job_id(job->vm, job->number)),
        text_value(job->tag),
        text_value(job->pool),
        text_value(job->line),
        number_value(job->priority),
        number_value(job->state),
        number_value(job->request != 0),
        number_value(job->sequence),
        number_value(job->entry),
        number_value(job->queued_at_us),
    };
    return change_make(PUT_JOB, values, COUNT(values), NULL);
}

void state_batch_add(struct state_batch *batch, const struct state_job *job)
{
    struct change *change = job_change(job);
    *(batch->last ? &batch->last->next : &batch->first) = change;
    batch->last = change;
    batch->count++;
}

state_ticket state_put_batch(struct state *state, struct state_batch *batch)
{
    struct state_batch whole = *batch;
    *batch = (struct state_batch){0};
    return change_ask(state, whole.first, whole.last, whole.count);
}

void state_batch_drop(struct state_batch *batch)
{
    changes_free(batch->first);
    *batch = (struct state_batch){0};
}

state_ticket state_put_directory(struct state *state, unsigned vm, uint64_t number, const char *tag)
{
    struct value values[] = {number_value(job_id(vm, number)), text_value(tag)};
    return ASK(state, PUT_DIRECTORY, values);
}

/* ask_job is ASK for what has but a job and perhaps one number. */
static state_ticket ask_job(struct state *state, enum operation operation, unsigned vm,
                            uint64_t number, uint64_t second)
{
    struct value values[] = {number_value(job_id(vm, number)), number_value(second)};
    return ASK(state, operation, values);
}

state_ticket state_start_job(struct state *state, unsigned vm, uint64_t number)
{
    return ask_job(state, START_JOB, vm, number, 0);
}

state_ticket state_unstart_job(struct state *state, unsigned vm, uint64_t number)
{
    return ask_job(state, UNSTART_JOB, vm, number, 0);
}

state_ticket state_rerun_job(struct state *state, unsigned vm, uint64_t number, unsigned attempts)
{
    return ask_job(state, RERUN_JOB, vm, number, attempts);
}

state_ticket state_cancel_job(struct state *state, unsigned vm, uint64_t number, const char *why)
{
    struct value values[] = {number_value(job_id(vm, number)), text_value(why ? why : "")};
    return ASK(state, CANCEL_JOB, values);
}

state_ticket state_end_job(struct state *state, unsigned vm, uint64_t number, unsigned end,
                           uint64_t kept_at_us, struct blob *result)
{
    bool own_row = result->size > INLINE_RESULT;
    struct value id = number_value(job_id(vm, number));
    struct value values[] = {id, number_value(end), number_value(kept_at_us),
                             number_value(result->size)};
    struct change *last = change_make(END_JOB, values, COUNT(values), own_row ? NULL : result);
    if (!own_row)
        return change_ask(state, last, last, 1);
    struct change *first = change_make(PUT_RESULT, &id, 1, result);
    first->next = last;
    return change_ask(state, first, last, 2);
}

state_ticket state_read_job(struct state *state, unsigned vm, uint64_t number, uint64_t kept_at_us)
{
    return ask_job(state, READ_JOB, vm, number, kept_at_us);
}

state_ticket state_renew_job(struct state *state, unsigned vm, uint64_t number, uint64_t entry,
                             bool is_request)
{
    struct value values[] = {number_value(job_id(vm, number)), number_value(entry),
                             number_value(is_request)};
    return ASK(state, RENEW_JOB, values);
}

state_ticket state_move_job(struct state *state, unsigned vm, uint64_t number, unsigned priority)
{
    return ask_job(state, MOVE_JOB, vm, number, priority);
}

state_ticket state_hide_job(struct state *state, unsigned vm, uint64_t number)
{
    return ask_job(state, HIDE_JOB, vm, number, 0);
}

state_ticket state_delete_job(struct state *state, unsigned vm, uint64_t number,
                              uint64_t result_size)
{
    if (result_size > INLINE_RESULT)
        ask_job(state, DELETE_RESULT, vm, number, 0);
    return ask_job(state, DELETE_JOB, vm, number, 0);
}

/* VMs and pools. */

state_ticket state_put_rejection(struct state *state, unsigned vm, uint64_t entry,
                                 struct blob *result)
{
    struct value values[] = {number_value(vm), number_value(entry)};
    return ask_with(state, PUT_REJECTION, values, COUNT(values), result);
}

state_ticket state_put_refused_request(struct state *state, unsigned vm, uint64_t entry,
                                       const char *error)
{
    struct value values[] = {number_value(vm), number_value(entry), text_value(error)};
    return ASK(state, PUT_REFUSED_REQUEST, values);
}

state_ticket state_put_vm_held(struct state *state, unsigned vm, bool held)
{
    struct value values[] = {number_value(vm), number_value(held)};
    return ASK(state, PUT_VM_HELD, values);
}

state_ticket state_put_pool_held(struct state *state, const char *name, bool held)
{
    struct value values[] = {text_value(name), number_value(held)};
    return ASK(state, PUT_POOL_HELD, values);
}

state_ticket state_put_draining(struct state *state, bool draining)
{
    struct value value = number_value(draining);
    return ask_with(state, PUT_DRAINING, &value, 1, NULL);
}

/* Writing them. */

int change_apply(struct state *state, const struct change *change)
{
    if (change->operation == REMOVE_BYTES)
        return 0;
    sqlite3_stmt *statement = state->prepared[change->operation];
    const char *bytes = (const char *)(change->numbers + change->count);
    int places = sqlite3_bind_parameter_count(statement), place = 1;
    for (unsigned i = 0; i < change->count && place <= places; i++, place++) {
        uint64_t number = change->numbers[i];
        if (change->texts >> i & 1) {
            sqlite3_bind_blob(statement, place, bytes, (int)number, SQLITE_STATIC);
            bytes += number;
        } else if (!(change->nulls >> i & 1)) { /* unbound is NULL */
            sqlite3_bind_int64(statement, place, (sqlite3_int64)number);
        }
    }
    if (change->blob)
        sqlite3_bind_blob(statement, place, change->blob->data, (int)change->blob->size,
                          SQLITE_STATIC);
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return result == SQLITE_DONE ? 0 : -1;
}

/* bytes_remove removes the files that nothing in the database names any more. */
void bytes_remove(const struct state *state, const struct change *group)
{
    for (; group; group = group->next) {
        char path[48];
        if (group->operation != REMOVE_BYTES)
            continue;
        snprintf(path, sizeof(path), "%" PRIu64 "/%" PRIu64, group->numbers[0], group->numbers[1]);
        unlinkat(state->data_dir, path, 0);
    }
}
