#include "state_file.h"

#include "scratch.h"

#include <dirent.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

void run_sql(const char *sql)
{
    sqlite3 *database;
    char *error = NULL;
    assert_int_equal(sqlite3_open(scratch_path("state/state.db"), &database), SQLITE_OK);
    if (sqlite3_exec(database, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(database);
}

long number_of(const char *sql)
{
    sqlite3 *database;
    sqlite3_stmt *statement;
    assert_int_equal(sqlite3_open(scratch_path("state/state.db"), &database), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(database, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    long number = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    return number;
}

void damage_table(const char *name)
{
    sqlite3 *database;
    sqlite3_stmt *statement;
    static char page[65536];
    assert_int_equal(sqlite3_open(scratch_path("state/state.db"), &database), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(database,
                           "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size"
                           " WHERE name = ?1",
                           -1, &statement, NULL),
        SQLITE_OK);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    long number = sqlite3_column_int(statement, 0), size = sqlite3_column_int(statement, 1);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    memset(page, 0xee, sizeof(page));
    FILE *file = fopen(scratch_path("state/state.db"), "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (number - 1) * size, SEEK_SET), 0);
    assert_int_equal(fwrite(page, 1, (size_t)size, file), size);
    fclose(file);
}

const char *aside_path(const char *name)
{
    char path[96];
    const char *found = NULL;
    DIR *directory = opendir(scratch_path("state"));
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strncmp(entry->d_name, "damaged-", 8) != 0)
            continue;
        snprintf(path, sizeof(path), "state/%.48s/%s", entry->d_name, name);
        found = scratch_path(path);
    }
    closedir(directory);
    return found;
}

void replace_write(write_function *function)
{
    /* The one that it uses is known when it was built; NULL is what it began with. */
    static const char *const calls[] = {"pwrite", "pwrite64"};
    sqlite3_vfs *files = sqlite3_vfs_find(NULL);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(files->xSetSystemCall(files, calls[i], (sqlite3_syscall_ptr)function),
                         SQLITE_OK);
}
