/* state: what was asked for is there again after a restart, and a file that is not ours is left. */
#include "state.h"

#include "clock.h"
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static struct state *opened;

static int setup(void **state)
{
    (void)state;
    scratch_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_disk_full(0);
    state_close(opened);
    opened = NULL;
    scratch_remove();
    return 0;
}

static struct state *open_state(void)
{
    struct text error = {0};
    opened = state_open(scratch_path("state"), &error);
    if (!opened)
        fail_msg("%s", error.data);
    assert_null(error.data);
    return opened;
}

static void close_state(void)
{
    state_close(opened);
    opened = NULL;
}

/* reopen closes, which writes what is still to be written, and opens again. */
static struct state *reopen(void)
{
    close_state();
    return open_state();
}

/* assert_no_state: it cannot be opened, and one line holds both pieces. */
static void assert_no_state(const char *path, const char *piece, const char *other)
{
    struct text error = {0};
    assert_null(state_open(path, &error));
    assert_non_null(error.data);
    if (!strstr(error.data, piece) || !strstr(error.data, other))
        fail_msg("\"%s\" says nothing of \"%s\" or of \"%s\"", error.data, piece, other);
    assert_null(strchr(error.data, '\n'));
    text_finish(&error);
}

/* What was loaded, as text. */

static void note_vm(void *context, const struct state_vm *vm)
{
    text_printf(context, "vm%u %" PRIu64 " %" PRIu64 " %s\n", vm->id, vm->next_job, vm->next_file,
                vm->identity ? vm->identity : "-");
}

static void note_file(void *context, uint64_t number, const char *name)
{
    text_printf(context, "%" PRIu64 "=%s\n", number, name);
}

static void note_executor(void *context, pid_t pid, uint64_t start_time)
{
    text_printf(context, "%d@%" PRIu64 "\n", (int)pid, start_time);
}

static void assert_text(struct text *text, const char *expected)
{
    text_puts(text, "");
    assert_false(text->failed);
    assert_string_equal(text->data, expected);
    text_finish(text);
}

static void assert_vms(const char *expected)
{
    struct text text = {0};
    state_load_vms(opened, note_vm, &text);
    assert_text(&text, expected);
}

static void assert_files(unsigned vm, const char *expected)
{
    struct text text = {0};
    assert_int_equal(state_load_files(opened, vm, note_file, &text), 0);
    assert_text(&text, expected);
}

static void assert_executors(const char *expected)
{
    struct text text = {0};
    state_load_executors(opened, note_executor, &text);
    assert_text(&text, expected);
}

static void test_empty(void **unused)
{
    (void)unused;
    open_state();
    assert_vms("");
    assert_files(1, "");
    assert_executors("");
    reopen();
    assert_vms("");
}

static void test_vms(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_job_numbers(state, 3, 257);
    state_put_file_numbers(state, 3, 1025);
    state_put_identity(state, 3, "pool=A priority=2 vm_id=3");
    state_put_identity(state, 4, "B:0:4"); /* its numbers begin at 1 */
    state_put_file_numbers(state, 65535, INT64_MAX);
    state = reopen();
    assert_vms("vm3 257 1025 pool=A priority=2 vm_id=3\nvm4 1 1 B:0:4\n"
               "vm65535 1 9223372036854775807 -\n");
    /* Each of the three alone; the others stay. */
    state_put_job_numbers(state, 3, 513);
    state_put_identity(state, 4, "B:1:4");
    state_put_identity(state, 4, NULL);
    state = reopen();
    assert_vms("vm3 513 1025 pool=A priority=2 vm_id=3\nvm4 1 1 -\n"
               "vm65535 1 9223372036854775807 -\n");
    state_put_identity(state, 3, "A:1:3");
    state_put_file_numbers(state, 3, 2049);
    reopen();
    assert_vms("vm3 513 2049 A:1:3\nvm4 1 1 -\nvm65535 1 9223372036854775807 -\n");
}

