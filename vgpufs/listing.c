#include "listing.h"

#include "data.h"
#include "job.h"
#include "server.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Offsets: 1 and 2 for the dots, then kinds, then what has a number. */
#define OFFSET_KINDS   10
#define OFFSET_NUMBERS 1000

/* More names than these are copied in the VM's own thread. */
#define SLOW_COUNT 128
/* A larger listing is not kept: a VM could have the daemon hold all its names twice. */
#define KEPT_BYTES (512u << 10)

void listing_kept_init(struct listing_kept *kept)
{
    *kept = (struct listing_kept){0};
    pthread_mutex_init(&kept->lock, NULL);
}

void listing_kept_finish(struct listing_kept *kept)
{
    listing_unref(kept->listing);
    pthread_mutex_destroy(&kept->lock);
}

/* kept_get returns a reference to the listing that was kept, if nothing has changed since. */
static struct listing *kept_get(struct listing_kept *kept, uint64_t changes)
{
    pthread_mutex_lock(&kept->lock);
    struct listing *listing =
        kept->listing && kept->listing->changes == changes ? kept->listing : NULL;
    if (listing)
        atomic_fetch_add(&listing->references, 1);
    pthread_mutex_unlock(&kept->lock);
    return listing;
}

static void kept_put(struct listing_kept *kept, struct listing *listing)
{
    if (listing->bytes > KEPT_BYTES)
        return;
    pthread_mutex_lock(&kept->lock);
    struct listing *last = kept->listing;
    if (last && last->changes >= listing->changes) {
        last = NULL; /* it was made meanwhile */
    } else {
        atomic_fetch_add(&listing->references, 1);
        kept->listing = listing;
    }
    pthread_mutex_unlock(&kept->lock);
    listing_unref(last);
}

/* kept_of: NULL for a directory whose listing is not kept. */
static struct listing_kept *kept_of(const struct node *directory)
{
    switch (directory->type->kind) {
    case NODE_JOBS:
        return &directory->vm->listed_jobs;
    case NODE_DATA:
        return &directory->vm->listed_data;
    default:
        return NULL;
    }
}

/* names_of: how many names such a directory has, and how often one has come or gone. */
static struct names names_of(const struct node *directory)
{
    struct vm *vm = directory->vm;
    if (directory->type->kind == NODE_DATA)
        return data_names(&vm->data);
    pthread_mutex_lock(&vm->lock);
    struct names names = {vm->jobs_by_number.count, vm->jobs_by_number.changes};
    pthread_mutex_unlock(&vm->lock);
    return names;
}

bool listing_is_slow(const struct node *directory)
{
    struct listing_kept *kept = kept_of(directory);
    struct names names = kept ? names_of(directory) : (struct names){0};
    if (names.count <= SLOW_COUNT)
        return false;
    struct listing *listing = kept_get(kept, names.changes);
    listing_unref(listing);
    return !listing;
}

/* --- making one --- */

static void listing_add(struct listing *listing, uint64_t offset, uint64_t ino, mode_t mode,
                        const char *name)
{
    size_t size = strlen(name) + 1;
    if (listing->count == listing->capacity) {
        size_t capacity = listing->capacity ? listing->capacity * 2 : 32;
        struct listing_entry *entries =
            realloc(listing->entries, capacity * sizeof(*listing->entries));
        if (!entries) {
            listing->names.failed = true;
            return;
        }
        listing->entries = entries;
        listing->capacity = capacity;
    }
    listing->entries[listing->count++] =
        (struct listing_entry){offset, ino, mode, (uint32_t)listing->names.size};
    listing->bytes += sizeof(struct listing_entry) + size;
    text_append(&listing->names, name, size);
}

/* result_is_left_out of an NFS server's listing: even its attributes wait, and so would `ls -l`. */
static bool result_is_left_out(const struct node *directory)
{
    struct vm *vm = directory->vm;
    if (!directory->job) {
        pthread_mutex_lock(&vm->lock);
        vm_note_listing(vm); /* before looking: what changes later than that changes the time */
        pthread_mutex_unlock(&vm->lock);
    }
    return node_must_wait(directory);
}

