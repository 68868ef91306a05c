#include "result_handle.h"

void result_handle_init(struct result_handle *handle, struct openings *openings)
{
    *handle = (struct result_handle){.openings = openings};
    pthread_mutex_init(&handle->lock, NULL);
}

/* drop forgets the content; the handle is locked, or nobody uses it any more. */
static void drop(struct result_handle *handle)
{
    blob_unref(handle->content);
    if (handle->openings)
        openings_discharge(handle->openings, handle->charged);
    handle->content = NULL;
    handle->charged = 0;
}

void result_handle_finish(struct result_handle *handle)
{
    drop(handle);
    pthread_mutex_destroy(&handle->lock);
}

void result_handle_set(struct result_handle *handle, struct blob *content)
{
    pthread_mutex_lock(&handle->lock);
    drop(handle);
    handle->job = content->job;
    uint64_t cost = content->size > RESULT_HANDLE_SMALL ? content->size : 0;
    if (!cost || !handle->openings || openings_charge(handle->openings, cost)) {
        handle->content = blob_ref(content);
        handle->charged = handle->openings ? cost : 0;
    }
    pthread_mutex_unlock(&handle->lock);
}

struct blob *result_handle_get(struct result_handle *handle, uint64_t *job)
{
    pthread_mutex_lock(&handle->lock);
    struct blob *content = handle->content ? blob_ref(handle->content) : NULL;
    *job = handle->job;
    pthread_mutex_unlock(&handle->lock);
    return content;
}
