#include "view.h"

#include "common/number.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#define TABLE_MAX_COLUMNS  16
#define COLUMN_GAP         2
#define FLEXIBLE_MIN_WIDTH 10

struct column;

/* What a cell is made from: the record, the same record in the snapshot before, and the time. */
struct row {
    const struct record *record;
    const struct record *before;
    uint64_t elapsed_us;
};

typedef void cell_function(struct text *out, const struct row *row, const char *key);

struct column {
    const char *heading;
    const char *key;
    cell_function *cell;
    bool left;     /* text, not a number */
    bool flexible; /* is cut when the terminal is narrow */
    int rank;      /* 0 always shown; the highest goes first when the terminal is narrow */
};

/* character_width returns the columns of the character at `bytes` and its length; -1: not
 * printable.
 */
static int character_width(const char *bytes, size_t size, size_t *length, mbstate_t *state)
{
    wchar_t character;
    *length = mbrtowc(&character, bytes, size, state);
    if (*length == 0 || *length > size) {
        *state = (mbstate_t){0};
        *length = 1;
        return -1;
    }
    return iswprint((wint_t)character) ? wcwidth(character) : -1;
}

unsigned view_text(struct text *out, const char *bytes, size_t size, unsigned width)
{
    unsigned columns = 0, kept_columns = 0;
    size_t kept_size = out->size;
    mbstate_t state = {0};
    while (size) {
        size_t length;
        int wide = character_width(bytes, size, &length, &state);
        unsigned more = wide < 0 ? 1 : (unsigned)wide;
        if (more > width - columns) {
            if (!width || out->failed)
                return columns;
            out->size = kept_size;
            text_puts(out, "+");
            return kept_columns + 1;
        }
        text_append(out, wide < 0 ? "?" : bytes, wide < 0 ? 1 : length);
        columns += more;
        if (columns < width) {
            kept_columns = columns;
            kept_size = out->size;
        }
        bytes += length;
        size -= length;
    }
    return columns;
}

static void cell_name(struct text *out, const struct row *row, const char *key)
{
    (void)key;
    const char *name = record_word(row->record, 1);
    text_puts(out, name ? name : "-");
}

static void cell_text(struct text *out, const struct row *row, const char *key)
{
    const struct record_field *field = record_find(row->record, key);
    if (field && field->value_size)
        text_append(out, field->value, field->value_size);
    else
        text_puts(out, "-");
}

static void duration(struct text *out, uint64_t us)
{
    uint64_t s = us / 1000000;
    if (us == 0)
        text_puts(out, "0s");
    else if (us < 1000)
        text_printf(out, "%" PRIu64 "us", us);
    else if (us < 1000000)
        text_printf(out, "%.1fms", (double)us / 1000);
    else if (s < 60)
        text_printf(out, "%.1fs", (double)us / 1000000);
    else if (s < 3600)
        text_printf(out, "%" PRIu64 "m%02us", s / 60, (unsigned)(s % 60));
    else if (s < 86400)
        text_printf(out, "%" PRIu64 "h%02um", s / 3600, (unsigned)(s / 60 % 60));
    else
        text_printf(out, "%" PRIu64 "d%02uh", s / 86400, (unsigned)(s / 3600 % 24));
}

/* duration_field shows a time in units of `unit_us`; what is no number stays as it is. */
static void duration_field(struct text *out, const struct row *row, const char *key,
                           uint64_t unit_us)
{
    uint64_t value;
    const struct record_field *field = record_find(row->record, key);
    if (field && number_parse(field->value, 0, UINT64_MAX / unit_us, &value) == 0)
        duration(out, value * unit_us);
    else
        cell_text(out, row, key);
}

static void cell_us(struct text *out, const struct row *row, const char *key)
{
    duration_field(out, row, key, 1);
}

static void cell_ms(struct text *out, const struct row *row, const char *key)
{
    duration_field(out, row, key, 1000);
}

