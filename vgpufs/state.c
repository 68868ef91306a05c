#include "state.h"

#include "clock.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Raised whenever the tables change; a newer file is refused, an older one migrated here. */
#define SCHEMA_VERSION 1
/* What guests may have the writer keep in memory while the disk refuses. */
#define MOST_WAITING 16384

static const char schema[] =
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE vm (id INTEGER PRIMARY KEY, next_job INTEGER NOT NULL DEFAULT 1,"
    "  next_file INTEGER NOT NULL DEFAULT 1, identity TEXT);"
    "CREATE TABLE file (vm INTEGER NOT NULL, number INTEGER NOT NULL, name BLOB NOT NULL,"
    "  PRIMARY KEY (vm, number), UNIQUE (vm, name)) WITHOUT ROWID;"
    "CREATE TABLE executor (pid INTEGER PRIMARY KEY, start_time INTEGER NOT NULL);"
    "PRAGMA user_version = 1;";

enum operation {
    PUT_JOB_NUMBERS,
    PUT_FILE_NUMBERS,
    PUT_IDENTITY,
    PUT_FILE,
    DELETE_FILE,
    PUT_EXECUTOR,
    DELETE_EXECUTOR,
    PUT_CHANGE_TIME,
    OPERATION_COUNT,
    REMOVE_BYTES = OPERATION_COUNT, /* not of the database: done after the commit */
};

/* ?1 and ?2 are numbers, ?3 is a string or NULL. */
static const char *const statements[OPERATION_COUNT] = {
    [PUT_JOB_NUMBERS] = "INSERT INTO vm (id, next_job) VALUES (?1, ?2)"
                        " ON CONFLICT (id) DO UPDATE SET next_job = ?2",
    [PUT_FILE_NUMBERS] = "INSERT INTO vm (id, next_file) VALUES (?1, ?2)"
                         " ON CONFLICT (id) DO UPDATE SET next_file = ?2",
    [PUT_IDENTITY] = "INSERT INTO vm (id, identity) VALUES (?1, ?3)"
                     " ON CONFLICT (id) DO UPDATE SET identity = ?3",
    /* Takes the row's old name and the name's old row away too: a rename is one statement. */
    [PUT_FILE] = "INSERT OR REPLACE INTO file (vm, number, name) VALUES (?1, ?2, ?3)",
    [DELETE_FILE] = "DELETE FROM file WHERE vm = ?1 AND number = ?2",
    [PUT_EXECUTOR] = "INSERT OR REPLACE INTO executor (pid, start_time) VALUES (?1, ?2)",
    [DELETE_EXECUTOR] = "DELETE FROM executor WHERE pid = ?1",
    [PUT_CHANGE_TIME] = "INSERT INTO meta (key, value) VALUES ('change_ns', ?1)"
                        " ON CONFLICT (key) DO UPDATE SET value = max(value, ?1)",
};

struct change {
    struct change *next;
    enum operation operation;
    uint64_t first, second;
    bool has_text;
    char text[];
};

struct state {
    /*
     * Held over a transaction or a load: the connection has no locks of its own. The first of two
     * locks; a load's callback may ask.
     */
    pthread_mutex_t database_lock;
    sqlite3 *database;
    sqlite3_stmt *prepared[OPERATION_COUNT];
    int lock_fd, data_dir;
    pthread_t writer;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t asked, written;
    struct change *first, **last;
    state_ticket newest, durable;
    int failure;    /* errno of the last attempt to write, 0 if it succeeded */
    size_t waiting; /* changes that were asked for and are not on disk */
    bool stopping;
};

static int database_errno(sqlite3 *database)
{
    switch (sqlite3_errcode(database) & 0xff) {
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_NOMEM:
        return ENOSPC;
    default:
        return EIO;
    }
}

static int change_apply(struct state *state, const struct change *change)
{
    if (change->operation == REMOVE_BYTES)
        return 0;
    sqlite3_stmt *statement = state->prepared[change->operation];
    int values = sqlite3_bind_parameter_count(statement);
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)change->first);
    if (values >= 2)
        sqlite3_bind_int64(statement, 2, (sqlite3_int64)change->second);
    if (values >= 3 && change->has_text) /* unbound is NULL */
        sqlite3_bind_blob(statement, 3, change->text, (int)strlen(change->text), SQLITE_STATIC);
    int result = sqlite3_step(statement);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return result == SQLITE_DONE ? 0 : -1;
}

