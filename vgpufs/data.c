#include "data.h"

#include "clock.h"
#include "common/log.h"
#include "common/workload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* File numbers are reserved in the state this many at a time. */
#define NUMBER_BLOCK 1024

struct backing_name {
    char text[24];
};

static struct backing_name backing_name(uint64_t number)
{
    struct backing_name name;
    snprintf(name.text, sizeof(name.text), "%" PRIu64, number);
    return name;
}

/* file_enter puts a new file into the tables. NULL without memory. */
static struct data_file *file_enter(struct data *data, uint64_t number, const char *name)
{
    struct data_file *file = calloc(1, sizeof(*file));
    char *copy = strdup(name ? name : "");
    if (!file || !copy)
        goto failed;
    *file = (struct data_file){.data = data, .number = number, .name = copy, .named = name != NULL};
    file->atime = file->mtime = file->ctime = clock_change();
    if (table_insert(&data->by_number, &file->by_number, table_hash_number(number)) < 0)
        goto failed;
    if (name && table_insert(&data->by_name, &file->by_name, table_hash_string(name)) < 0) {
        table_remove(&data->by_number, &file->by_number);
        goto failed;
    }
    return file;
failed:
    free(copy);
    free(file);
    return NULL;
}

/*
 * file_leave forgets a file that has neither name nor reference. Returns the number under which its
 * bytes are to be removed once the lock is given up, since that may take long; 0: none.
 */
static uint64_t file_leave(struct data_file *file)
{
    struct data *data = file->data;
    if (file->named || file->references)
        return 0;
    table_remove(&data->by_number, &file->by_number);
    data->used_bytes -= file->size;
    bool replaced = file->replaced && !file->kept;
    /*
     * Bytes that were replaced go when the state names the new ones: a daemon that died between
     * would come back with neither. All others go now, since on a full disk nothing else helps.
     */
    uint64_t number = replaced || file->kept ? 0 : file->number;
    if (replaced)
        state_remove_bytes(data->state, data->vm, file->number);
    free(file->name);
    free(file);
    return number;
}

/* bytes_remove removes what file_leave told; without the lock. */
static void bytes_remove(const struct data *data, uint64_t number)
{
    if (number)
        unlinkat(data->directory, backing_name(number).text, 0);
}

