#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What to do when a file of the mount cannot be opened or read. */
static const char *advice(int error)
{
    static const struct {
        int error;
        const char *words;
    } advices[] = {
        {ENOENT, "no vgpufs is mounted there; start vgpufs or name its mountpoint with --mount="},
        {ENOTDIR, "that is not a mountpoint; name vgpufs' mountpoint with --mount="},
        {EACCES, "run vgpuctl as root"},
        {EPERM, "run vgpuctl as root"},
        {ENOTCONN, "the daemon has ended without unmounting; start vgpufs again"},
        {ECONNABORTED, "the daemon has gone; start vgpufs again"},
    };
    for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++)
        if (advices[i].error == error)
            return advices[i].words;
    return "see the log of vgpufs";
}

static void explain(struct text *error, const char *mount, const char *name)
{
    int number = errno;
    text_clear(error);
    text_printf(error, "%s/%s: %s: %s", mount, name, strerror(number), advice(number));
    errno = number;
}

int mount_open(const char *mount, const char *name, int flags, struct text *error)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s", mount, name);
    int descriptor = -1;
    if (length < 0 || (size_t)length >= sizeof(path))
        errno = ENAMETOOLONG;
    else
        descriptor = open(path, flags | O_CLOEXEC | O_NOCTTY);
    if (descriptor < 0)
        explain(error, mount, name);
    return descriptor;
}

FILE *mount_stream(const char *mount, const char *name, struct text *error)
{
    int descriptor = mount_open(mount, name, O_RDONLY, error);
    if (descriptor < 0)
        return NULL;
    FILE *stream = fdopen(descriptor, "r");
    if (!stream) {
        explain(error, mount, name);
        close(descriptor);
    }
    return stream;
}

static int snapshot_add(struct snapshot *snapshot, size_t *capacity, const char *line, size_t size)
{
    if (snapshot->record_count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 16;
        struct record *records = reallocarray(snapshot->records, more, sizeof(*records));
        if (!records)
            return -1;
        snapshot->records = records;
        *capacity = more;
    }
    struct record *record = &snapshot->records[snapshot->record_count];
    if (record_parse(record, line, size) != 0)
        return -1;
    snapshot->record_count++;
    return 0;
}

int snapshot_read(struct snapshot *snapshot, const char *mount, struct text *error)
{
    *snapshot = (struct snapshot){0};
    FILE *stream = mount_stream(mount, "stats", error);
    if (!stream)
        return -1;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snapshot->taken_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;

    char *line = NULL;
    size_t line_capacity = 0, capacity = 0, number = 0;
    ssize_t length;
    int result = 0;
    errno = 0;
    while (result == 0 && (length = getline(&line, &line_capacity, stream)) >= 0) {
        number++;
        if (length && line[length - 1] == '\n')
            length--;
        result = snapshot_add(snapshot, &capacity, line, (size_t)length);
    }
    if (result != 0) {
        text_clear(error);
        text_printf(error, "%s/stats, line %zu: %s: update vgpuctl to the daemon's version", mount,
                    number, strerror(errno));
    } else if (ferror(stream)) {
        explain(error, mount, "stats");
        result = -1;
    } else if (!snapshot_find(snapshot, "vgpufs", NULL)) {
        text_clear(error);
        text_printf(
            error,
            "%s/stats: not the statistics of a vgpufs: name its mountpoint with --mount=", mount);
        result = -1;
    }
    free(line);
    fclose(stream);
    if (result != 0)
        snapshot_finish(snapshot);
    return result;
}

void snapshot_finish(struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->record_count; i++)
        record_finish(&snapshot->records[i]);
    free(snapshot->records);
    *snapshot = (struct snapshot){0};
}

const struct record *snapshot_find(const struct snapshot *snapshot, const char *kind,
                                   const char *name)
{
    for (size_t i = 0; i < snapshot->record_count; i++) {
        const struct record *record = &snapshot->records[i];
        const char *first = record_word(record, 0), *second = record_word(record, 1);
        if (first && strcmp(first, kind) == 0 && (!name || (second && strcmp(second, name) == 0)))
            return record;
    }
    return NULL;
}
