/*
 * journal: a state.db with values of any type and size in every column, or any bytes at all, is
 * loaded, refused with words, or set aside. The first byte of the input chooses: even, the rest is
 * the file; odd, the rest is cut into values, which are written into rows.
 */
#include "folder.h"
#include "fuzz.h"
#include "state.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_RESULTS 32

static const char *folder;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    folder = folder_make();
    return 0;
}

/* Values from the input. */

struct input {
    const uint8_t *bytes;
    size_t size;
};

static unsigned next_byte(struct input *input)
{
    if (!input->size)
        return 0;
    input->size--;
    return *input->bytes++;
}

static void bind_value(sqlite3_stmt *statement, int place, struct input *input)
{
    static const sqlite3_int64 bounds[] = {
        0,         1,         -1,         2,
        3,         4,         6,          7,
        65535,     65536,     INT32_MAX,  INT64_C(1) << 40,
        INT64_MAX, INT64_MIN, UINT32_MAX, (INT64_C(1) << 40) + 1};
    unsigned choice = next_byte(input);
    size_t size = next_byte(input);
    if (size > input->size)
        size = input->size;
    switch (choice % 6) {
    case 0:
        sqlite3_bind_null(statement, place);
        break;
    case 1:
        sqlite3_bind_int64(statement, place, bounds[size % 16]);
        break;
    case 2:
        sqlite3_bind_double(statement, place, (double)choice * 1e300);
        break;
    case 3:
        sqlite3_bind_text(statement, place, (const char *)input->bytes, (int)size,
                          SQLITE_TRANSIENT);
        break;
    case 4:
        sqlite3_bind_blob(statement, place, input->bytes, (int)size, SQLITE_TRANSIENT);
        break;
    default:
        sqlite3_bind_zeroblob(statement, place, (int)(size << (choice % 13)));
    }
    if (choice % 6 == 3 || choice % 6 == 4) {
        input->bytes += size;
        input->size -= size;
    }
}

static int columns_of(sqlite3 *database, const char *table)
{
    sqlite3_stmt *statement;
    char sql[64];
    snprintf(sql, sizeof(sql), "SELECT * FROM %s", table);
    CHECK(sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK);
    int columns = sqlite3_column_count(statement);
    sqlite3_finalize(statement);
    return columns;
}

/* rows_write puts rows into the tables of an empty state, as far as they take them. */
static void rows_write(const char *path, struct input *input)
{
    static const char *const tables[] = {"job",  "vm",       "file", "result",
                                         "pool", "executor", "meta", "log"};
    sqlite3 *database;
    CHECK(sqlite3_open(path, &database) == SQLITE_OK);
    while (input->size) {
        size_t table = next_byte(input) % (sizeof(tables) / sizeof(tables[0]));
        sqlite3_stmt *statement = NULL;
        char sql[160];
        int columns = columns_of(database, tables[table]);
        int used = snprintf(sql, sizeof(sql), "INSERT OR REPLACE INTO %s VALUES (?", tables[table]);
        for (int i = 1; i < columns; i++)
            used += snprintf(sql + used, sizeof(sql) - (size_t)used, ",?");
        snprintf(sql + used, sizeof(sql) - (size_t)used, ")");
        if (sqlite3_prepare_v2(database, sql, -1, &statement, NULL) != SQLITE_OK)
            fuzz_failed(__FILE__, __LINE__, sqlite3_errmsg(database));
        for (int i = 1; i <= columns; i++)
            bind_value(statement, i, input);
        sqlite3_step(statement); /* a constraint may refuse it */
        sqlite3_finalize(statement);
    }
    sqlite3_close(database);
}

/* What is loaded. */

struct loaded {
    struct {
        unsigned vm;
        uint64_t number;
    } jobs[MOST_RESULTS];
    size_t count, bytes;
};

static void see_text(struct loaded *loaded, const char *text)
{
    loaded->bytes += text ? strlen(text) : 0;
}

static void see_vm(void *context, const struct state_vm *vm)
{
    see_text(context, vm->identity);
    see_text(context, vm->rejection);
    see_text(context, vm->request_error);
}

static void see_job(void *context, const struct state_job *job)
{
    struct loaded *loaded = context;
    CHECK(job->tag);
    see_text(loaded, job->tag);
    see_text(loaded, job->pool);
    see_text(loaded, job->line);
    if (loaded->count == MOST_RESULTS)
        return;
    loaded->jobs[loaded->count].vm = job->vm;
    loaded->jobs[loaded->count++].number = job->number;
}

static void see_pool(void *context, const char *name)
{
    CHECK(name);
    see_text(context, name);
}

static void see_file(void *context, uint64_t number, const char *name)
{
    (void)number;
    CHECK(name);
    see_text(context, name);
}

static void see_executor(void *context, pid_t pid, uint64_t start_time)
{
    (void)context;
    (void)pid;
    (void)start_time;
}

static void load_all(struct state *state)
{
    struct loaded loaded = {.count = 0};
    state_load_vms(state, see_vm, &loaded);
    state_load_jobs(state, 0, see_job, &loaded);
    state_load_jobs(state, 65535, see_job, &loaded);
    state_load_held_pools(state, see_pool, &loaded);
    state_load_executors(state, see_executor, &loaded);
    for (unsigned vm = 0; vm < 3; vm++)
        state_load_files(state, vm, see_file, &loaded);
    for (size_t i = 0; i < loaded.count; i++)
        blob_unref(state_load_result(state, loaded.jobs[i].vm, loaded.jobs[i].number));
}

static void open_and_load(void)
{
    struct text error = {0};
    struct state *state = state_open(folder, &error);
    CHECK(state || (error.size && !memchr(error.data, '\n', error.size)));
    if (state)
        load_all(state);
    state_close(state);
    text_finish(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[96];
    if (size < 2)
        return 0;
    folder_clear();
    snprintf(path, sizeof(path), "%s/state.db", folder);
    if (data[0] & 1) {
        struct input input = {data + 1, size - 1};
        open_and_load(); /* this makes the tables */
        rows_write(path, &input);
    } else {
        int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(file >= 0 && write(file, data + 1, size - 1) == (ssize_t)(size - 1));
        close(file);
    }
    open_and_load();
    return 0;
}