static struct data_file *file_by_name(const struct data *data, const char *name)
{
    struct table_entry *entry = table_find(&data->by_name, table_hash_string(name));
    for (; entry; entry = table_find_next(entry)) {
        struct data_file *file = container_of(entry, struct data_file, by_name);
        if (strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

static struct data_file *file_by_number(const struct data *data, uint64_t number)
{
    struct table_entry *entry = table_find(&data->by_number, table_hash_number(number));
    for (; entry; entry = table_find_next(entry)) {
        struct data_file *file = container_of(entry, struct data_file, by_number);
        if (file->number == number)
            return file;
    }
    return NULL;
}

static int directory_ready(struct data *data)
{
    char name[16];
    if (data->directory >= 0)
        return 0;
    snprintf(name, sizeof(name), "%u", data->vm);
    int folder = state_data_dir(data->state);
    bool made = mkdirat(folder, name, 0700) == 0;
    if (!made && errno != EEXIST)
        return errno;
    if (made && fsync(folder) < 0)
        return errno;
    data->directory = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return data->directory < 0 ? errno : 0;
}

struct loader {
    struct data *data;
    bool incomplete; /* a name is in the state but not in the table */
};

static void load_file(void *context, uint64_t number, const char *name)
{
    struct loader *loader = context;
    struct data *data = loader->data;
    struct stat stat;
    int error = fstatat(data->directory, backing_name(number).text, &stat, AT_SYMLINK_NOFOLLOW) < 0
                    ? errno
                    : 0;
    if (error == ENOENT) {
        log_warning("vm%u: the bytes of data file %" PRIu64 " are gone: its name is removed",
                    data->vm, number);
        state_delete_file(data->state, data->vm, number);
        return;
    }
    bool usable = !error && number <= STATE_MAX_NUMBER && workload_name_is_plain(name);
    struct data_file *file = usable ? file_enter(data, number, name) : NULL;
    if (!file) {
        loader->incomplete = true;
        return;
    }
    file->size = (uint64_t)stat.st_size;
    file->atime = stat.st_atim;
    file->mtime = stat.st_mtim;
    data->used_bytes += file->size;
    if (number >= data->next_file) /* else the next file could not be made */
        data->next_file = data->reserved_file = number + 1;
}

/* backing_remove removes the bytes of a number that no file has. */
static void backing_remove(struct data *data, uint64_t number, const char *name)
{
    pthread_mutex_lock(&data->lock);
    if (!file_by_number(data, number))
        unlinkat(data->directory, name, 0);
    pthread_mutex_unlock(&data->lock);
}

static void backing_sweep(struct data *data)
{
    int copy = openat(data->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    if (!directory)
        return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        if (!*end && end != entry->d_name)
            backing_remove(data, number, entry->d_name);
    }
    closedir(directory);
}

void data_init(struct data *data, struct state *state, unsigned vm, uint64_t next_file,
               const struct data_limits *limits)
{
    char name[16];
    *data = (struct data){.state = state,
                          .vm = vm,
                          .next_file = next_file,
                          .reserved_file = next_file,
                          .limits = *limits,
                          .changed = clock_change()};
    pthread_mutex_init(&data->lock, NULL);
    snprintf(name, sizeof(name), "%u", vm);
    data->directory = openat(state_data_dir(state), name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (data->directory < 0)
        return; /* it never had a file */
    struct loader loader = {.data = data};
    data->known = state_load_files(state, vm, load_file, &loader) == 0 && !loader.incomplete;
    if (!data->known)
        log_error("vm%u: not all names of its data files could be read: no bytes are removed", vm);
}

void data_sweep(struct data *data)
{
    if (data->known)
        backing_sweep(data);
    for (struct data_file *file; (file = data->adopted);) {
        data->adopted = file->next_adopted;
        data_unref(file);
    }
}

void data_keep(struct data_file *file)
{
    pthread_mutex_lock(&file->data->lock);
    file->kept = true;
    pthread_mutex_unlock(&file->data->lock);
}

void data_adopt(struct data *data, uint64_t number)
{
    struct stat stat;
    pthread_mutex_lock(&data->lock);
    bool missing =
        number < data->next_file && !file_by_number(data, number) && data->directory >= 0 &&
        fstatat(data->directory, backing_name(number).text, &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(stat.st_mode);
    struct data_file *file = missing ? file_enter(data, number, NULL) : NULL;
    if (file) {
        file->size = (uint64_t)stat.st_size;
        file->atime = stat.st_atim;
        file->mtime = stat.st_mtim;
        data->used_bytes += file->size;
        file->references = 1; /* data_sweep's */
        file->next_adopted = data->adopted;
        data->adopted = file;
    }
    pthread_mutex_unlock(&data->lock);
}

void data_finish(struct data *data)
{
    for (struct table_entry *entry; (entry = table_next(&data->by_number, NULL));) {
        struct data_file *file = container_of(entry, struct data_file, by_number);
        table_remove(&data->by_number, entry);
        free(file->name);
        free(file);
    }
    table_finish(&data->by_number);
    table_finish(&data->by_name);
    if (data->directory >= 0)
        close(data->directory);
    pthread_mutex_destroy(&data->lock);
}

void data_set_limits(struct data *data, const struct data_limits *limits)
{
    pthread_mutex_lock(&data->lock);
    data->limits = *limits;
    pthread_mutex_unlock(&data->lock);
}

struct data_file *data_find(struct data *data, const char *name)
{
    pthread_mutex_lock(&data->lock);
    struct data_file *file = file_by_name(data, name);
    if (file)
        file->references++;
    pthread_mutex_unlock(&data->lock);
    return file;
}

struct data_file *data_get(struct data *data, uint64_t number)
{
    pthread_mutex_lock(&data->lock);
    struct data_file *file = file_by_number(data, number);
    if (file)
        file->references++;
    pthread_mutex_unlock(&data->lock);
    return file;
}

void data_unref(struct data_file *file)
{
    if (!file)
        return;
    struct data *data = file->data;
    pthread_mutex_lock(&data->lock);
    file->references--;
    uint64_t number = file_leave(file);
    pthread_mutex_unlock(&data->lock);
    bytes_remove(data, number);
}

/* numbers_ready reserves file numbers if there are none. It gives up the lock while it waits. */
static int numbers_ready(struct data *data)
{
    while (data->next_file == data->reserved_file) {
        uint64_t reserved = data->reserved_file + NUMBER_BLOCK;
        state_ticket ticket = state_put_file_numbers(data->state, data->vm, reserved);
        pthread_mutex_unlock(&data->lock);
        int error = state_wait(data->state, ticket);
        pthread_mutex_lock(&data->lock);
        if (error)
            return ENOSPC;
        if (data->reserved_file < reserved)
            data->reserved_file = reserved;
    }
    return 0;
}

bool data_numbers_are_short(struct data *data)
{
    pthread_mutex_lock(&data->lock);
    bool are_short = data->next_file == data->reserved_file;
    pthread_mutex_unlock(&data->lock);
    return are_short;
}

/* file_make makes a file with its backing file. `name` NULL: an output. */
static int file_make(struct data *data, const char *name, struct data_file **made)
{
    int error = state_is_behind(data->state, data->vm) ? ENOSPC : directory_ready(data);
    if (error)
        return error;
    if (data->by_number.count >= data->limits.max_files)
        return EDQUOT;
    uint64_t number = data->next_file++;
    int descriptor = openat(data->directory, backing_name(number).text,
                            O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor < 0)
        return errno;
    close(descriptor);
    struct data_file *file = file_enter(data, number, name);
    if (!file) {
        unlinkat(data->directory, backing_name(number).text, 0);
        return ENOSPC;
    }
    if (name) {
        state_put_file(data->state, data->vm, number, name);
        data->changed = clock_change();
    }
    *made = file;
    return 0;
}

int data_create(struct data *data, const char *name, bool exclusive, struct data_file **file)
{
    pthread_mutex_lock(&data->lock);
    int error = file_by_name(data, name) ? 0 : numbers_ready(data);
    *file = file_by_name(data, name); /* it may have come meanwhile */
    if (*file && exclusive)
        error = EEXIST;
    else if (!*file && !error)
        error = file_make(data, name, file);
    if (!error)
        (*file)->references++;
    pthread_mutex_unlock(&data->lock);
    return error;
}

/* name_remove takes a file's name away; the row in the state is the caller's business. Returns what
 * file_leave does. */
static uint64_t name_remove(struct data_file *file)
{
    table_remove(&file->data->by_name, &file->by_name);
    file->named = false;
    file->ctime = clock_change();
    return file_leave(file);
}

int data_unlink(struct data *data, const char *name)
{
    uint64_t number = 0;
    pthread_mutex_lock(&data->lock);
    struct data_file *file = file_by_name(data, name);
    if (file) {
        state_delete_file(data->state, data->vm, file->number);
        data->changed = clock_change();
        number = name_remove(file);
    }
    pthread_mutex_unlock(&data->lock);
    bytes_remove(data, number);
    return file ? 0 : ENOENT;
}

/* name_give gives a file, named or not, a new name, and takes it from another one. */
static int name_give(struct data_file *file, const char *name)
{
    struct data *data = file->data;
    char *copy = strdup(name);
    struct data_file *other = file_by_name(data, name);
    if (!copy)
        return ENOSPC;
    if (file->named)
        table_remove(&data->by_name, &file->by_name);
    if (table_insert(&data->by_name, &file->by_name, table_hash_string(name)) < 0) {
        free(copy); /* the table was empty: the file had no name, and has none now */
        return ENOSPC;
    }
    free(file->name);
    file->name = copy;
    file->named = true;
    file->ctime = data->changed = clock_change();
    state_put_file(data->state, data->vm, file->number, name);
    if (other) {
        other->replaced = true;
        name_remove(other);
    }
    return 0;
}

int data_rename(struct data *data, const char *from, const char *to, bool no_replace)
{
    int error = 0;
    pthread_mutex_lock(&data->lock);
    struct data_file *file = file_by_name(data, from);
    if (!file)
        error = ENOENT;
    else if (no_replace && file_by_name(data, to))
        error = EEXIST;
    else if (strcmp(from, to) != 0)
        error = state_is_behind(data->state, data->vm) ? ENOSPC : name_give(file, to);
    pthread_mutex_unlock(&data->lock);
    return error;
}

int data_create_output(struct data *data, struct data_file **file)
{
    pthread_mutex_lock(&data->lock);
    int error = numbers_ready(data);
    if (!error)
        error = file_make(data, NULL, file);
    if (!error)
        (*file)->references++;
    pthread_mutex_unlock(&data->lock);
    return error;
}

int data_install(struct data_file *file, const char *name, uint64_t *replaced)
{
    pthread_mutex_lock(&file->data->lock);
    const struct data_file *other = file_by_name(file->data, name);
    *replaced = other ? other->number : 0;
    int error = name_give(file, name);
    pthread_mutex_unlock(&file->data->lock);
    return error;
}

int data_open_backing(struct data_file *file, int flags)
{
    return openat(file->data->directory, backing_name(file->number).text,
                  flags | O_CLOEXEC | O_NOFOLLOW);
}

int data_charge(struct data_file *file, uint64_t end)
{
    struct data *data = file->data;
    int error = 0;
    pthread_mutex_lock(&data->lock);
    if (end > file->size) {
        uint64_t growth = end - file->size;
        uint64_t quota = data->limits.quota_bytes;
        if (data->used_bytes > quota || growth > quota - data->used_bytes) {
            error = EDQUOT;
        } else {
            data->used_bytes += growth;
            file->size = end;
        }
    }
    pthread_mutex_unlock(&data->lock);
    return error;
}

void data_settle(struct data_file *file, int descriptor)
{
    struct stat stat;
    pthread_mutex_lock(&file->data->lock);
    if (fstat(descriptor, &stat) == 0) {
        file->data->used_bytes += (uint64_t)stat.st_size - file->size;
        file->size = (uint64_t)stat.st_size;
    }
    pthread_mutex_unlock(&file->data->lock);
}

void data_touch(struct data_file *file)
{
    pthread_mutex_lock(&file->data->lock);
    file->mtime = file->ctime = clock_change();
    pthread_mutex_unlock(&file->data->lock);
}

int data_truncate(struct data_file *file, uint64_t size)
{
    if (size > INT64_MAX)
        return EFBIG;
    int error = data_charge(file, size);
    if (error)
        return error;
    int descriptor = data_open_backing(file, O_WRONLY);
    if (descriptor < 0)
        return errno;
    if (ftruncate(descriptor, (off_t)size) < 0)
        error = errno;
    data_settle(file, descriptor);
    close(descriptor);
    if (!error)
        data_touch(file);
    return error;
}

void data_set_times(struct data_file *file, const struct timespec *atime,
                    const struct timespec *mtime)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    struct data *data = file->data;
    pthread_mutex_lock(&data->lock);
    if (atime)
        times[0] = file->atime = *atime;
    if (mtime)
        times[1] = file->mtime = *mtime;
    file->ctime = clock_change();
    pthread_mutex_unlock(&data->lock);
    utimensat(data->directory, backing_name(file->number).text, times, AT_SYMLINK_NOFOLLOW);
}

void data_stat(struct data_file *file, struct stat *stat)
{
    pthread_mutex_lock(&file->data->lock);
    stat->st_size = (off_t)file->size;
    stat->st_blocks = (blkcnt_t)((file->size + 511) / 512);
    stat->st_nlink = file->named;
    stat->st_atim = file->atime;
    stat->st_mtim = file->mtime;
    stat->st_ctim = file->ctime;
    pthread_mutex_unlock(&file->data->lock);
}

/* A file that is purged, and what file_leave told of it. */
struct purged {
    uint64_t number, bytes;
};

/* purge_some removes the names of some files; returns how many. */
static size_t purge_some(struct data *data, struct purged *purged, size_t most)
{
    size_t count = 0;
    pthread_mutex_lock(&data->lock);
    struct table_entry *entry = table_next(&data->by_name, NULL), *next;
    for (; entry && count < most; entry = next) {
        struct data_file *file = container_of(entry, struct data_file, by_name);
        next = table_next(&data->by_name, entry);
        state_delete_file(data->state, data->vm, file->number);
        purged[count].number = file->number;
        purged[count++].bytes = name_remove(file);
    }
    data->changed = clock_change();
    pthread_mutex_unlock(&data->lock);
    return count;
}

void data_purge(struct data *data, void (*gone)(void *context, uint64_t number), void *context)
{
    struct purged purged[256];
    for (size_t count; (count = purge_some(data, purged, 256));)
        for (size_t i = 0; i < count; i++) {
            bytes_remove(data, purged[i].bytes);
            gone(context, purged[i].number);
        }
}

struct names data_names(struct data *data)
{
    pthread_mutex_lock(&data->lock);
    struct names names = {data->by_name.count, data->by_name.changes};
    pthread_mutex_unlock(&data->lock);
    return names;
}

uint64_t data_each(struct data *data, void (*each)(void *context, const struct data_file *file),
                   void *context)
{
    pthread_mutex_lock(&data->lock);
    for (struct table_entry *entry = table_next(&data->by_name, NULL); entry;
         entry = table_next(&data->by_name, entry))
        each(context, container_of(entry, struct data_file, by_name));
    uint64_t changes = data->by_name.changes;
    pthread_mutex_unlock(&data->lock);
    return changes;
}

bool data_open_enter(struct data *data)
{
    pthread_mutex_lock(&data->lock);
    bool room = data->open_files < data->limits.max_open;
    data->open_files += room;
    pthread_mutex_unlock(&data->lock);
    return room;
}

void data_open_leave(struct data *data)
{
    pthread_mutex_lock(&data->lock);
    data->open_files--;
    pthread_mutex_unlock(&data->lock);
}

void data_usage(struct data *data, struct data_usage *usage)
{
    pthread_mutex_lock(&data->lock);
    *usage = (struct data_usage){.used_bytes = data->used_bytes,
                                 .files = data->by_name.count,
                                 .open_files = data->open_files,
                                 .limits = data->limits};
    pthread_mutex_unlock(&data->lock);
}