/* group_apply makes one transaction of the whole list. 0, or an errno and nothing was written. */
static int group_apply(struct state *state, const struct change *group)
{
    struct change stamp = {.operation = PUT_CHANGE_TIME, .first = clock_change_last()};
    if (sqlite3_exec(state->database, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return database_errno(state->database);
    int failed = change_apply(state, &stamp);
    for (; group && !failed; group = group->next)
        failed = change_apply(state, group);
    if (!failed && sqlite3_exec(state->database, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    int error = database_errno(state->database);
    log_error("state: cannot write: %s: free space on the disk of state_dir or mend it; retrying",
              sqlite3_errmsg(state->database));
    sqlite3_exec(state->database, "ROLLBACK", NULL, NULL, NULL);
    return error;
}

static int group_write(struct state *state, const struct change *group)
{
    pthread_mutex_lock(&state->database_lock);
    int error = group_apply(state, group);
    pthread_mutex_unlock(&state->database_lock);
    return error;
}

/* bytes_remove removes the files that nothing in the database names any more. */
static void bytes_remove(struct state *state, const struct change *group)
{
    for (; group; group = group->next) {
        char path[48];
        if (group->operation != REMOVE_BYTES)
            continue;
        snprintf(path, sizeof(path), "%" PRIu64 "/%" PRIu64, group->first, group->second);
        unlinkat(state->data_dir, path, 0);
    }
}

static size_t group_free(struct change *group)
{
    size_t count = 0;
    for (struct change *next; group; group = next, count++) {
        next = group->next;
        free(group);
    }
    return count;
}

/* writer_pause waits a second, or until the state is to be closed, before the next attempt. */
static void writer_pause(struct state *state)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec++;
    int waited = 0;
    while (!state->stopping && waited == 0)
        waited = pthread_cond_timedwait(&state->asked, &state->lock, &until);
}

static void *writer_run(void *argument)
{
    struct state *state = argument;
    pthread_mutex_lock(&state->lock);
    for (;;) {
        while (!state->first && !state->stopping)
            pthread_cond_wait(&state->asked, &state->lock);
        struct change *group = state->first;
        if (!group)
            break;
        struct change **end = state->last;
        state_ticket ticket = state->newest;
        /* An attempt that began before the close may have met a disk that has room again. */
        bool last_attempt = state->stopping;
        state->first = NULL;
        state->last = &state->first;
        pthread_mutex_unlock(&state->lock);
        int error = group_write(state, group);
        size_t written = 0;
        if (!error) {
            bytes_remove(state, group);
            written = group_free(group);
        }
        pthread_mutex_lock(&state->lock);
        state->failure = error;
        state->waiting -= written;
        if (!error) {
            state->durable = ticket;
        } else { /* back in front of what came meanwhile */
            *end = state->first;
            state->last = state->first ? state->last : end;
            state->first = group;
        }
        pthread_cond_broadcast(&state->written);
        if (error && last_attempt)
            break;
        if (error)
            writer_pause(state);
    }
    pthread_mutex_unlock(&state->lock);
    return NULL;
}

static state_ticket state_ask(struct state *state, const struct change *wanted, const char *text)
{
    size_t size = text ? strlen(text) + 1 : 1;
    struct change *change = malloc(sizeof(*change) + size);
    pthread_mutex_lock(&state->lock);
    state_ticket ticket = ++state->newest;
    if (change) {
        *change = *wanted;
        change->next = NULL;
        change->has_text = text != NULL;
        memcpy(change->text, text ? text : "", size);
        *state->last = change;
        state->last = &change->next;
        state->waiting++;
    } else {
        log_error("state: no memory: a change is lost");
    }
    pthread_cond_signal(&state->asked);
    pthread_mutex_unlock(&state->lock);
    return ticket;
}

state_ticket state_put_job_numbers(struct state *state, unsigned vm, uint64_t next)
{
    struct change change = {.operation = PUT_JOB_NUMBERS, .first = vm, .second = next};
    return state_ask(state, &change, NULL);
}

state_ticket state_put_file_numbers(struct state *state, unsigned vm, uint64_t next)
{
    struct change change = {.operation = PUT_FILE_NUMBERS, .first = vm, .second = next};
    return state_ask(state, &change, NULL);
}

state_ticket state_put_identity(struct state *state, unsigned vm, const char *identity)
{
    struct change change = {.operation = PUT_IDENTITY, .first = vm};
    return state_ask(state, &change, identity);
}

state_ticket state_put_file(struct state *state, unsigned vm, uint64_t number, const char *name)
{
    struct change change = {.operation = PUT_FILE, .first = vm, .second = number};
    return state_ask(state, &change, name);
}

state_ticket state_delete_file(struct state *state, unsigned vm, uint64_t number)
{
    struct change change = {.operation = DELETE_FILE, .first = vm, .second = number};
    return state_ask(state, &change, NULL);
}

state_ticket state_remove_bytes(struct state *state, unsigned vm, uint64_t number)
{
    struct change change = {.operation = REMOVE_BYTES, .first = vm, .second = number};
    return state_ask(state, &change, NULL);
}

state_ticket state_put_executor(struct state *state, pid_t pid, uint64_t start_time)
{
    struct change change = {
        .operation = PUT_EXECUTOR, .first = (uint64_t)pid, .second = start_time};
    return state_ask(state, &change, NULL);
}

state_ticket state_delete_executor(struct state *state, pid_t pid)
{
    struct change change = {.operation = DELETE_EXECUTOR, .first = (uint64_t)pid};
    return state_ask(state, &change, NULL);
}

int state_wait(struct state *state, state_ticket ticket)
{
    pthread_mutex_lock(&state->lock);
    while (state->durable < ticket && !state->failure)
        pthread_cond_wait(&state->written, &state->lock);
    int error = state->durable >= ticket ? 0 : state->failure;
    pthread_mutex_unlock(&state->lock);
    return error;
}

bool state_is_behind(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    bool behind = state->waiting >= MOST_WAITING;
    pthread_mutex_unlock(&state->lock);
    return behind;
}

state_ticket state_now(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    state_ticket ticket = state->newest;
    pthread_mutex_unlock(&state->lock);
    return ticket;
}

int state_data_dir(const struct state *state)
{
    return state->data_dir;
}

/* rows_read runs a query and calls `row` for each row. -1, and logged, if not all could be read. */
static int rows_read(struct state *state, const char *query, unsigned bound,
                     void (*row)(sqlite3_stmt *statement, void *context), void *context)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(state->database, query, -1, &statement, NULL) != SQLITE_OK) {
        log_error("state: %s", sqlite3_errmsg(state->database));
        return -1;
    }
    if (sqlite3_bind_parameter_count(statement))
        sqlite3_bind_int64(statement, 1, bound);
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW)
        row(statement, context);
    if (result != SQLITE_DONE)
        log_error("state: %s", sqlite3_errmsg(state->database));
    sqlite3_finalize(statement);
    return result == SQLITE_DONE ? 0 : -1;
}

