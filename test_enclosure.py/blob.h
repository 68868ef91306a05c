/*
 * Immutable bytes with a reference count: a result that several readers and its
 * job hold at once. Thread-safe once made.
 */
#ifndef VGPUFS_BLOB_H
#define VGPUFS_BLOB_H

#include "common/text.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct blob {
    atomic_uint references;
    size_t size;
    uint64_t job; /* whose result it is; 0: no job's */
    char *data;
};

/* blob_from_text takes the text's bytes over and leaves it empty; NULL without memory. */
struct blob *blob_from_text(struct text *text);
struct blob *blob_ref(struct blob *blob);
/* blob_unref accepts NULL. */
void blob_unref(struct blob *blob);

#endif