static void test_files(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_file(state, 1, 1, "a");
    state_put_file(state, 1, 2, "b");
    state_put_file(state, 2, 1, "a"); /* another VM's name is another name */
    state = reopen();
    assert_files(1, "1=a\n2=b\n");
    assert_files(2, "1=a\n");
    assert_files(3, "");
    state_delete_file(state, 1, 1);
    state_delete_file(state, 1, 99);
    state_put_file(state, 1, 2, "c");
    state = reopen();
    assert_files(1, "2=c\n");
    assert_files(2, "1=a\n");
}

/* A rename takes the name away from who had it, in the same statement. */
static void test_rename_replaces(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_file(state, 1, 1, "target");
    state_put_file(state, 1, 2, "temporary");
    state_put_file(state, 1, 3, "other");
    state_put_file(state, 1, 2, "target");
    state = reopen();
    assert_files(1, "2=target\n3=other\n");
    /* Two change their names over a third one. */
    state_put_file(state, 1, 2, "x");
    state_put_file(state, 1, 3, "target");
    state_put_file(state, 1, 2, "other");
    reopen();
    assert_files(1, "2=other\n3=target\n");
}

/* Any bytes but NUL and '/' may be in a name. */
static void test_names(void **unused)
{
    (void)unused;
    char longest[256], expected[1024];
    memset(longest, 'x', 255);
    longest[255] = '\0';
    struct state *state = open_state();
    state_put_file(state, 1, 1, "'); DROP TABLE file; --");
    state_put_file(state, 1, 2, "\xff\xfe\x01\n ?1");
    state_put_file(state, 1, 3, "\xc3\xa4");
    state_put_file(state, 1, 4, longest);
    state_put_file(state, 1, 5, "17");
    state_put_file(state, 1, 6, "A");
    state_put_file(state, 1, 7, "a");
    reopen();
    snprintf(expected, sizeof(expected),
             "1='); DROP TABLE file; --\n2=\xff\xfe\x01\n ?1\n3=\xc3\xa4\n4=%s\n5=17\n6=A\n7=a\n",
             longest);
    assert_files(1, expected);
}

static void test_executors(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    state_put_executor(state, 100, 5);
    state_put_executor(state, 200, UINT64_MAX);
    state_put_executor(state, 300, 7);
    state_put_executor(state, 100, 6); /* the pid was used again */
    state_delete_executor(state, 300);
    state_delete_executor(state, 999);
    reopen();
    assert_executors("100@6\n200@18446744073709551615\n");
}

static void test_tickets(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    assert_int_equal(state_wait(state, 0), 0);
    state_ticket last = state_now(state);
    for (uint64_t i = 1; i <= 100; i++) {
        state_ticket ticket = state_put_job_numbers(state, 1, i);
        assert_true(ticket > last);
        assert_int_equal(state_now(state), ticket);
        last = ticket;
    }
    assert_int_equal(state_wait(state, last), 0);
    assert_int_equal(state_wait(state, state_now(state)), 0);
}

/* What state_wait has promised is there though nobody closed: the process was killed. */
static void test_killed(void **unused)
{
    (void)unused;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct text error = {0};
        struct state *state = state_open(scratch_path("state"), &error);
        if (!state)
            _exit(2);
        state_put_job_numbers(state, 7, 4711);
        state_put_file(state, 7, 1, "kept");
        _exit(state_wait(state, state_now(state)));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    open_state();
    assert_vms("vm7 4711 1 -\n");
    assert_files(7, "1=kept\n");
}

#define WRITERS 4
#define WRITES  200

static void *write_numbers(void *argument)
{
    unsigned vm = (unsigned)(uintptr_t)argument;
    for (uint64_t i = 1; i <= WRITES; i++) {
        state_ticket ticket = state_put_job_numbers(opened, vm, i);
        if (i % 10 == 0 && state_wait(opened, ticket) != 0)
            return NULL;
    }
    return argument;
}

static void test_threads(void **unused)
{
    (void)unused;
    pthread_t threads[WRITERS];
    open_state();
    for (uintptr_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_numbers, (void *)(i + 1)), 0);
    for (uintptr_t i = 0; i < WRITERS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_int_equal((uintptr_t)result, i + 1);
    }
    reopen();
    assert_vms("vm1 200 1 -\nvm2 200 1 -\nvm3 200 1 -\nvm4 200 1 -\n");
}

