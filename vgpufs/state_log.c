/*
 * The log of groups. A job's row lies among its VM's, so what 64 VMs submit at once changes 64
 * pages, and a sync had 256 KiB to write for 4 KiB of news. A group of jobs' changes is therefore
 * written as one row, behind those before it; the tables get many groups' changes at once, later,
 * and the log is emptied in that same transaction: after a crash each change is in one of the two.
 */
#include "state_internal.h"

#include "common/log.h"
#include "kill_point.h"

#include <errno.h>

/* A group of fewer changes goes into the tables at once, if nothing is in front of it. */
#define LEAST_LOGGED 4
/* What may be in the log: the reserve covers it, and a start has to read it. */
#define MOST_LOGGED       4096
#define MOST_LOGGED_BYTES (UINT64_C(1) << 20)
/* Of one change. */
#define MOST_VALUES 16

/* Numbers are written seven bits at a time, the lowest first; the top bit says that more come. */
static void number_pack(struct text *to, uint64_t number)
{
    unsigned char bytes[10];
    size_t size = 0;
    for (; number > 0x7f; number >>= 7)
        bytes[size++] = (unsigned char)(number | 0x80);
    bytes[size++] = (unsigned char)number;
    text_append(to, bytes, size);
}

static void change_pack(struct text *to, const struct change *change)
{
    const char *bytes = (const char *)(change->numbers + change->count);
    uint64_t size = 0;
    number_pack(to, operation_code((enum operation)change->operation));
    number_pack(to, change->count);
    number_pack(to, change->nulls);
    number_pack(to, change->texts);
    number_pack(to, change->blob ? change->blob->size + 1 : 0);
    for (unsigned i = 0; i < change->count; i++) {
        number_pack(to, change->numbers[i]);
        size += change->texts >> i & 1 ? change->numbers[i] : 0;
    }
    text_append(to, bytes, size);
    if (change->blob)
        text_append(to, change->blob->data, change->blob->size);
}

/* What is left to unpack; `damaged`: it ended too early, or means nothing. */
struct packed {
    const unsigned char *bytes;
    size_t size;
    bool damaged;
};

static uint64_t number_unpack(struct packed *packed)
{
    uint64_t number = 0;
    for (unsigned shift = 0; shift < 64 && packed->size; shift += 7) {
        unsigned char byte = *packed->bytes++;
        packed->size--;
        number |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return number;
    }
    packed->damaged = true;
    return 0;
}

static const char *bytes_unpack(struct packed *packed, uint64_t size)
{
    const char *bytes = (const char *)packed->bytes;
    packed->damaged |= size > packed->size;
    if (packed->damaged)
        return NULL;
    packed->bytes += size;
    packed->size -= size;
    return bytes;
}

/* change_unpack: NULL if it is damaged, or there is no memory. */
static struct change *change_unpack(struct packed *packed)
{
    struct value values[MOST_VALUES];
    enum operation operation = operation_of_code(number_unpack(packed));
    uint64_t count = number_unpack(packed), nulls = number_unpack(packed),
             texts = number_unpack(packed), blob_size = number_unpack(packed);
    packed->damaged |=
        operation == OPERATION_COUNT || !count || count > MOST_VALUES || nulls & texts;
    for (unsigned i = 0; i < count && !packed->damaged; i++)
        values[i] = (struct value){nulls >> i & 1   ? VALUE_NULL
                                   : texts >> i & 1 ? VALUE_BYTES
                                                    : VALUE_NUMBER,
                                   number_unpack(packed), NULL};
    for (unsigned i = 0; i < count && !packed->damaged; i++)
        if (values[i].kind == VALUE_BYTES)
            values[i].bytes = bytes_unpack(packed, values[i].number);
    const char *bytes = blob_size && !packed->damaged ? bytes_unpack(packed, blob_size - 1) : NULL;
    if (packed->damaged)
        return NULL;
    struct text text = {0};
    struct blob *blob = NULL;
    if (bytes) {
        text_append(&text, bytes, blob_size - 1);
        blob = blob_from_text(&text);
        text_finish(&text);
        if (!blob)
            return NULL;
    }
    struct change *change = change_make(operation, values, (unsigned)count, blob);
    blob_unref(blob);
    return change;
}

