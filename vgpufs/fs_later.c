#include "fs_later.h"

#include "table.h"
#include "vm.h"

#include <stdlib.h>
#include <string.h>

struct name_task {
    struct task task;
    fs_name_fn *run;
    fuse_req_t request;
    fuse_ino_t parent;
    struct fuse_file_info info;
    char name[];
};

static void name_run(struct task *task)
{
    struct name_task *own = container_of(task, struct name_task, task);
    own->run(own->request, own->parent, own->name, &own->info);
    free(own);
}

bool fs_later_name(struct worker *worker, fs_name_fn *run, fuse_req_t request, fuse_ino_t parent,
                   const char *name, const struct fuse_file_info *info)
{
    size_t size = strlen(name) + 1;
    struct name_task *own = malloc(sizeof(*own) + size);
    if (!own)
        return false;
    *own =
        (struct name_task){.task.run = name_run, .run = run, .request = request, .parent = parent};
    if (info)
        own->info = *info;
    memcpy(own->name, name, size);
    worker_hand(worker, &own->task);
    return true;
}

struct write_task {
    struct task task;
    fs_write_fn *run;
    struct handle *handle; /* outlives it: RELEASE comes after the reply */
    fuse_req_t request;
    uint64_t offset;
    size_t size;
    char bytes[];
};

static void write_run(struct task *task)
{
    struct write_task *own = container_of(task, struct write_task, task);
    own->run(own->handle, own->request, own->bytes, own->size, own->offset);
    free(own);
}

bool fs_later_write(struct vm *vm, fs_write_fn *run, struct handle *handle, fuse_req_t request,
                    const char *bytes, size_t size, uint64_t offset)
{
    struct write_task *own = malloc(sizeof(*own) + size);
    if (!own)
        return false;
    *own = (struct write_task){.task.run = write_run,
                               .run = run,
                               .handle = handle,
                               .request = request,
                               .offset = offset,
                               .size = size};
    memcpy(own->bytes, bytes, size);
    worker_hand(&vm->worker, &own->task);
    return true;
}
