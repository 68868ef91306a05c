/* Reading the state back. */
#include "state_internal.h"

#include "common/log.h"

#include <stdlib.h>
#include <string.h>

int rows_read(struct state *state, const char *query, uint64_t first, uint64_t last,
              void (*row)(sqlite3_stmt *statement, void *context), void *context)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(state->database, query, -1, &statement, NULL) != SQLITE_OK) {
        log_error("state: %s", sqlite3_errmsg(state->database));
        return -1;
    }
    if (sqlite3_bind_parameter_count(statement) >= 1)
        sqlite3_bind_int64(statement, 1, (sqlite3_int64)first);
    if (sqlite3_bind_parameter_count(statement) >= 2)
        sqlite3_bind_int64(statement, 2, (sqlite3_int64)last);
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW)
        row(statement, context);
    if (result != SQLITE_DONE)
        log_error("state: %s", sqlite3_errmsg(state->database));
    sqlite3_finalize(statement);
    return result == SQLITE_DONE ? 0 : -1;
}

int rows_each(struct state *state, const char *query, uint64_t first, uint64_t last,
              void (*row)(sqlite3_stmt *statement, void *context), void *context)
{
    pthread_mutex_lock(&state->database_lock);
    int result = log_settle(state) == 0 ? rows_read(state, query, first, last, row, context) : -1;
    pthread_mutex_unlock(&state->database_lock);
    return result;
}

uint64_t column_number(sqlite3_stmt *statement, int column)
{
    return (uint64_t)sqlite3_column_int64(statement, column);
}

static const char *column_text(sqlite3_stmt *statement, int column)
{
    return (const char *)sqlite3_column_text(statement, column);
}

struct vm_reader {
    void (*each)(void *context, const struct state_vm *vm);
    void *context;
};

static void vm_row(sqlite3_stmt *statement, void *context)
{
    struct vm_reader *reader = context;
    struct state_vm vm = {
        .id = (unsigned)column_number(statement, 0),
        .next_job = column_number(statement, 1),
        .next_file = column_number(statement, 2),
        .identity = column_text(statement, 3),
        .held = column_number(statement, 4) != 0,
        .entry = column_number(statement, 5),
        .rejection = column_text(statement, 6),
        .request_entry = column_number(statement, 7),
        .request_error = column_text(statement, 8),
    };
    reader->each(reader->context, &vm);
}

void state_load_vms(struct state *state, void (*each)(void *context, const struct state_vm *vm),
                    void *context)
{
    struct vm_reader reader = {each, context};
    rows_each(state,
              "SELECT id, next_job, next_file, identity, held, entry, rejection, request_entry,"
              " request_error FROM vm",
              0, 0, vm_row, &reader);
}

struct job_reader {
    void (*each)(void *context, const struct state_job *job);
    void *context;
};

static void job_row(sqlite3_stmt *statement, void *context)
{
    struct job_reader *reader = context;
    uint64_t id = column_number(statement, 0);
    struct state_job job = {
        .vm = (unsigned)(id >> 40),
        .number = id & ((UINT64_C(1) << 40) - 1),
        .tag = column_text(statement, 1),
        .pool = column_text(statement, 2),
        .line = column_text(statement, 3),
        .priority = (unsigned)column_number(statement, 4),
        .state = (unsigned)column_number(statement, 5),
        .attempts = (unsigned)column_number(statement, 6),
        .request = column_number(statement, 7),
        .read = column_number(statement, 8) != 0,
        .hidden = column_number(statement, 9) != 0,
        .sequence = column_number(statement, 10),
        .entry = column_number(statement, 11),
        .queued_at_us = column_number(statement, 12),
        .kept_at_us = column_number(statement, 13),
        .result_size = column_number(statement, 14),
        .cancel = column_text(statement, 15),
    };
    if (job.tag)
        reader->each(reader->context, &job);
}

int state_load_jobs(struct state *state, unsigned vm,
                    void (*each)(void *context, const struct state_job *job), void *context)
{
    struct job_reader reader = {each, context};
    uint64_t first = job_id(vm, 0), last = vm ? job_id(vm + 1, 0) : INT64_MAX;
    return rows_each(state,
                     "SELECT id, tag, pool, line, priority, state, attempts, legacy, read, hidden,"
                     " sequence, entry, queued_us, kept_us, result_size, cancel FROM job"
                     " WHERE id >= ?1 AND id < ?2"
                     " ORDER BY state > 2, CASE WHEN state > 2 THEN kept_us ELSE sequence END, id",
                     first, last, job_row, &reader);
}

struct blob *state_load_result(struct state *state, unsigned vm, uint64_t number)
{
    struct text text = {0};
    bool found = false;
    struct blob *logged = log_find_result(state, job_id(vm, number), &found);
    if (found)
        return logged;
    pthread_mutex_lock(&state->reader_lock);
    sqlite3_bind_int64(state->read_result, 1, (sqlite3_int64)job_id(vm, number));
    int result = sqlite3_step(state->read_result);
    if (result == SQLITE_ROW) {
        text_append(&text, sqlite3_column_blob(state->read_result, 0),
                    (size_t)sqlite3_column_bytes(state->read_result, 0));
        found = !text.failed;
    } else if (result != SQLITE_DONE) {
        log_error("state: cannot read a result: %s", sqlite3_errmsg(state->reader));
    }
    sqlite3_reset(state->read_result);
    pthread_mutex_unlock(&state->reader_lock);
    struct blob *blob = found ? blob_from_text(&text) : NULL;
    text_finish(&text);
    return blob;
}

struct pool_reader {
    void (*each)(void *context, const char *name);
    void *context;
};

static void pool_row(sqlite3_stmt *statement, void *context)
{
    struct pool_reader *reader = context;
    const char *name = column_text(statement, 0);
    if (name)
        reader->each(reader->context, name);
}

void state_load_held_pools(struct state *state, void (*each)(void *context, const char *name),
                           void *context)
{
    struct pool_reader reader = {each, context};
    rows_each(state, "SELECT name FROM pool WHERE held", 0, 0, pool_row, &reader);
}

static void draining_row(sqlite3_stmt *statement, void *context)
{
    *(bool *)context = column_number(statement, 0) != 0;
}

bool state_load_draining(struct state *state)
{
    bool draining = false;
    rows_each(state, "SELECT value FROM meta WHERE key = 'draining'", 0, 0, draining_row,
              &draining);
    return draining;
}

struct file_reader {
    void (*each)(void *context, uint64_t number, const char *name);
    void *context;
};

static void file_row(sqlite3_stmt *statement, void *context)
{
    struct file_reader *reader = context;
    const char *name = column_text(statement, 1);
    if (name)
        reader->each(reader->context, column_number(statement, 0), name);
}

int state_load_files(struct state *state, unsigned vm,
                     void (*each)(void *context, uint64_t number, const char *name), void *context)
{
    struct file_reader reader = {each, context};
    return rows_each(state, "SELECT number, name FROM file WHERE vm = ?1", vm, 0, file_row,
                     &reader);
}

struct executor_reader {
    void (*each)(void *context, pid_t pid, uint64_t start_time);
    void *context;
};

static void executor_row(sqlite3_stmt *statement, void *context)
{
    struct executor_reader *reader = context;
    reader->each(reader->context, (pid_t)column_number(statement, 0), column_number(statement, 1));
}

void state_load_executors(struct state *state,
                          void (*each)(void *context, pid_t pid, uint64_t start_time),
                          void *context)
{
    struct executor_reader reader = {each, context};
    rows_each(state, "SELECT pid, start_time FROM executor", 0, 0, executor_row, &reader);
}
