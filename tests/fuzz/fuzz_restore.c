/*
 * restore: VMs with the jobs that a state.db had, however little sense its rows make. Each job that
 * comes back is whole: it has its number and its tag for itself, can be read, cancelled and
 * removed, and new ones get other numbers. A second daemon on the same file has the same ones.
 *
 * The input is cut into rows (struct row_reader); what could not be a value of the column at all is
 * the target journal's.
 */
#include "folder.h"
#include "fuzz.h"
#include "job.h"
#include "vm.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VMS 3

static const char *folder;
static struct config *config, *config_fail;

/* A state without rows. */
static char empty[1 << 18];
static size_t empty_size;

static const char *database_path(void)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/state.db", folder);
    return path;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    folder = folder_make();
    config = daemon_config("vms = 1-3\ndurability = none\n[vm 2]\nmax_jobs = 3\nmax_queued = 2\n");
    config_fail = daemon_config("vms = 1-3\ndurability = none\non_restart = fail\n"
                                "[pool C]\n[vm 1]\npool = C\npriority = 0\n");
    struct server server;
    daemon_begin(&server, config); /* this makes the tables */
    daemon_end(&server);
    FILE *file = fopen(database_path(), "rbe");
    CHECK(file);
    empty_size = fread(empty, 1, sizeof(empty), file);
    CHECK(empty_size && empty_size < sizeof(empty));
    fclose(file);
    return 0;
}

/* Rows from the input. */

struct row_reader {
    const uint8_t *bytes;
    size_t size;
    char text[4][256];
    unsigned texts;
};

static unsigned next_byte(struct row_reader *reader)
{
    if (!reader->size)
        return 0;
    reader->size--;
    return *reader->bytes++;
}

static uint64_t next_number(struct row_reader *reader)
{
    static const uint64_t bounds[] = {INT64_MAX,
                                      UINT32_MAX,
                                      (UINT64_C(1) << 40) - 1,
                                      UINT64_C(1) << 40,
                                      INT32_MAX,
                                      (uint64_t)INT64_MIN,
                                      65536,
                                      UINT64_MAX};
    unsigned byte = next_byte(reader);
    return byte < 240 ? byte : bounds[byte % 8];
}

/* next_text returns one of the words, NULL, or bytes of the input. */
static const char *next_text(struct row_reader *reader, const char *const words[], size_t count)
{
    unsigned choice = next_byte(reader);
    if (choice < 128)
        return words[choice % count];
    if (choice == 255)
        return NULL;
    char *text = reader->text[reader->texts++ % 4];
    size_t size = (choice - 128) % 100, used = 0;
    while (used < size && reader->size)
        text[used++] = (char)next_byte(reader);
    text[used] = '\0';
    return text;
}

#define WORDS(...)                                                                                 \
    (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)

struct row {
    sqlite3_stmt *statement;
    int place;
};

static void put_number(struct row *row, uint64_t number)
{
    sqlite3_bind_int64(row->statement, ++row->place, (sqlite3_int64)number);
}

static void put_text(struct row *row, const char *text)
{
    row->place++;
    if (text)
        sqlite3_bind_blob(row->statement, row->place, text, (int)strlen(text), SQLITE_TRANSIENT);
}

static struct row row_begin(sqlite3 *database, const char *sql)
{
    struct row row = {0};
    if (sqlite3_prepare_v2(database, sql, -1, &row.statement, NULL) != SQLITE_OK)
        fuzz_failed(__FILE__, __LINE__, sqlite3_errmsg(database));
    return row;
}

static void row_end(struct row *row)
{
    sqlite3_step(row->statement); /* a constraint may refuse it */
    sqlite3_finalize(row->statement);
}

