/* state: files of older and newer versions, damaged ones, and those that somebody else uses. */
#include "clock.h"
#include "scratch.h"
#include "state_file.h"
#include "state_fixture.h"
#include "synced.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static void test_second_opener(void **unused)
{
    (void)unused;
    open_state();
    assert_no_state(scratch_path("state"), "another vgpufs uses state_dir", scratch_path("state"));
    /* The first one is none the worse for it. */
    assert_int_equal(state_wait(opened, state_put_job_numbers(opened, 1, 2)), 0);
    reopen();
    assert_vms("vm1 2 1 -\n");
}

static void test_no_directory(void **unused)
{
    (void)unused;
    assert_no_state(scratch_path("missing/state"), "cannot use state_dir",
                    "No such file or directory");
    close(open(scratch_path("file"), O_CREAT | O_WRONLY, 0600));
    assert_no_state(scratch_path("file"), "cannot use state_dir", "Not a directory");
    /* A missing last part is made, and is nobody else's business. */
    struct stat stat_of;
    open_state();
    assert_int_equal(stat(scratch_path("state"), &stat_of), 0);
    assert_int_equal(stat_of.st_mode & 07777, 0700);
    assert_int_equal(fstat(state_data_dir(opened), &stat_of), 0);
    assert_true(S_ISDIR(stat_of.st_mode));
    assert_int_equal(stat_of.st_mode & 07777, 0700);
}

/*
 * A file that version 1 wrote (the dump of a daemon's state.db, after an identity, six jobs and
 * two data files): it is migrated, as a whole, and nothing that it had is lost.
 */
static const char version_1[] =
    "PRAGMA journal_mode = WAL;"
    "BEGIN TRANSACTION;"
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('change_ns',1795378598782609153);"
    "CREATE TABLE vm (id INTEGER PRIMARY KEY, next_job INTEGER NOT NULL DEFAULT 1,"
    "  next_file INTEGER NOT NULL DEFAULT 1, identity TEXT);"
    "INSERT INTO vm VALUES(1,1,1,NULL);"
    "INSERT INTO vm VALUES(2,1,1,NULL);"
    "INSERT INTO vm VALUES(3,7,1025,X'413A323A33');"
    "CREATE TABLE file (vm INTEGER NOT NULL, number INTEGER NOT NULL, name BLOB NOT NULL,"
    "  PRIMARY KEY (vm, number), UNIQUE (vm, name)) WITHOUT ROWID;"
    "INSERT INTO file VALUES(3,1,X'782E663332');"
    "INSERT INTO file VALUES(3,2,X'7A2E663332');"
    "CREATE TABLE executor (pid INTEGER PRIMARY KEY, start_time INTEGER NOT NULL);"
    "COMMIT;"
    "PRAGMA user_version = 1;";

static void test_migration(void **unused)
{
    (void)unused;
    assert_int_equal(mkdir(scratch_path("state"), 0700), 0);
    run_sql(version_1);
    open_state();
    assert_vms("vm1 1 1 -\nvm2 1 1 -\nvm3 7 1025 A:2:3\n");
    assert_files(3, "1=x.f32\n2=z.f32\n");
    assert_true(clock_change_last() >= 1795378598782609153);
    assert_jobs(0, "");
    state_put_directory(opened, 3, 7, "new");
    reopen();
    assert_jobs(3, "vm3 7 new - - p0 s0 n0 e0 r0 q0 k0\n");
    /* The last version without a log; which request was the last was guessed then. */
    close_state();
    run_sql("DROP TABLE log; PRAGMA user_version = 3;"
            "UPDATE job SET legacy = 1, entry = 5;");
    open_state();
    assert_jobs(3, "vm3 7 new - - p0 s0 n0 e5 r5 q0 k0\n");
    /* By halves it is not: what a table of another make hinders leaves version 1 as it was. */
    close_state();
    unlink(scratch_path("state/state.db"));
    run_sql(version_1);
    run_sql("CREATE TABLE pool (of INTEGER)");
    assert_no_state(scratch_path("state"), "cannot use", "pool already exists");
    run_sql("DROP TABLE pool");
    open_state();
    assert_vms("vm1 1 1 -\nvm2 1 1 -\nvm3 7 1025 A:2:3\n");
}

/* A folder that is made outlives a power cut with what is put into it. */
static void test_new_folders_are_synced(void **unused)
{
    (void)unused;
    synced_watch(scratch_path("state"));
    open_state();
    assert_true(synced_seen());
    close_state();
    assert_int_equal(rmdir(scratch_path("state/data")), 0);
    synced_watch(scratch_path("state/data"));
    open_state();
    assert_true(synced_seen());
}

static void test_newer_version(void **unused)
{
    (void)unused;
    open_state();
    state_put_job_numbers(opened, 5, 99);
    close_state();
    run_sql("PRAGMA user_version = 6");
    assert_no_state(scratch_path("state"), "is of version 6, this vgpufs knows 5", "install");
    run_sql("PRAGMA user_version = -1");
    assert_no_state(scratch_path("state"), "is of version", "install");
    /* It was left as it is. */
    run_sql("PRAGMA user_version = 5");
    open_state();
    assert_vms("vm5 99 1 -\n");
}

static void put_file(const char *path, const char *content, size_t size)
{
    FILE *file = fopen(path, "r+");
    file = file ? file : fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void assert_content(const char *path, const char *expected)
{
    char content[256] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(content, 1, strlen(expected), file), strlen(expected));
    fclose(file);
    assert_string_equal(content, expected);
}

/* What cannot be read is set aside, with the bytes that only it has names for; none is lost. */
static void test_damaged(void **unused)
{
    (void)unused;
    static const char garbage[] = "This is no database, but somebody's text.";
    open_state();
    state_put_job_numbers(opened, 1, 5);
    close_state();
    assert_null(aside_path("state.db"));
    put_file(scratch_path("state/state.db"), garbage, sizeof(garbage) - 1);
    put_file(scratch_path("state/data/17"), "bytes", 5);
    open_state();
    assert_vms("");
    assert_content(aside_path("state.db"), garbage);
    assert_content(aside_path("data/17"), "bytes");
    assert_int_not_equal(access(scratch_path("state/data/17"), F_OK), 0);
    state_put_job_numbers(opened, 1, 2);
    reopen();
    assert_vms("vm1 2 1 -\n");
}

/* Our version, and not our tables. */
static void test_missing_table(void **unused)
{
    (void)unused;
    open_state();
    close_state();
    run_sql("DROP TABLE file");
    assert_no_state(scratch_path("state"), "cannot use", "no such table: file");
}

/* A table that cannot be read is found when the file is opened, not when something is missing. */
static void test_damaged_table(void **unused)
{
    (void)unused;
    open_state();
    state_put_file(opened, 1, 1, "a");
    close_state();
    damage_table("file");
    open_state();
    assert_files(1, "");
    assert_int_equal(access(aside_path("state.db"), F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_second_opener), STATE_TEST(test_no_directory),
        STATE_TEST(test_migration),     STATE_TEST(test_new_folders_are_synced),
        STATE_TEST(test_newer_version), STATE_TEST(test_damaged),
        STATE_TEST(test_missing_table), STATE_TEST(test_damaged_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