static void cell_bytes(struct text *out, const struct row *row, const char *key)
{
    static const char units[] = "BKMGTPE";
    uint64_t bytes = record_count(row->record, key);
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1023.95 && unit < sizeof(units) - 2; unit++)
        value /= 1024;
    if (unit == 0)
        text_printf(out, "%" PRIu64, bytes);
    else
        text_printf(out, "%.1f%c", value, units[unit]);
}

/* cell_busy is the part of the time since the snapshot before that jobs ran on the device. */
static void cell_busy(struct text *out, const struct row *row, const char *key)
{
    uint64_t now = record_count(row->record, key);
    uint64_t before = row->before ? record_count(row->before, key) : UINT64_MAX;
    if (now < before || !row->elapsed_us)
        text_puts(out, "-");
    else
        text_printf(out, "%.0f%%", 100.0 * (double)(now - before) / (double)row->elapsed_us);
}

static const struct column pool_columns[] = {
    {"POOL", NULL, cell_name, true, false, 0},
    {"STATE", "state", cell_text, true, false, 0},
    {"ORDER", "order", cell_text, true, false, 8},
    {"QUEUED", "queued", cell_text, false, false, 0},
    {"HIGH", "queued_high", cell_text, false, false, 4},
    {"MEDIUM", "queued_medium", cell_text, false, false, 4},
    {"LOW", "queued_low", cell_text, false, false, 4},
    {"RUNNING", "running", cell_text, false, false, 0},
    {"OLDEST", "oldest_wait_ms", cell_ms, false, false, 5},
    {"DONE", "done", cell_text, false, false, 1},
    {"FAILED", "failed", cell_text, false, false, 2},
    {"WAIT-P50", "wait_us_p50", cell_us, false, false, 7},
    {"WAIT-P99", "wait_us_p99", cell_us, false, false, 3},
    {"RUN-P50", "run_us_p50", cell_us, false, false, 7},
    {"RUN-P99", "run_us_p99", cell_us, false, false, 3},
    {"BUSY", "device_us", cell_busy, false, false, 6},
};

static const struct column slot_columns[] = {
    {"SLOT", NULL, cell_name, true, false, 0},
    {"STATE", "state", cell_text, true, false, 0},
    {"BACKEND", "backend", cell_text, true, false, 1},
    {"DEVICE", "device", cell_text, true, true, 0},
    {"HOST", "host", cell_text, true, false, 3},
    {"PID", "pid", cell_text, false, false, 2},
};

static const struct column vm_columns[] = {
    {"VM", NULL, cell_name, true, false, 0},
    {"POOL", "pool", cell_text, true, false, 0},
    {"PRIO", "priority", cell_text, false, false, 0},
    {"QUEUED", "queued", cell_text, false, false, 0},
    {"RUNNING", "running", cell_text, false, false, 0},
    {"DONE", "done", cell_text, false, false, 1},
    {"FAILED", "failed", cell_text, false, false, 1},
    {"CANCELLED", "cancelled", cell_text, false, false, 5},
    {"TIMEOUT", "timeout", cell_text, false, false, 5},
    {"CRASHES", "crashes", cell_text, false, false, 6},
    {"DEVICE-TIME", "device_us", cell_us, false, false, 2},
    {"BUSY", "device_us", cell_busy, false, false, 3},
    {"DATA", "data_bytes", cell_bytes, false, false, 4},
    {"HELD", "held", cell_text, true, false, 3},
};

static bool always(const struct record *record)
{
    (void)record;
    return true;
}

/* vm_is_active: has the VM jobs, has it ever done anything, or is it held? */
static bool vm_is_active(const struct record *record)
{
    static const char *const counters[] = {"queued",  "running",           "done",
                                           "failed",  "cancelled",         "timeout",
                                           "crashes", "identity_rejected", "data_bytes"};
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        if (record_count(record, counters[i]))
            return true;
    const struct record_field *held = record_find(record, "held");
    return held && strcmp(held->value, "yes") == 0;
}