static void job_write(sqlite3 *database, struct row_reader *reader)
{
    struct row row = row_begin(
        database,
        "INSERT OR REPLACE INTO job (id, tag, pool, line, priority, state, legacy,"
        " sequence, entry, queued_us, attempts, read, hidden, kept_us, result_size, result,"
        " cancel) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)");
    uint64_t number = next_number(reader);
    char own[24];
    snprintf(own, sizeof(own), "%" PRIu64, number);
    put_number(&row, (uint64_t)(next_byte(reader) % (VMS + 2)) << 40 | number);
    put_text(&row, next_text(reader, WORDS(own, "a", "b", "fft-1", "all", "12", "", "a/b", "..")));
    put_text(&row, next_text(reader, WORDS("A", "B", "C", "Z", "")));
    put_text(&row, next_text(reader, WORDS("NOP\n", "SLEEP ms=1 tag=a", "A:2:1:NOP", "BOGUS", "\n",
                                           "NOP deadline=1", "NOP timeout=9999999")));
    put_number(&row, next_number(reader)); /* priority */
    put_number(&row, next_byte(reader) % 9);
    unsigned flags = next_byte(reader);
    put_number(&row, flags & 1);
    put_number(&row, next_number(reader)); /* sequence */
    put_number(&row, next_number(reader)); /* entry */
    put_number(&row, next_number(reader)); /* queued_us */
    put_number(&row, next_number(reader)); /* attempts */
    put_number(&row, flags >> 1 & 1);
    put_number(&row, flags >> 2 & 1 && flags >> 3 & 1);
    put_number(&row, next_number(reader)); /* kept_us */
    const char *result = next_text(
        reader, WORDS("status=done job=1 tag=1 bytes=3\nok\n", "status=failed error=\"",
                      "status=failed job=2 tag=2 error=\"why\"\n", "status=done", "\n", ""));
    put_number(&row, flags & 128 ? next_number(reader) : result ? strlen(result) : 0);
    put_text(&row, result);
    put_text(&row, flags >> 4 & 1 ? next_text(reader, WORDS("", "cancelled by the VM")) : NULL);
    row_end(&row);
}

static void vm_write(sqlite3 *database, struct row_reader *reader)
{
    struct row row =
        row_begin(database, "INSERT OR REPLACE INTO vm (id, next_job, next_file, identity, held,"
                            " entry, rejection, request_entry, request_error)"
                            " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)");
    put_number(&row, next_byte(reader) % (VMS + 2));
    put_number(&row, next_number(reader));
    put_number(&row, next_number(reader));
    put_text(&row, next_text(reader, WORDS("A:1:1", "B:2:2", "C:0:3", "garbage", "")));
    put_number(&row, next_byte(reader) & 1);
    put_number(&row, next_number(reader));
    put_text(&row, next_text(reader, WORDS("status=rejected error=\"x\"\n", "", "\n")));
    put_number(&row, next_number(reader));
    put_text(&row, next_text(reader, WORDS("unknown command", "\x01\xff", "")));
    row_end(&row);
}

static void file_write(sqlite3 *database, struct row_reader *reader)
{
    struct row row =
        row_begin(database, "INSERT OR REPLACE INTO file (vm, number, name) VALUES (?1,?2,?3)");
    put_number(&row, next_byte(reader) % (VMS + 2));
    put_number(&row, next_number(reader));
    put_text(&row, next_text(reader, WORDS("x", "y", "..", "a/b", "")));
    row_end(&row);
}

static int note_twins(void *twins, int columns, char **values, char **names)
{
    (void)names;
    *(bool *)twins = columns == 1 && values[0] && strcmp(values[0], "0") != 0;
    return 0;
}

/* has_twins: do two jobs have one tag? Only one of them comes back, as it happens. */
static bool has_twins(sqlite3 *database)
{
    bool twins = false;
    sqlite3_exec(database, "SELECT count(*) - count(DISTINCT (id >> 40) || hex(tag)) FROM job",
                 note_twins, &twins, NULL);
    return twins;
}

