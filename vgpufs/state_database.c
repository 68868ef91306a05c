/* The database file: its tables, opening it, and what is done with one that is not ours. */
#include "state_internal.h"

#include "clock.h"
#include "common/log.h"
#include "kill_point.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long one of the two connections waits for a lock that the other has: recovery takes one. */
#define BUSY_MS 5000

/*
 * migrations[N] makes version N + 1 of version N; a file of a newer version than the last is
 * refused. To change the tables, add one: those that are here are never edited.
 */
static const char *const migrations[] = {
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE vm (id INTEGER PRIMARY KEY, next_job INTEGER NOT NULL DEFAULT 1,"
    "  next_file INTEGER NOT NULL DEFAULT 1, identity TEXT);"
    "CREATE TABLE file (vm INTEGER NOT NULL, number INTEGER NOT NULL, name BLOB NOT NULL,"
    "  PRIMARY KEY (vm, number), UNIQUE (vm, name)) WITHOUT ROWID;"
    "CREATE TABLE executor (pid INTEGER PRIMARY KEY, start_time INTEGER NOT NULL);",
    /* id of a job: the VM's number * 2^40 + its own. What is large comes last: to read what stands
     * before it, it need not be read. */
    "CREATE TABLE job (id INTEGER PRIMARY KEY, tag BLOB NOT NULL, pool BLOB,"
    "  priority INTEGER NOT NULL, state INTEGER NOT NULL, legacy INTEGER NOT NULL,"
    "  sequence INTEGER NOT NULL, entry INTEGER NOT NULL, queued_us INTEGER NOT NULL,"
    "  attempts INTEGER NOT NULL DEFAULT 0, read INTEGER NOT NULL DEFAULT 0,"
    "  hidden INTEGER NOT NULL DEFAULT 0, kept_us INTEGER NOT NULL DEFAULT 0,"
    "  result_size INTEGER NOT NULL DEFAULT 0, line BLOB, result BLOB);"
    "CREATE TABLE result (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"
    "CREATE TABLE pool (name BLOB PRIMARY KEY, held INTEGER NOT NULL) WITHOUT ROWID;"
    "ALTER TABLE vm ADD COLUMN held INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE vm ADD COLUMN entry INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE vm ADD COLUMN rejection BLOB;"
    "ALTER TABLE vm ADD COLUMN request_entry INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE vm ADD COLUMN request_error BLOB;",
    /* Why a job that ran was to be cancelled; NULL: it was not. */
    "ALTER TABLE job ADD COLUMN cancel BLOB;",
    /* Groups that are not in the other tables yet (state_log.c). */
    "CREATE TABLE log (number INTEGER PRIMARY KEY, changes BLOB NOT NULL);",
    /* legacy says when, not only that: what is submitted again another way is no later request.
     * What the log may still hold is multiplied when it gets here (state_changes.c). */
    "UPDATE job SET legacy = entry WHERE legacy <> 0;",
};
#define SCHEMA_VERSION ((int)(sizeof(migrations) / sizeof(migrations[0])))

/* What opening can come to, beside success (0) and failure (-1). */
#define DAMAGED 1

/* log_errno: of the last system call for the write-ahead log that failed. sqlite3_system_errno does
 * not tell it when a COMMIT fails. */
static int log_errno(sqlite3 *database)
{
    sqlite3_file *log = NULL;
    int number = 0;
    if (sqlite3_file_control(database, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&log) ==
            SQLITE_OK &&
        log && log->pMethods)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &number);
    return number;
}

int database_errno(sqlite3 *database)
{
    switch (sqlite3_errcode(database) & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
        return ENOSPC;
    default: /* SQLite expects no quota */
        return sqlite3_system_errno(database) == ENOSPC || log_errno(database) == EDQUOT ? ENOSPC
                                                                                         : EIO;
    }
}

int database_sync(struct state *state, bool full)
{
    if (state->syncing == full)
        return 0;
    /* In WAL mode NORMAL keeps the file whole, and leaves out the sync of each commit. */
    const char *sql = full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL";
    if (sqlite3_exec(state->database, sql, NULL, NULL, NULL) != SQLITE_OK)
        return -1;
    state->syncing = full;
    return 0;
}

static bool is_damage(int result)
{
    return (result & 0xff) == SQLITE_CORRUPT || (result & 0xff) == SQLITE_NOTADB;
}