static void count_file(void *context, uint64_t number, const char *name)
{
    (void)name;
    if (++*(unsigned *)context % 100 == 0) /* as the daemon does for bytes that are gone */
        state_delete_file(opened, 2, number);
}

/* While one VM is loaded, what another one asked for is being written. */
static void test_load_while_writing(void **unused)
{
    (void)unused;
    enum { FILES = 1000 };
    pthread_t writer;
    void *result;
    char name[16];
    open_state();
    for (uint64_t i = 1; i <= FILES; i++) {
        snprintf(name, sizeof(name), "%" PRIu64, i);
        state_put_file(opened, 1, i, name);
    }
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_numbers, (void *)1), 0);
    for (unsigned i = 0; i < 100; i++) {
        unsigned count = 0;
        assert_int_equal(state_load_files(opened, 1, count_file, &count), 0);
        assert_int_equal(count, FILES);
    }
    pthread_join(writer, &result);
    assert_int_equal((uintptr_t)result, 1);
    reopen();
    assert_vms("vm1 200 1 -\n");
}

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

/* run_sql changes the closed database behind the daemon's back. */
static void run_sql(const char *sql)
{
    sqlite3 *database;
    char *error = NULL;
    assert_int_equal(sqlite3_open(scratch_path("state/state.db"), &database), SQLITE_OK);
    if (sqlite3_exec(database, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(database);
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

static void note_job(void *context, const struct state_job *job)
{
    text_printf(context,
                "vm%u %" PRIu64 " %s %s %s p%u s%u n%u e%" PRIu64 " r%" PRIu64 " q%" PRIu64
                " k%" PRIu64 "%s%s\n",
                job->vm, job->number, job->tag, job->pool ? job->pool : "-",
                job->line ? job->line : "-", job->priority, job->state, job->attempts, job->entry,
                job->request, job->sequence, job->kept_at_us, job->read ? " read" : "",
                job->hidden ? " hidden" : "");
}

static void assert_jobs(unsigned vm, const char *expected)
{
    struct text text = {0};
    assert_int_equal(state_load_jobs(opened, vm, note_job, &text), 0);
    assert_text(&text, expected);
}

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

/* blob_of makes a result of so many bytes. */
static struct blob *blob_of(size_t size, char fill)
{
    struct text text = {0};
    for (size_t i = 0; i < size; i++)
        text_append(&text, &fill, 1);
    struct blob *blob = blob_from_text(&text);
    assert_non_null(blob);
    return blob;
}

static void assert_result(unsigned vm, uint64_t number, size_t size, char fill)
{
    struct blob *blob = state_load_result(opened, vm, number);
    assert_non_null(blob);
    assert_int_equal(blob->size, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(blob->data[i], fill);
    blob_unref(blob);
}

/* wait_written waits until vm1's job is in the database, and asks for nothing. */
static void wait_written(void)
{
    for (int tries = 0;; tries++) {
        struct text text = {0};
        assert_int_equal(state_load_jobs(opened, 1, note_job, &text), 0);
        bool written = text.size > 0;
        text_finish(&text);
        if (written)
            break;
        assert_true(tries < 3000);
        usleep(10000);
    }
}

/* Who submits without waiting gets no sync of its own, but is not forgotten either. */
static void test_unawaited(void **unused)
{
    (void)unused;
    struct state_batch batch = {0};
    struct state_job job = {.vm = 1, .number = 1, .tag = "1", .pool = "A", .line = "NOP"};
    open_state();
    state_set_durability(opened, DURABILITY_SYNC, 0);
    state_batch_add(&batch, &job);
    state_put_batch(opened, &batch);
    wait_written();
}

static void put_result(unsigned vm, uint64_t number, size_t size, char fill)
{
    struct blob *blob = blob_of(size, fill);
    state_end_job(opened, vm, number, 3, 1000 - number, blob);
    blob_unref(blob);
}

static void test_jobs(void **unused)
{
    (void)unused;
    struct state_batch batch = {0};
    open_state();
    for (uint64_t i = 1; i <= 4; i++) {
        struct state_job job = {.vm = 2,
                                .number = i,
                                .tag = i == 1 ? "one" : "t",
                                .pool = "A",
                                .line = "NOP\n",
                                .priority = 2,
                                .state = 1,
                                .sequence = 10000 - i,
                                .entry = i + 5,
                                .request = i >= 3 ? i + 5 : 0};
        state_batch_add(&batch, &job);
    }
    state_put_batch(opened, &batch);
    state_start_job(opened, 2, 3);
    state_start_job(opened, 2, 4); /* and put back before it reached an executor */
    state_unstart_job(opened, 2, 4);
    state_move_job(opened, 2, 4, 0);
    put_result(2, 1, 100, 'a');
    put_result(2, 2, 300000, 'b');
    state_read_job(opened, 2, 1, 5000);
    reopen();
    /* Unfinished ones by arrival, ended ones by the time that they are kept from. */
    assert_jobs(2, "vm2 4 t A NOP\n p0 s1 n0 e9 r9 q9996 k0\n"
                   "vm2 3 t A NOP\n p2 s2 n1 e8 r8 q9997 k0\n"
                   "vm2 2 t A NOP\n p2 s3 n0 e7 r0 q9998 k998\n"
                   "vm2 1 one A NOP\n p2 s3 n0 e6 r0 q9999 k5000 read\n");
    assert_jobs(1, "");
    assert_result(2, 1, 100, 'a');
    assert_result(2, 2, 300000, 'b');
    assert_null(state_load_result(opened, 2, 3));
    state_hide_job(opened, 2, 3);
    state_renew_job(opened, 2, 3, 19, true);
    state_renew_job(opened, 2, 4, 20, false);
    state_delete_job(opened, 2, 1, 100);
    state_delete_job(opened, 2, 2, 300000);
    reopen();
    assert_jobs(0, "vm2 4 t A NOP\n p0 s1 n0 e20 r9 q9996 k0\n"
                   "vm2 3 t A NOP\n p2 s2 n1 e19 r19 q9997 k0 hidden\n");
    assert_null(state_load_result(opened, 2, 2));
}

/* number_of asks the database for one number, with a connection of its own. */
static long number_of(const char *sql)
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

/* A large result has a row of its own, which is not copied whenever the job's is, and which goes
 * with the job; it counts as what it is while it is not written. */
static void test_large_result(void **unused)
{
    (void)unused;
    open_state();
    state_put_directory(opened, 1, 1, "a");
    put_result(1, 1, 300000, 'x');
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_false(state_is_behind(opened, 1));
    close_state();
    assert_int_equal(number_of("SELECT count(*) FROM result WHERE length(bytes) = 300000"), 1);
    assert_int_equal(number_of("SELECT count(*) FROM job WHERE result IS NULL"), 1);
    open_state();
    assert_result(1, 1, 300000, 'x');
    state_delete_job(opened, 1, 1, 300000);
    close_state();
    assert_int_equal(number_of("SELECT count(*) FROM result"), 0);
}

static void note_told(struct state_waiter *waiter, int error)
{
    (void)waiter, (void)error;
    fail_msg("nobody was to be called");
}

/* What is written is not on disk by that: who waits for the disk is told so when it refuses. */
static void test_written_is_not_durable(void **unused)
{
    (void)unused;
    int error = 0;
    open_state();
    state_ticket ticket = state_put_directory(opened, 1, 1, "a");
    wait_written();
    assert_false(state_is_durable(opened, ticket));
    scratch_disk_full(1);
    assert_int_not_equal(state_wait(opened, ticket), 0);
    struct state_waiter waiter = {.ticket = ticket, .done = note_told};
    assert_false(state_when(opened, &waiter, &error));
    assert_int_not_equal(error, 0);
    struct state_waiter stored = {.ticket = ticket, .stored = true, .done = note_told};
    assert_false(state_when(opened, &stored, &error));
    assert_int_equal(error, 0);
    scratch_disk_full(0);
}

/* Room that is promised is on the disk, and is given back. */
static void test_room(void **unused)
{
    (void)unused;
    struct stat stat_of;
    open_state();
    assert_true(state_reserve(opened, 50000000));
    assert_int_equal(stat(scratch_path("state/reserve"), &stat_of), 0);
    assert_true(stat_of.st_blocks * 512 >= 50000000);
    scratch_disk_full(1);
    assert_false(state_reserve(opened, 500000000));
    scratch_disk_full(0);
    assert_true(state_reserve(opened, 1000));
    state_unreserve(opened, 50001000);
    assert_int_equal(stat(scratch_path("state/reserve"), &stat_of), 0);
    assert_true(stat_of.st_size < 50000000);
}

static off_t size_of(const char *name)
{
    struct stat stat_of;
    assert_int_equal(stat(scratch_path(name), &stat_of), 0);
    return stat_of.st_size;
}

/* What a large group makes of the write-ahead log is given back. */
static void test_log_size(void **unused)
{
    (void)unused;
    enum { SIZE = 24 << 20 };
    struct text text = {0};
    open_state();
    assert_true(text_reserve(&text, SIZE));
    memset(text.data, 'x', SIZE);
    text.size = SIZE;
    struct blob *blob = blob_from_text(&text);
    assert_non_null(blob);
    state_put_directory(opened, 1, 1, "a");
    assert_int_equal(state_wait(opened, state_end_job(opened, 1, 1, 3, 5, blob)), 0);
    blob_unref(blob);
    assert_true(size_of("state/state.db-wal") > SIZE);
    for (uint64_t i = 2; i < 5; i++)
        assert_int_equal(state_wait(opened, state_put_job_numbers(opened, 1, i)), 0);
    assert_true(size_of("state/state.db-wal") <= 16 << 20);
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

/* aside_path finds state/damaged-<time>/<name>; NULL: nothing was set aside. */
static const char *aside_path(const char *name)
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

/* The log of groups: what is durable there is in no table yet. */

/* put_jobs asks for one job of each VM from `first` on. */
static void put_jobs(struct state *state, unsigned first, unsigned count)
{
    struct state_batch batch = {0};
    for (unsigned vm = first; vm < first + count; vm++) {
        struct state_job job = {.vm = vm,
                                .number = 1,
                                .tag = "t",
                                .pool = "A",
                                .line = "NOP\n",
                                .priority = 1,
                                .state = 1,
                                .entry = vm};
        state_batch_add(&batch, &job);
    }
    state_put_batch(state, &batch);
}

static void count_job(void *context, const struct state_job *job)
{
    assert_int_equal(job->entry, job->vm);
    assert_string_equal(job->line, "NOP\n");
    ++*(unsigned *)context;
}

static void assert_job_count(unsigned expected)
{
    unsigned count = 0;
    assert_int_equal(state_load_jobs(opened, 0, count_job, &count), 0);
    assert_int_equal(count, expected);
}

/* log_child writes two groups and is killed as soon as they are durable. */
static void log_child(void)
{
    struct text error = {0}, bytes = {0};
    struct state *state = state_open(scratch_path("state"), &error);
    if (!state)
        _exit(2);
    put_jobs(state, 1, 6);
    state_start_job(state, 3, 1);
    if (state_wait(state, state_now(state)) != 0)
        _exit(3);
    text_append(&bytes, "status=done\n\0\xff", 14);
    struct blob *blob = blob_from_text(&bytes);
    state_end_job(state, 3, 1, 3, UINT64_C(1) << 62, blob);
    state_start_job(state, 5, 1);
    state_move_job(state, 6, 1, 0);
    state_cancel_job(state, 5, 1, NULL);
    state_delete_job(state, 4, 1, 0);
    state_put_job_numbers(state, 6, UINT64_C(1) << 39);
    _exit(state_wait(state, state_now(state)));
}

static void test_log_killed(void **unused)
{
    (void)unused;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        log_child();
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (int round = 0; round < 2; round++) { /* once only: an attempt is counted, not noted */
        open_state();
        assert_jobs(3, "vm3 1 t A NOP\n p1 s3 n1 e3 r0 q0 k4611686018427387904\n");
        assert_jobs(4, "");
        assert_jobs(5, "vm5 1 t A NOP\n p1 s2 n1 e5 r0 q0 k0\n");
        assert_jobs(6, "vm6 1 t A NOP\n p0 s1 n0 e6 r0 q0 k0\n");
        assert_vms("vm6 549755813888 1 -\n");
        struct blob *blob = state_load_result(opened, 3, 1);
        assert_non_null(blob);
        assert_int_equal(blob->size, 14);
        assert_memory_equal(blob->data, "status=done\n\0\xff", 14);
        blob_unref(blob);
        close_state();
    }
}

/* What is durable is seen, wherever it is; the newest that the log says of a result counts. */
static void test_log_is_read(void **unused)
{
    (void)unused;
    open_state();
    put_jobs(opened, 1, 8);
    put_result(2, 1, 100, 'a');
    put_result(3, 1, 100, 'b');
    state_delete_job(opened, 3, 1, 100);
    put_result(2, 1, 200, 'c');
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_result(2, 1, 200, 'c');
    assert_null(state_load_result(opened, 3, 1));
    assert_job_count(7);
    assert_result(2, 1, 200, 'c');
}

/* The log takes so much only, and what no log takes comes behind what is in it. */
static void test_log_is_full(void **unused)
{
    (void)unused;
    enum { ROUNDS = 8, COUNT = 1500 };
    open_state();
    for (unsigned round = 0; round < ROUNDS; round++) {
        put_jobs(opened, 1 + round * COUNT, COUNT);
        assert_int_equal(state_wait(opened, state_now(opened)), 0);
    }
    put_jobs(opened, 1 + ROUNDS * COUNT, 8);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    put_jobs(opened, 2 + (ROUNDS + 1) * COUNT, 4 * COUNT); /* more than it takes at once */
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_int_equal(number_of("SELECT count(*) FROM log"), 0);
    put_result(1, 1, 300000, 'x');
    state_delete_job(opened, 1 + ROUNDS * COUNT, 1, 0);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    assert_result(1, 1, 300000, 'x');
    reopen();
    assert_job_count((ROUNDS + 4) * COUNT + 7);
    assert_result(1, 1, 300000, 'x');
}

/* A disk that refuses takes nothing of what is durable, and gets the rest later. */
static void test_log_refused(void **unused)
{
    (void)unused;
    open_state();
    put_jobs(opened, 1, 8);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    put_jobs(opened, 9, 8);
    assert_int_not_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(0);
    reopen();
    assert_job_count(16);
}

/* Bytes that vgpufs did not write there, and changes that no table takes, are damage. */
static void test_log_damaged(void **unused)
{
    (void)unused;
    static const char *const rows[] = {
        "x'ff'",
        "x'ffffffffffffffffffffff'",
        "x'63010000000101'",                                   /* no such operation */
        "x'0e00000000'",                                       /* nothing of what it needs */
        "x'0e01000000'",                                       /* no value */
        "x'0e0100010001'",                                     /* no byte of the one that it says */
        "x'0e010000ff01'",                                     /* nor of the result */
        "x'0e1100000001010101010101010101010101010101010101'", /* too many values */
        "x'030100000005'",                                     /* a job without a tag */
        "17",
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char sql[160];
        open_state();
        put_jobs(opened, 1, 1);
        close_state();
        snprintf(sql, sizeof(sql), "INSERT INTO log (changes) VALUES (%s)", rows[i]);
        run_sql(sql);
        open_state();
        if (!aside_path("state.db"))
            fail_msg("%s was taken", rows[i]);
        assert_job_count(0);
        close_state();
        scratch_remove();
        scratch_make();
    }
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

/* damage_table fills the first page of a table, whose rows are many, with bytes of no meaning. */
static void damage_table(const char *name)
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

/* While the disk refuses, waiting fails; later all of it is written, in order. */
static void test_disk_refuses(void **unused)
{
    (void)unused;
    struct state *state = open_state();
    assert_int_equal(mkdirat(state_data_dir(state), "1", 0700), 0);
    close(openat(state_data_dir(state), "1/7", O_CREAT | O_WRONLY, 0600));
    state_put_file(state, 1, 7, "old");
    assert_int_equal(state_wait(state, state_now(state)), 0);

    scratch_disk_full(1);
    state_put_file(state, 1, 8, "new");
    state_put_file(state, 1, 8, "old");
    state_ticket last = state_remove_bytes(state, 1, 7);
    int error = state_wait(state, last);
    assert_true(error == ENOSPC || error == EIO);
    usleep(1500000); /* for the next attempt, which has all of them */
    state_put_job_numbers(state, 1, 10);
    last = state_put_job_numbers(state, 1, 11);
    assert_int_not_equal(state_wait(state, last), 0);
    /* The bytes are there as long as the old name may come back. */
    assert_int_equal(faccessat(state_data_dir(state), "1/7", F_OK, 0), 0);

    scratch_disk_full(0);
    for (int tries = 0; state_wait(state, last) != 0; tries++) {
        assert_true(tries < 100);
        usleep(100000);
    }
    assert_int_not_equal(faccessat(state_data_dir(state), "1/7", F_OK, 0), 0);
    reopen();
    assert_vms("vm1 11 1 -\n");
    assert_files(1, "8=old\n");
}

static void put_many(unsigned count)
{
    for (uint64_t i = 1; i <= count; i++)
        state_put_job_numbers(opened, 1, i);
}

/* Only what is not written yet counts, and while the disk refuses that is bounded closely: for each
 * VM by itself, so that none can use up what the others may. */
static void test_behind(void **unused)
{
    (void)unused;
    enum { MANY = 20000 };
    open_state();
    put_many(MANY);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    put_many(1);
    assert_int_not_equal(state_wait(opened, state_now(opened)), 0);
    assert_false(state_is_behind(opened, 1));
    put_many(MANY);
    assert_true(state_is_behind(opened, 1));
    assert_false(state_is_behind(opened, 2));
    scratch_disk_full(0);
    for (int tries = 0; state_wait(opened, state_now(opened)) != 0; tries++) {
        assert_true(tries < 100);
        usleep(100000);
    }
    assert_false(state_is_behind(opened, 1));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they need address space */
/* Without memory for a change the daemon ends: what it would go on to promise would be lost. */
static void test_no_memory(void **unused)
{
    (void)unused;
    enum { MANY = 64 << 20 };
    int status;
    char *identity = malloc(MANY);
    assert_non_null(identity);
    memset(identity, 'x', MANY - 1);
    identity[MANY - 1] = '\0';
    open_state();
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        setrlimit(RLIMIT_AS, &none); /* there is no more than what it has */
        state_put_identity(opened, 1, identity);
        _exit(EXIT_SUCCESS);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    free(identity);
}
#endif

static void check_numbers(void *context, const struct state_vm *vm)
{
    assert_int_equal(vm->next_job, vm->id + 1);
    ++*(unsigned *)context;
}

/* What is asked for while a group fails comes behind that group, and is not forgotten. */
static void test_nothing_lost(void **unused)
{
    (void)unused;
    enum { COUNT = 5000 };
    unsigned count = 0;
    open_state();
    scratch_disk_full(1);
    for (unsigned vm = 1; vm <= COUNT; vm++) {
        state_put_job_numbers(opened, vm, 1);
        state_put_job_numbers(opened, vm, vm + 1);
    }
    scratch_disk_full(0);
    reopen();
    state_load_vms(opened, check_numbers, &count);
    assert_int_equal(count, COUNT);
}

/*
 * An attempt that met the full disk may fail after the close was asked for: there is one more.
 * The rounds are for the moment at which that happens.
 */
static void test_close_after_failure(void **unused)
{
    (void)unused;
    enum { ROUNDS = 100, COUNT = 50 };
    for (unsigned round = 1; round <= ROUNDS; round++) {
        unsigned count = 0;
        open_state();
        scratch_disk_full(1);
        for (unsigned vm = 1; vm <= COUNT; vm++)
            state_put_job_numbers(opened, (round - 1) * COUNT + vm, (round - 1) * COUNT + vm + 1);
        scratch_disk_full(0);
        reopen();
        state_load_vms(opened, check_numbers, &count);
        assert_int_equal(count, round * COUNT);
        close_state();
    }
}

/* With a disk that never comes back, closing does not hang, and nothing is written by halves. */
static void test_close_without_disk(void **unused)
{
    (void)unused;
    open_state();
    state_put_job_numbers(opened, 1, 5);
    assert_int_equal(state_wait(opened, state_now(opened)), 0);
    scratch_disk_full(1);
    state_put_job_numbers(opened, 1, 6);
    state_put_file(opened, 1, 1, "a");
    close_state();
    scratch_disk_full(0);
    open_state();
    assert_vms("vm1 5 1 -\n");
    assert_files(1, "");
}

/*
 * A daemon whose clock is an hour ahead: it stamps changes. Its successor's clock is right, and its
 * stamps are newer for all that, whether the last stamp is in the log of groups, went into the
 * tables with it, or was made after the last change and written at the end.
 */
enum ending { KILLED, KILLED_READING, CLOSED };

static void ignore_job(void *context, const struct state_job *job)
{
    (void)context;
    (void)job;
}

static void stamp_ahead(int result, uint64_t restored_ns, enum ending ending)
{
    struct text error = {0};
    struct state *state = state_open(scratch_path("state"), &error);
    if (!state)
        _exit(2);
    clock_change_restore(restored_ns);
    clock_change();
    put_jobs(state, 1, 6);
    if (state_wait(state, state_now(state)) != 0)
        _exit(3);
    if (ending == KILLED_READING && state_load_jobs(state, 0, ignore_job, NULL) != 0)
        _exit(4);
    if (ending == CLOSED)
        clock_change();
    uint64_t last = clock_change_last();
    if (ending == CLOSED)
        state_close(state);
    _exit(write(result, &last, sizeof(last)) == sizeof(last) ? 0 : 5);
}

static void check_stamps(enum ending ending)
{
    int result[2], status;
    uint64_t last = 0, now = clock_change_last();
    struct timespec time = clock_change();
    uint64_t ahead = ((uint64_t)time.tv_sec + 3600) * 1000000000u;
    assert_int_equal(pipe(result), 0);
    assert_true(now < ahead);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        stamp_ahead(result[1], ahead, ending);
    close(result[1]);
    assert_int_equal(read(result[0], &last, sizeof(last)), sizeof(last));
    close(result[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(last > ahead);
    assert_true(clock_change_last() < ahead);

    open_state();
    assert_true(clock_change_last() >= last);
    time = clock_change();
    assert_true((uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec > last);
    close_state();
}

static void test_stamps_over_a_restart(void **unused)
{
    (void)unused;
    check_stamps(CLOSED);
    check_stamps(KILLED);
    check_stamps(KILLED_READING);
}

#define STATE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATE_TEST(test_empty),
        STATE_TEST(test_vms),
        STATE_TEST(test_files),
        STATE_TEST(test_rename_replaces),
        STATE_TEST(test_names),
        STATE_TEST(test_executors),
        STATE_TEST(test_tickets),
        STATE_TEST(test_killed),
        STATE_TEST(test_threads),
        STATE_TEST(test_load_while_writing),
        STATE_TEST(test_second_opener),
        STATE_TEST(test_no_directory),
        STATE_TEST(test_migration),
        STATE_TEST(test_jobs),
        STATE_TEST(test_large_result),
        STATE_TEST(test_written_is_not_durable),
        STATE_TEST(test_log_killed),
        STATE_TEST(test_log_is_read),
        STATE_TEST(test_log_is_full),
        STATE_TEST(test_log_refused),
        STATE_TEST(test_log_damaged),
        STATE_TEST(test_unawaited),
        STATE_TEST(test_room),
        STATE_TEST(test_log_size),
        STATE_TEST(test_newer_version),
        STATE_TEST(test_damaged),
        STATE_TEST(test_missing_table),
        STATE_TEST(test_damaged_table),
        STATE_TEST(test_disk_refuses),
        STATE_TEST(test_behind),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        STATE_TEST(test_no_memory),
#endif
        STATE_TEST(test_nothing_lost),
        STATE_TEST(test_close_after_failure),
        STATE_TEST(test_close_without_disk),
        STATE_TEST(test_stamps_over_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