/* rows_write returns false if it depends on chance which jobs come back. */
static bool rows_write(struct row_reader *reader)
{
    static void (*const writers[])(sqlite3 * database, struct row_reader * reader) = {
        job_write, job_write, job_write, vm_write, file_write};
    sqlite3 *database;
    FILE *file = fopen(database_path(), "wbe");
    CHECK(file && fwrite(empty, 1, empty_size, file) == empty_size && fclose(file) == 0);
    CHECK(sqlite3_open(database_path(), &database) == SQLITE_OK);
    sqlite3_exec(database, "PRAGMA synchronous = OFF; BEGIN", NULL, NULL, NULL);
    while (reader->size)
        writers[next_byte(reader) % (sizeof(writers) / sizeof(writers[0]))](database, reader);
    CHECK(sqlite3_exec(database, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    bool certain = !has_twins(database);
    sqlite3_close(database);
    return certain;
}

/* What came back. */

/* has_bytes: can the result be read? */
static struct blob *result_of(struct vm *vm, struct job *job)
{
    struct job *pending;
    pthread_mutex_lock(&vm->lock);
    struct blob *result = vm_result_now(vm, job, &pending);
    pthread_mutex_unlock(&vm->lock);
    CHECK(!result || !pending);
    job_unref(pending);
    return result;
}

/* job_tell checks a job, and appends what is to be the same the next time. */
static void job_tell(struct vm *vm, struct job *job, struct text *told)
{
    struct text status = {0};
    struct job *found = vm_find_tag(vm, job_tag(job));
    CHECK(found == job);
    job_unref(found);
    found = vm_find_number(vm, job->number);
    CHECK(found == job && job->number > 0 && job->number < vm->next_job);
    job_unref(found);
    CHECK(command_tag_is_valid(job_tag(job)) || strtoull(job_tag(job), NULL, 10) == job->number);
    CHECK((job_state(job) == JOB_NEW) == !job->line);
    CHECK(job_state(job) != JOB_RUNNING && (job_state(job) != JOB_QUEUED || job->pool));
    CHECK((job->end && job->end->listed) == job_has_ended(job));
    vm_render_job_status(job, &status);
    CHECK(status.size && memchr(status.data, '\n', status.size) == status.data + status.size - 1);
    struct blob *result = result_of(vm, job);
    text_printf(told, "%u %" PRIu64 " %s %d %s", vm->id, job->number, job_tag(job), job_state(job),
                job->line ? job->line : "-");
    if (result)
        text_append(told, result->data, result->size);
    text_puts(told, "\n");
    blob_unref(result);
    text_finish(&status);
}

static void renders(void (*render)(struct vm *vm, struct text *text), struct vm *vm)
{
    struct text text = {0};
    render(vm, &text);
    CHECK(!text.failed && text.size && text.data[text.size - 1] == '\n');
    text_finish(&text);
}

static int by_number(const void *a, const void *b)
{
    const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* vm_tell tells of all jobs, by number. */
static void vm_tell(struct vm *vm, struct text *told)
{
    static struct job *jobs[4096];
    size_t count = 0, ended = 0, queued = 0;
    for (struct table_entry *entry = NULL; (entry = table_next(&vm->jobs_by_number, entry));) {
        struct job *job = container_of(entry, struct job, by_number);
        CHECK(count < sizeof(jobs) / sizeof(jobs[0]));
        jobs[count++] = job;
        ended += job_has_ended(job);
        queued += job_state(job) == JOB_QUEUED;
    }
    CHECK(vm->ended.count + vm->ended_read.count == ended);
    CHECK(atomic_load(&vm->queued) == queued && atomic_load(&vm->running) == 0);
    qsort(jobs, count, sizeof(jobs[0]), by_number);
    for (size_t i = 0; i < count; i++)
        job_tell(vm, jobs[i], told);
    renders(vm_render_status, vm);
    renders(vm_render_identity, vm);
    renders(vm_render_response, vm);
    blob_unref(result_of(vm, NULL));
    CHECK(!vm->newest.job || vm->newest.job->forgotten || !vm->newest.rejection);
}

/* One daemon. */

static void tell(struct server *server, struct text *told)
{
    state_settle(server->state);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        vm_tell(vm, told);
}

/* use_vm: it takes a job more, cancels it and the others, and removes all. */
static void use_vm(struct vm *vm)
{
    struct line line = {.bytes = "NOP", .size = 3, .newline = true};
    uint64_t number = vm->next_job;
    if (vm_submit(vm, VIA_SUBMIT, NULL, &line, 1) == 0)
        CHECK(vm->newest.job && vm->newest.job->number == number);
    CHECK(vm_cancel(vm, "all", "cancelled by the VM") == 0);
    CHECK(atomic_load(&vm->queued) == 0);
    vm_purge(vm);
    CHECK(vm->jobs_by_number.count == 0 && vm->jobs_by_tag.count == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server server;
    struct text first = {0}, second = {0};
    if (size < 2)
        return 0;
    const struct config *chosen = data[0] & 1 ? config_fail : config;
    struct row_reader reader = {.bytes = data + 1, .size = size - 1};
    folder_clear();
    bool certain = rows_write(&reader);
    daemon_begin(&server, chosen);
    tell(&server, &first);
    daemon_end(&server);
    daemon_begin(&server, chosen);
    tell(&server, &second);
    CHECK(!first.failed && !second.failed);
    if (certain && (first.size != second.size ||
                    (first.size && memcmp(first.data, second.data, first.size)))) {
        fprintf(stderr, "%s--- and then:\n%s", first.data ? first.data : "",
                second.data ? second.data : "");
        fuzz_failed(__FILE__, __LINE__, "a second daemon has the same");
    }
    for (struct vm *vm = atomic_load(&server.vms); vm; vm = atomic_load(&vm->next))
        use_vm(vm);
    daemon_end(&server);
    text_finish(&first);
    text_finish(&second);
    return 0;
}