static int check_line(void *sound, int columns, char **values, char **names)
{
    (void)names;
    *(bool *)sound = *(bool *)sound && columns == 1 && values[0] && strcmp(values[0], "ok") == 0;
    return 0;
}

static int check_wanted(void *script, int columns, char **values, char **names)
{
    (void)names;
    if (columns == 1 && values[0])
        text_puts(script, values[0]);
    return 0;
}

/*
 * database_check looks at all tables but the results, which may be large. An SQLite older than 3.33
 * knows no table's name there and looks at all of it.
 */
static int database_check(sqlite3 *database)
{
    static const char tables[] = "SELECT 'PRAGMA quick_check(' || quote(name) || ');'"
                                 " FROM sqlite_master WHERE type = 'table' AND name <> 'result'";
    struct text script = {0};
    bool sound = true;
    int result = SQLITE_OK;
    if (sqlite3_libversion_number() >= 3033000)
        result = sqlite3_exec(database, tables, check_wanted, &script, NULL);
    else
        text_puts(&script, "PRAGMA quick_check");
    if (result == SQLITE_OK && script.failed)
        result = SQLITE_NOMEM;
    if (result == SQLITE_OK && script.size)
        result = sqlite3_exec(database, script.data, check_line, &sound, NULL);
    text_finish(&script);
    return result == SQLITE_OK && !sound ? SQLITE_CORRUPT : result;
}

static void version_row(sqlite3_stmt *statement, void *context)
{
    *(uint64_t *)context = column_number(statement, 0);
}