/* add_fixed adds the dots and the children that have the same name in each such directory. */
static void add_fixed(struct listing *listing, const struct node *directory, bool nfs)
{
    listing_add(listing, 1, node_self_ino(directory), S_IFDIR, ".");
    listing_add(listing, 2, node_parent_ino(directory), S_IFDIR, "..");
    for (int kind = NODE_NONE + 1; kind < NODE_KINDS; kind++) {
        const struct node_type *type = &node_types[kind];
        if (type->parent != directory->type->kind || !type->name)
            continue;
        if (nfs && type->content == CONTENT_RESULT && result_is_left_out(directory))
            continue;
        listing_add(listing, OFFSET_KINDS + (uint64_t)kind, node_related_ino(directory, type->kind),
                    type->content == CONTENT_DIRECTORY ? S_IFDIR : S_IFREG, type->name);
    }
}

static void add_vms(struct listing *listing, struct server *server)
{
    char name[16];
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        snprintf(name, sizeof(name), "vm%u", vm->id);
        if (!atomic_load(&vm->gone))
            listing_add(listing, OFFSET_NUMBERS + vm->id, node_ino(NODE_VM, vm->id, 0), S_IFDIR,
                        name);
    }
}

static void add_jobs(struct listing *listing, struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    listing->changes = vm->jobs_by_number.changes;
    struct table_entry *entry = NULL;
    while ((entry = table_next(&vm->jobs_by_number, entry))) {
        struct job *job = container_of(entry, struct job, by_number);
        listing_add(listing, OFFSET_NUMBERS + job->number, node_ino(NODE_JOB, vm->id, job->number),
                    S_IFDIR, job_tag(job));
    }
    pthread_mutex_unlock(&vm->lock);
}

static void add_file(void *context, const struct data_file *file)
{
    struct listing *listing = context;
    listing_add(listing, OFFSET_NUMBERS + file->number,
                node_ino(NODE_FILE, file->data->vm, file->number), S_IFREG, file->name);
}

static int entry_compare(const void *a, const void *b)
{
    const struct listing_entry *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static struct listing *listing_make(const struct node *directory, bool nfs)
{
    struct listing *listing = calloc(1, sizeof(*listing));
    if (!listing)
        return NULL;
    atomic_store(&listing->references, 1);
    listing->bytes = sizeof(*listing);
    add_fixed(listing, directory, nfs);
    if (directory->type->kind == NODE_ROOT)
        add_vms(listing, directory->server);
    else if (directory->type->kind == NODE_JOBS)
        add_jobs(listing, directory->vm);
    else if (directory->type->kind == NODE_DATA)
        listing->changes = data_each(&directory->vm->data, add_file, listing);
    if (listing->names.failed) {
        listing_unref(listing);
        return NULL;
    }
    qsort(listing->entries, listing->count, sizeof(*listing->entries), entry_compare);
    return listing;
}

struct listing *listing_of(const struct node *directory, bool nfs)
{
    struct listing_kept *kept = kept_of(directory);
    struct listing *listing = kept ? kept_get(kept, names_of(directory).changes) : NULL;
    if (listing)
        return listing;
    listing = listing_make(directory, nfs);
    if (listing && kept)
        kept_put(kept, listing);
    return listing;
}

size_t listing_after(const struct listing *listing, uint64_t offset)
{
    size_t first = 0, end = listing->count;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (listing->entries[middle].offset <= offset)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

const char *listing_name(const struct listing *listing, size_t index)
{
    return listing->names.data + listing->entries[index].name;
}

void listing_unref(struct listing *listing)
{
    if (!listing || atomic_fetch_sub(&listing->references, 1) > 1)
        return;
    text_finish(&listing->names);
    free(listing->entries);
    free(listing);
}
