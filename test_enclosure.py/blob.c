#include "blob.h"

#include <stdlib.h>

struct blob *blob_from_text(struct text *text)
{
    struct blob *blob = malloc(sizeof(*blob));
    size_t size;
    char *data = text_take(text, &size);
    if (!blob || !data) {
        free(blob);
        free(data);
        return NULL;
    }
    atomic_init(&blob->references, 1);
    blob->size = size;
    blob->job = 0;
    blob->data = data;
    return blob;
}

struct blob *blob_ref(struct blob *blob)
{
    atomic_fetch_add_explicit(&blob->references, 1, memory_order_relaxed);
    return blob;
}

void blob_unref(struct blob *blob)
{
    if (!blob || atomic_fetch_sub_explicit(&blob->references, 1, memory_order_acq_rel) > 1)
        return;
    free(blob->data);
    free(blob);
}