/* database_migrate brings the tables to this program's version, as a whole or not at all. */
static int database_migrate(struct state *state, const char *path, struct text *error)
{
    uint64_t version = 0;
    char sql[48];
    if (rows_each(state, "PRAGMA user_version", 0, 0, version_row, &version) < 0)
        return -1;
    if (version > (uint64_t)SCHEMA_VERSION) {
        text_printf(error,
                    "%s is of version %" PRIu64 ", this vgpufs knows %d: install a newer one", path,
                    version, SCHEMA_VERSION);
        return -1;
    }
    if (version == (uint64_t)SCHEMA_VERSION)
        return 0;
    snprintf(sql, sizeof(sql), "PRAGMA user_version = %d", SCHEMA_VERSION);
    bool failed = sqlite3_exec(state->database, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK;
    for (uint64_t i = version; i < (uint64_t)SCHEMA_VERSION && !failed; i++)
        failed = sqlite3_exec(state->database, migrations[i], NULL, NULL, NULL) != SQLITE_OK;
    KILL_POINT("migrating");
    if (!failed && sqlite3_exec(state->database, sql, NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(state->database, "COMMIT", NULL, NULL, NULL) == SQLITE_OK) {
        if (version)
            log_info("%s was of version %" PRIu64 " and is of version %d now", path, version,
                     SCHEMA_VERSION);
        return 0;
    }
    text_printf(error, "cannot use %s: %s", path, sqlite3_errmsg(state->database));
    return -1;
}

static void change_time_row(sqlite3_stmt *statement, void *context)
{
    (void)context;
    clock_change_restore(column_number(statement, 0));
}

static int statements_prepare(struct state *state, const char *path, struct text *error)
{
    static const char read_result[] = "SELECT result FROM job WHERE id = ?1 AND result IS NOT NULL"
                                      " UNION ALL SELECT bytes FROM result WHERE id = ?1";
    for (int i = 0; i < OPERATION_COUNT; i++) {
        if (sqlite3_prepare_v2(state->database, operation_sql((enum operation)i), -1,
                               &state->prepared[i], NULL) == SQLITE_OK)
            continue;
        text_printf(error, "cannot use %s: %s", path, sqlite3_errmsg(state->database));
        return -1;
    }
    if (sqlite3_prepare_v2(state->database, "BEGIN IMMEDIATE", -1, &state->begin, NULL) !=
            SQLITE_OK ||
        sqlite3_prepare_v2(state->database, "COMMIT", -1, &state->commit, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(state->database, "INSERT INTO log (changes) VALUES (?1)", -1,
                           &state->put_log, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(state->database, "DELETE FROM log", -1, &state->clear_log, NULL) !=
            SQLITE_OK) {
        text_printf(error, "cannot use %s: %s", path, sqlite3_errmsg(state->database));
        return -1;
    }
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &state->reader, flags, NULL) == SQLITE_OK &&
        sqlite3_busy_timeout(state->reader, BUSY_MS) == SQLITE_OK &&
        sqlite3_prepare_v2(state->reader, read_result, -1, &state->read_result, NULL) == SQLITE_OK)
        return 0;
    text_printf(error, "cannot use %s: %s", path, sqlite3_errmsg(state->reader));
    return -1;
}

static int database_try(struct state *state, const char *path, struct text *error)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int result = sqlite3_open_v2(path, &state->database, flags, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_busy_timeout(state->database, BUSY_MS);
    if (result == SQLITE_OK)
        result = sqlite3_exec(state->database,
                              "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                              /* 1 MiB, which the reserve covers. */
                              "PRAGMA wal_autocheckpoint = 256;"
                              /* What a large group made of it is given back. */
                              "PRAGMA journal_size_limit = 16777216;",
                              NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = database_check(state->database);
    if (is_damage(result))
        return DAMAGED;
    if (result != SQLITE_OK) {
        text_printf(error, "cannot open %s: %s", path, sqlite3_errmsg(state->database));
        return -1;
    }
    state->syncing = true;
    if (database_migrate(state, path, error) < 0)
        return -1;
    if (statements_prepare(state, path, error) < 0)
        return -1;
    pthread_mutex_lock(&state->database_lock);
    result = log_open(state);
    pthread_mutex_unlock(&state->database_lock);
    /* Values that no table takes were not written by vgpufs. */
    if (is_damage(result) || (result & 0xff) == SQLITE_CONSTRAINT ||
        (result & 0xff) == SQLITE_MISMATCH)
        return DAMAGED;
    if (result != SQLITE_OK) {
        text_printf(error, "cannot use %s: %s", path, sqlite3_errstr(result));
        return -1;
    }
    rows_each(state, "SELECT value FROM meta WHERE key = 'change_ns'", 0, 0, change_time_row, NULL);
    return 0;
}

/*
 * set_aside moves a damaged database away, and data/ with it: the names of those files are in it,
 * and the numbers begin anew.
 */
static int set_aside(const char *state_dir, struct text *error)
{
    static const char *const names[] = {"state.db", "state.db-wal", "state.db-shm", "data"};
    struct text path = {0};
    char stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(stamp, sizeof(stamp), "damaged-%Y%m%dT%H%M%SZ", gmtime_r(&now, &utc));
    int directory = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool failed = directory < 0 || mkdirat(directory, stamp, 0700) < 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !failed; i++) {
        path.size = 0;
        text_printf(&path, "%s/%s", stamp, names[i]);
        failed = path.failed ||
                 (renameat(directory, names[i], directory, path.data) < 0 && errno != ENOENT);
    }
    if (failed)
        text_printf(error, "%s/state.db is damaged and cannot be set aside: %s", state_dir,
                    strerror(errno));
    else
        log_error("%s/state.db is damaged: it and data/ were set aside in %s/%s, and an empty "
                  "state is made: jobs, results and data files of before are there only",
                  state_dir, state_dir, stamp);
    if (directory >= 0) {
        fsync(directory);
        close(directory);
    }
    text_finish(&path);
    return failed ? -1 : 0;
}

int database_open(struct state *state, const char *state_dir, struct text *error)
{
    struct text path = {0};
    text_printf(&path, "%s/state.db", state_dir);
    if (path.failed) {
        text_puts(error, "no memory");
        return -1;
    }
    /* Nobody asks how much memory SQLite has: each piece of it need not be counted under a lock. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    int result = database_try(state, path.data, error);
    if (result == DAMAGED) {
        database_close(state);
        result = set_aside(state_dir, error);
        if (result == 0)
            result = database_try(state, path.data, error);
    }
    if (result == DAMAGED) { /* a new file: the disk gives back other bytes than it was given */
        text_printf(error, "cannot use %s: %s", path.data, sqlite3_errmsg(state->database));
        result = -1;
    }
    text_finish(&path);
    return result;
}

void database_close(struct state *state)
{
    log_forget(state); /* what is in it stays there, or is damaged */
    for (int i = 0; i < OPERATION_COUNT; i++) {
        sqlite3_finalize(state->prepared[i]);
        state->prepared[i] = NULL;
    }
    sqlite3_finalize(state->begin);
    sqlite3_finalize(state->commit);
    sqlite3_finalize(state->put_log);
    sqlite3_finalize(state->clear_log);
    sqlite3_finalize(state->read_result);
    sqlite3_close(state->reader);
    sqlite3_close(state->database);
    state->begin = state->commit = state->read_result = NULL;
    state->put_log = state->clear_log = NULL;
    state->reader = state->database = NULL;
}