bool log_takes(const struct state *state, const struct change *first)
{
    size_t count = 0;
    uint64_t bytes = 0;
    for (const struct change *change = first; change; change = change->next, count++) {
        if (change->operation == REMOVE_BYTES || !operation_code((enum operation)change->operation))
            return false;
        bytes += change->bytes;
    }
    return count >= (state->log_first ? 1 : LEAST_LOGGED) &&
           state->log_count + count <= MOST_LOGGED && state->log_bytes + bytes <= MOST_LOGGED_BYTES;
}

int log_write(struct state *state, const struct change *stamp, const struct change *first)
{
    struct text *packed = &state->log_packed;
    text_clear(packed);
    change_pack(packed, stamp);
    for (; first; first = first->next)
        change_pack(packed, first);
    if (packed->failed) {
        text_finish(packed);
        return ENOSPC;
    }
    sqlite3_bind_blob(state->put_log, 1, packed->data, (int)packed->size, SQLITE_STATIC);
    return statement_run(state->put_log);
}

void log_keep(struct state *state, struct change *first)
{
    pthread_mutex_lock(&state->lock);
    struct change **last = state->log_first ? &state->log_last->next : &state->log_first;
    for (*last = first; first; first = first->next) {
        state->log_last = first;
        state->log_count++;
        state->log_bytes += first->bytes;
    }
    pthread_mutex_unlock(&state->lock);
}

int log_apply(struct state *state)
{
    if (!state->log_first)
        return 0;
    for (const struct change *change = state->log_first; change; change = change->next)
        if (change_apply(state, change) < 0)
            return -1;
    return statement_run(state->clear_log);
}

void log_forget(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    struct change *first = state->log_first;
    state->log_first = state->log_last = NULL;
    state->log_count = 0;
    state->log_bytes = 0;
    pthread_mutex_unlock(&state->lock);
    changes_free(first);
}

/* settle_once: 0, SQLite's error, which is logged, or -1: there is more room now. */
static int settle_once(struct state *state)
{
    /* The groups' own stamps go with the log; at a start they are what is applied last. */
    struct change *stamp = change_stamp();
    bool applied = statement_run(state->begin) == 0 && change_apply(state, stamp) == 0 &&
                   log_apply(state) == 0;
    changes_free(stamp);
    if (applied) {
        KILL_POINT("log-applied");
        if (statement_run(state->commit) == 0)
            return 0;
    }
    int result = sqlite3_errcode(state->database), error = database_errno(state->database);
    bool more = error == ENOSPC && reserve_release(&state->reserve);
    if (!more)
        log_error("state: cannot write what was accepted: %s", sqlite3_errmsg(state->database));
    state->log_in_doubt |= error == EIO;
    sqlite3_exec(state->database, "ROLLBACK", NULL, NULL, NULL);
    return more ? -1 : result;
}

int log_settle(struct state *state)
{
    int result;
    if (!state->log_first)
        return 0;
    while ((result = settle_once(state)) < 0)
        ;
    if (result)
        return result;
    state->unsynced = !state->syncing;
    log_forget(state);
    reserve_refill(&state->reserve);
    return 0;
}

struct blob *log_find_result(struct state *state, uint64_t job, bool *found)
{
    struct blob *blob = NULL;
    pthread_mutex_lock(&state->lock);
    for (const struct change *change = state->log_first; change; change = change->next) {
        enum operation operation = (enum operation)change->operation;
        if ((operation != PUT_JOB && operation != END_JOB && operation != DELETE_JOB) ||
            change->numbers[0] != job || (operation == END_JOB && !change->blob))
            continue;
        *found = true; /* the last one counts: the others take the result away */
        blob = operation == END_JOB ? change->blob : NULL;
    }
    blob = blob ? blob_ref(blob) : NULL;
    pthread_mutex_unlock(&state->lock);
    return blob;
}

/* A start's reading of the log. */
struct log_reader {
    struct state *state;
    bool failed;
};

static void log_row(sqlite3_stmt *statement, void *context)
{
    struct log_reader *reader = context;
    struct packed packed = {.bytes = sqlite3_column_blob(statement, 0),
                            .size = (size_t)sqlite3_column_bytes(statement, 0)};
    while (packed.size && !reader->failed) {
        struct change *change = change_unpack(&packed);
        reader->failed = !change;
        log_keep(reader->state, change);
    }
}

int log_open(struct state *state)
{
    struct log_reader reader = {.state = state};
    if (rows_read(state, "SELECT changes FROM log ORDER BY number", 0, 0, log_row, &reader) < 0)
        return sqlite3_errcode(state->database);
    return reader.failed ? SQLITE_CORRUPT : log_settle(state);
}