struct table {
    const char *kind;
    const struct column *columns;
    size_t column_count;
    bool (*wanted)(const struct record *record);
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
static const struct table tables[] = {
    {"pool", pool_columns, COUNT(pool_columns), always},
    {"slot", slot_columns, COUNT(slot_columns), always},
    {"vm", vm_columns, COUNT(vm_columns), vm_is_active},
};
_Static_assert(COUNT(pool_columns) <= TABLE_MAX_COLUMNS &&
                   COUNT(slot_columns) <= TABLE_MAX_COLUMNS &&
                   COUNT(vm_columns) <= TABLE_MAX_COLUMNS,
               "a table has too many columns");

/* cell_render makes the cell safe to print; returns its columns. */
static unsigned cell_render(struct text *out, const struct column *column, const struct row *row,
                            unsigned width)
{
    struct text raw = {0};
    column->cell(&raw, row, column->key);
    unsigned columns = view_text(out, raw.data ? raw.data : "", raw.size, width);
    text_finish(&raw);
    return columns;
}

static void pad(struct text *out, unsigned columns)
{
    text_printf(out, "%*s", (int)columns, "");
}

static unsigned columns_needed(const struct table *table, const unsigned *widths)
{
    unsigned needed = 0;
    for (size_t i = 0; i < table->column_count; i++) {
        bool cut = table->columns[i].flexible && widths[i] > FLEXIBLE_MIN_WIDTH;
        if (widths[i])
            needed += (cut ? FLEXIBLE_MIN_WIDTH : widths[i]) + COLUMN_GAP;
    }
    return needed ? needed - COLUMN_GAP : 0;
}

/*
 * columns_fit leaves out (width 0) the columns of the highest rank until the rest fits, and gives
 * the flexible ones what is left.
 */
static void columns_fit(const struct table *table, unsigned *widths, unsigned width)
{
    unsigned needed;
    while ((needed = columns_needed(table, widths)) > width) {
        int worst = 0;
        for (size_t i = 0; i < table->column_count; i++)
            if (widths[i] && table->columns[i].rank > worst)
                worst = table->columns[i].rank;
        if (worst == 0)
            break;
        for (size_t i = 0; i < table->column_count; i++)
            if (table->columns[i].rank == worst)
                widths[i] = 0;
    }
    unsigned left = width > needed ? width - needed : 0;
    for (size_t i = 0; i < table->column_count; i++) {
        if (!table->columns[i].flexible || widths[i] <= FLEXIBLE_MIN_WIDTH)
            continue;
        unsigned more = widths[i] - FLEXIBLE_MIN_WIDTH;
        more = more < left ? more : left;
        widths[i] = FLEXIBLE_MIN_WIDTH + more;
        left -= more;
    }
}

static void line_render(struct text *out, const struct table *table, const struct row *row,
                        const unsigned *widths)
{
    unsigned owed = 0; /* blanks are written only before something: no line ends in them */
    for (size_t i = 0; i < table->column_count; i++) {
        const struct column *column = &table->columns[i];
        if (!widths[i])
            continue;
        struct text cell = {0};
        unsigned used = row ? cell_render(&cell, column, row, widths[i])
                            : view_text(&cell, column->heading, strlen(column->heading), widths[i]);
        unsigned blanks = widths[i] - used;
        pad(out, owed + (column->left ? 0 : blanks));
        text_append(out, cell.data ? cell.data : "", cell.size);
        owed = COLUMN_GAP + (column->left ? blanks : 0);
        text_finish(&cell);
    }
    text_puts(out, "\n");
}

/* record_before finds `record`, the one at `index`, in the snapshot before: mostly at its place. */
static const struct record *record_before(const struct snapshot *before, size_t index,
                                          const char *kind, const char *name)
{
    if (index < before->record_count) {
        const struct record *record = &before->records[index];
        const char *first = record_word(record, 0), *second = record_word(record, 1);
        if (first && second && strcmp(first, kind) == 0 && strcmp(second, name) == 0)
            return record;
    }
    return snapshot_find(before, kind, name);
}

static void table_render(const struct view *view, const struct table *table, struct text *out)
{
    size_t count = 0, left_out = 0;
    struct row *rows = calloc(view->now->record_count + 1, sizeof(*rows));
    if (!rows) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < view->now->record_count; i++) {
        const struct record *record = &view->now->records[i];
        const char *kind = record_word(record, 0), *name = record_word(record, 1);
        if (!kind || !name || strcmp(kind, table->kind) != 0)
            continue;
        if (!table->wanted(record)) {
            left_out++;
            continue;
        }
        rows[count].record = record;
        if (view->before) {
            rows[count].before = record_before(view->before, i, kind, name);
            rows[count].elapsed_us = view->now->taken_us - view->before->taken_us;
        }
        count++;
    }