static int rows_each(struct state *state, const char *query, unsigned bound,
                     void (*row)(sqlite3_stmt *statement, void *context), void *context)
{
    pthread_mutex_lock(&state->database_lock);
    int result = rows_read(state, query, bound, row, context);
    pthread_mutex_unlock(&state->database_lock);
    return result;
}

static uint64_t column_number(sqlite3_stmt *statement, int column)
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
    };
    reader->each(reader->context, &vm);
}

void state_load_vms(struct state *state, void (*each)(void *context, const struct state_vm *vm),
                    void *context)
{
    struct vm_reader reader = {each, context};
    rows_each(state, "SELECT id, next_job, next_file, identity FROM vm", 0, vm_row, &reader);
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
    return rows_each(state, "SELECT number, name FROM file WHERE vm = ?1", vm, file_row, &reader);
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
    rows_each(state, "SELECT pid, start_time FROM executor", 0, executor_row, &reader);
}

static void change_time_row(sqlite3_stmt *statement, void *context)
{
    (void)context;
    clock_change_restore(column_number(statement, 0));
}

static void version_row(sqlite3_stmt *statement, void *context)
{
    *(uint64_t *)context = column_number(statement, 0);
}

/* directory_open makes the folder if it is missing. */
static int directory_open(int at, const char *path)
{
    if (mkdirat(at, path, 0700) < 0 && errno != EEXIST)
        return -1;
    return openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int state_lock_directory(struct state *state, const char *state_dir, struct text *error)
{
    int directory = directory_open(AT_FDCWD, state_dir);
    if (directory < 0) {
        text_printf(error, "cannot use state_dir %s: %s: create it or name another", state_dir,
                    strerror(errno));
        return -1;
    }
    state->lock_fd = openat(directory, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    state->data_dir = directory_open(directory, "data");
    int failure = errno;
    close(directory);
    if (state->lock_fd < 0 || state->data_dir < 0) {
        text_printf(error, "cannot write in state_dir %s: %s", state_dir, strerror(failure));
        return -1;
    }
    if (flock(state->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    text_printf(error, "another vgpufs uses state_dir %s: stop it or name another state_dir",
                state_dir);
    return -1;
}

static int database_open(struct state *state, const char *path, struct text *error)
{
    uint64_t version = 0;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &state->database, flags, NULL) != SQLITE_OK ||
        sqlite3_exec(state->database,
                     "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                     "PRAGMA locking_mode = EXCLUSIVE;",
                     NULL, NULL, NULL) != SQLITE_OK) {
        text_printf(error, "cannot open %s: %s: move the file away to start with an empty state",
                    path, sqlite3_errmsg(state->database));
        return -1;
    }
    rows_each(state, "PRAGMA user_version", 0, version_row, &version);
    if (version > SCHEMA_VERSION) {
        text_printf(error,
                    "%s is of version %" PRIu64 ", this vgpufs knows %d: install a newer one", path,
                    version, SCHEMA_VERSION);
        return -1;
    }
    if (version == 0 && sqlite3_exec(state->database, schema, NULL, NULL, NULL) != SQLITE_OK)
        goto failed;
    rows_each(state, "SELECT value FROM meta WHERE key = 'change_ns'", 0, change_time_row, NULL);
    for (int i = 0; i < OPERATION_COUNT; i++)
        if (sqlite3_prepare_v2(state->database, statements[i], -1, &state->prepared[i], NULL) !=
            SQLITE_OK)
            goto failed;
    return 0;
failed:
    text_printf(error, "cannot use %s: %s", path, sqlite3_errmsg(state->database));
    return -1;
}

static void state_free(struct state *state)
{
    for (int i = 0; i < OPERATION_COUNT; i++)
        sqlite3_finalize(state->prepared[i]);
    sqlite3_close(state->database);
    group_free(state->first);
    if (state->data_dir >= 0)
        close(state->data_dir);
    if (state->lock_fd >= 0)
        close(state->lock_fd);
    pthread_cond_destroy(&state->written);
    pthread_cond_destroy(&state->asked);
    pthread_mutex_destroy(&state->lock);
    pthread_mutex_destroy(&state->database_lock);
    free(state);
}

struct state *state_open(const char *state_dir, struct text *error)
{
    struct text path = {0};
    struct state *state = calloc(1, sizeof(*state));
    text_printf(&path, "%s/state.db", state_dir);
    if (!state || path.failed) {
        text_puts(error, "no memory");
        goto failed;
    }
    state->lock_fd = state->data_dir = -1;
    state->last = &state->first;
    pthread_mutex_init(&state->database_lock, NULL);
    pthread_mutex_init(&state->lock, NULL);
    pthread_cond_init(&state->asked, NULL);
    pthread_cond_init(&state->written, NULL);
    if (state_lock_directory(state, state_dir, error) < 0 ||
        database_open(state, path.data, error) < 0)
        goto failed;
    if (pthread_create(&state->writer, NULL, writer_run, state) != 0) {
        text_puts(error, "cannot start the thread that writes the state");
        goto failed;
    }
    text_finish(&path);
    return state;
failed:
    text_finish(&path);
    if (state)
        state_free(state);
    return NULL;
}

void state_close(struct state *state)
{
    if (!state)
        return;
    /* Stamps that were given out since the last group was written. */
    struct change stamp = {.operation = PUT_CHANGE_TIME, .first = clock_change_last()};
    state_ask(state, &stamp, NULL);
    pthread_mutex_lock(&state->lock);
    state->stopping = true;
    pthread_cond_signal(&state->asked);
    pthread_mutex_unlock(&state->lock);
    pthread_join(state->writer, NULL);
    state_free(state);
}
