/*
 * What a directory holds, as it was at one moment. Offsets are numbers that stay, so that one
 * listing can be read on where another one was left.
 *
 * Those of jobs/ and data/ are kept by their VM and given out again until a name comes or goes: who
 * lists a directory in a loop costs one copy of its names, not one each time. Making a large one
 * takes long; it belongs in the VM's thread (listing_is_slow).
 *
 * Immutable once made, with a reference count. Thread-safe.
 */
#ifndef VGPUFS_LISTING_H
#define VGPUFS_LISTING_H

#include "common/text.h"
#include "nodes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* One entry, with the offset that the next one is asked for by. */
struct listing_entry {
    uint64_t offset, ino;
    mode_t mode;
    uint32_t name; /* where it begins in the listing's names */
};

struct listing {
    atomic_uint references;
    uint64_t bytes;                /* in memory */
    uint64_t changes;              /* of the table that it was made of, then */
    struct listing_entry *entries; /* by ascending offset */
    size_t count, capacity;
    struct text names;
};

/* The last listing of one directory. */
struct listing_kept {
    pthread_mutex_t lock; /* guards the listing; inside of all others */
    struct listing *listing;
};

void listing_kept_init(struct listing_kept *kept);
void listing_kept_finish(struct listing_kept *kept);

/*
 * listing_of returns a reference to what the directory holds; NULL without memory. `nfs`: for an
 * NFS server, without a result that would have to be waited for: `ls -l` in a guest asks for the
 * attributes of all that is listed.
 */
struct listing *listing_of(const struct node *directory, bool nfs);
/* listing_is_slow: has a large one to be made first? */
bool listing_is_slow(const struct node *directory);
/* listing_after returns the index of the first entry behind that offset. */
size_t listing_after(const struct listing *listing, uint64_t offset);
const char *listing_name(const struct listing *listing, size_t index);
/* listing_unref accepts NULL. */
void listing_unref(struct listing *listing);

#endif