    unsigned widths[TABLE_MAX_COLUMNS] = {0};
    struct text scratch = {0};
    for (size_t i = 0; i < table->column_count; i++) {
        if (table->columns[i].cell == cell_busy && !view->before)
            continue;
        widths[i] = (unsigned)strlen(table->columns[i].heading);
        for (size_t j = 0; j < count; j++) {
            text_clear(&scratch);
            unsigned used = cell_render(&scratch, &table->columns[i], &rows[j], INT_MAX);
            if (used > widths[i])
                widths[i] = used;
        }
    }
    text_finish(&scratch);
    if (view->width)
        columns_fit(table, widths, view->width);

    text_puts(out, "\n");
    line_render(out, table, NULL, widths);
    for (size_t j = 0; j < count; j++)
        line_render(out, table, &rows[j], widths);
    if (left_out)
        text_printf(out, "(%zu %s%s without any job or data)\n", left_out, table->kind,
                    left_out == 1 ? "" : "s");
    free(rows);
}

static void state_render(const struct view *view, struct text *out)
{
    const struct record *record = snapshot_find(view->now, "vgpufs", NULL);
    if (!record)
        return;
    struct row row = {.record = record};
    struct text line = {0};
    text_puts(&line, "vgpufs ");
    cell_text(&line, &row, "state");
    text_puts(&line, " for ");
    uint64_t uptime_s = record_count(record, "uptime_s");
    duration(&line, uptime_s > UINT64_MAX / 1000000 ? UINT64_MAX : uptime_s * 1000000);
    static const char *const counters[] = {"submitted", "done", "failed"};
    for (size_t i = 0; i < COUNT(counters); i++)
        text_printf(&line, "%s %" PRIu64 " %s", i ? "," : ";", record_count(record, counters[i]),
                    counters[i]);
    view_text(out, line.data ? line.data : "", line.size, view->width ? view->width : INT_MAX);
    text_puts(out, "\n");
    text_finish(&line);
}

void view_render(const struct view *view, struct text *out)
{
    state_render(view, out);
    for (size_t i = 0; i < COUNT(tables); i++)
        table_render(view, &tables[i], out);
}

/* The columns of VIEW_QUEUE_HEADING; the command is the rest of the line. */
static const struct {
    unsigned width;
    bool left;
} queue_columns[] = {{8, true},  {4, false}, {8, true},  {8, false},
                     {16, true}, {8, true},  {10, false}};

void view_queue_line(const char *line, size_t size, struct text *out)
{
    unsigned owed = 0;
    for (size_t i = 0; i < COUNT(queue_columns) && size; i++) {
        const char *blank = memchr(line, ' ', size);
        size_t length = blank ? (size_t)(blank - line) : size;
        struct text word = {0};
        unsigned used = view_text(&word, line, length, INT_MAX);
        unsigned width = queue_columns[i].width;
        unsigned blanks = used < width ? width - used : 0;
        pad(out, owed + (queue_columns[i].left ? 0 : blanks));
        text_append(out, word.data ? word.data : "", word.size);
        owed = 1 + (queue_columns[i].left ? blanks : 0);
        text_finish(&word);
        line += blank ? length + 1 : length;
        size -= blank ? length + 1 : length;
    }
    if (size) {
        pad(out, owed);
        view_text(out, line, size, INT_MAX);
    }
    text_puts(out, "\n");
}
