#include "parked.h"

#include "common/log.h"
#include "nfs_wait.h"
#include "nodes.h"
#include "process.h"
#include "pulse.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Thread_local struct parked_current parked_current;

/*
 * The interrupt callback gets one pointer, in which it needs the VM and the
 * request: 16 bits of vm_id and 48 of the request's number. The kernel counts
 * requests up by two from zero, so 48 bits last for years at a million a second.
 */
#define UNIQUE_BITS 48
#define UNIQUE_MASK ((UINT64_C(1) << UNIQUE_BITS) - 1)

/* What the callback writes into a pipe, and the notifier reads. */
static int interrupt_pipe = -1;
/* Set when the pipe was full: then every parked request has to be looked at. */
static atomic_bool interrupts_lost;

/* Runs under libfuse's lock of the request: takes no lock of ours, and allocates nothing. */
static void interrupt_post(fuse_req_t request, void *data)
{
    uint64_t word = (uint64_t)(uintptr_t)data;
    (void)request;
    if (write(interrupt_pipe, &word, sizeof(word)) != sizeof(word))
        atomic_store(&interrupts_lost, true);
}

int parked_note(struct parked *parked)
{
    const struct fuse_in_header *header = parked_current.bytes;
    if (!header || parked_current.size > sizeof(parked->raw.bytes))
        return -1;
    memcpy(parked->raw.bytes, header, parked_current.size);
    parked->raw.size = (uint32_t)parked_current.size;
    parked->unique = header->unique & UNIQUE_MASK;
    return 0;
}

int parked_add(struct vm *vm, struct job *job, struct parked *parked)
{
    if (atomic_load(&vm->server->closing))
        return -1;
    parked->previous = NULL;
    parked->next = job->waiters;
    if (table_insert(&vm->parked, &parked->by_unique, table_hash_number(parked->unique)) < 0)
        return -1;
    parked->job = job_ref(job);
    if (job->waiters)
        job->waiters->previous = parked;
    job->waiters = parked;
    /* The request may be interrupted already: then the callback runs in here. */
    uint64_t word = (uint64_t)vm->id << UNIQUE_BITS | parked->unique;
    fuse_req_interrupt_func(parked->request, interrupt_post, (void *)(uintptr_t)word);
    return 0;
}

/* parked_unlink takes the request off its lists; the job's reference goes to the caller. */
static void parked_unlink(struct vm *vm, struct parked *parked)
{
    table_remove(&vm->parked, &parked->by_unique);
    nfs_wait_leave(vm->server->nfs, &parked->turn);
    if (parked->next)
        parked->next->previous = parked->previous;
    *(parked->previous ? &parked->previous->next : &parked->job->waiters) = parked->next;
}

static struct parked *detach_if(struct vm *vm, struct job *job, bool newest_only)
{
    struct parked *list = NULL, **end = &list;
    for (struct parked *parked = job->waiters, *next; parked; parked = next) {
        next = parked->next;
        if (newest_only && !parked->newest)
            continue;
        parked_unlink(vm, parked);
        parked->next = NULL;
        *end = parked;
        end = &parked->next;
    }
    return list;
}

struct parked *parked_detach(struct vm *vm, struct job *job)
{
    return detach_if(vm, job, false);
}

struct parked *parked_detach_newest(struct vm *vm, struct job *job)
{
    return detach_if(vm, job, true);
}

/* parked_any takes one of the VM's requests off its lists; NULL if none waits. */
static struct parked *parked_any(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    struct table_entry *entry = table_next(&vm->parked, NULL);
    struct parked *parked = entry ? container_of(entry, struct parked, by_unique) : NULL;
    if (parked)
        parked_unlink(vm, parked);
    pthread_mutex_unlock(&vm->lock);
    return parked;
}

unsigned parked_answer(struct parked *list, struct blob *result)
{
    unsigned whole = 0;
    for (struct parked *parked = list, *next; parked; parked = next) {
        next = parked->next;
        struct job *job = parked->job;
        whole += parked->answer(parked, result, 0);
        job_unref(job);
    }
    return whole;
}

void parked_fail(fuse_req_t request, int error)
{
    if (error == PARKED_LEFT)
        fuse_reply_none(request);
    else
        fuse_reply_err(request, error);
}

/* A local read that waits. */
struct parked_read {
    struct parked parked;
    struct result_handle *handle;
    uint64_t offset;
    size_t size;
};

static bool read_answer(struct parked *parked, struct blob *result, int error)
{
    struct parked_read *read = container_of(parked, struct parked_read, parked);
    struct result_handle *handle = read->handle;
    bool whole = false;
    if (result) {
        result_handle_set(handle, result);
        size_t offset = read->offset < result->size ? (size_t)read->offset : result->size;
        size_t size = result->size - offset < read->size ? result->size - offset : read->size;
        whole = offset + size == result->size;
        /* Once answered, the request and the handle may be gone. */
        fuse_reply_buf(parked->request, result->data + offset, size);
    } else {
        parked_fail(parked->request, error);
    }
    free(read);
    return whole;
}

int parked_add_read(struct vm *vm, struct job *job, struct result_handle *handle,
                    fuse_req_t request, uint64_t offset, size_t size)
{
    if (vm->parked.count >= vm->config.max_waiting)
        return EDQUOT;
    struct parked_read *read = malloc(sizeof(*read));
    if (!read)
        return ENOSPC;
    *read = (struct parked_read){
        .parked = {.request = request, .answer = read_answer},
        .handle = handle,
        .offset = offset,
        .size = size,
    };
    if (parked_note(&read->parked) == 0 && parked_add(vm, job, &read->parked) == 0)
        return 0;
    free(read);
    return atomic_load(&vm->server->closing) ? EIO : ENOSPC;
}

void parked_give_up(struct vm *vm)
{
    for (struct parked *parked; (parked = parked_any(vm));) {
        struct job *job = parked->job;
        /* An NFS client asks again after that, until the next daemon answers. */
        parked->answer(parked, NULL, parked->answer == read_answer ? EIO : EAGAIN);
        job_unref(job);
    }
}

/* Those that have waited longest come first: the kernel numbers requests as they come. */
static int unique_compare(const void *a, const void *b)
{
    const struct parked *const *x = a, *const *y = b;
    return (*x)->unique < (*y)->unique ? -1 : (*x)->unique > (*y)->unique;
}

void parked_save(struct vm *vm, struct handover *handover)
{
    size_t count = 0;
    struct parked **all = calloc(vm->parked.count + 1, sizeof(struct parked *));
    handover->failed = handover->failed || !all;
    for (struct table_entry *entry = NULL; all && (entry = table_next(&vm->parked, entry));)
        all[count++] = container_of(entry, struct parked, by_unique);
    if (all)
        qsort(all, count, sizeof(struct parked *), unique_compare);
    for (size_t i = 0; i < count; i++) {
        struct parked *parked = all[i];
        if (fuse_req_interrupted(parked->request)) {
            parked_end(vm, parked->unique, EINTR);
            continue;
        }
        struct handover_request request = {{parked->raw.bytes, parked->raw.size}};
        handover_add(handover, &handover->requests, &request, sizeof(request));
    }
    free(all);
}

void parked_leave(struct vm *vm)
{
    for (struct parked *parked; (parked = parked_any(vm));) {
        struct job *job = parked->job;
        parked->answer(parked, NULL, PARKED_LEFT);
        job_unref(job);
    }
}

/* parked_take takes the request of that number off its lists; NULL if it was answered. */
static struct parked *parked_take(struct vm *vm, uint64_t unique)
{
    struct parked *found = NULL;
    struct table_entry *entry = table_find(&vm->parked, table_hash_number(unique));
    for (; entry && !found; entry = table_find_next(entry)) {
        struct parked *parked = container_of(entry, struct parked, by_unique);
        found = parked->unique == unique ? parked : NULL;
    }
    if (found)
        parked_unlink(vm, found);
    return found;
}

void parked_end(struct vm *vm, uint64_t unique, int error)
{
    pthread_mutex_lock(&vm->lock);
    struct parked *parked = parked_take(vm, unique);
    pthread_mutex_unlock(&vm->lock);
    if (!parked)
        return;
    struct job *job = parked->job;
    parked->answer(parked, NULL, error);
    job_unref(job);
}

/* find_interrupted returns the number of a parked request that was interrupted; false if none is.
 */
static bool find_interrupted(struct vm *vm, uint64_t *unique)
{
    bool found = false;
    pthread_mutex_lock(&vm->lock);
    for (struct table_entry *entry = table_next(&vm->parked, NULL); entry && !found;
         entry = table_next(&vm->parked, entry)) {
        struct parked *parked = container_of(entry, struct parked, by_unique);
        found = fuse_req_interrupted(parked->request);
        *unique = parked->unique;
    }
    pthread_mutex_unlock(&vm->lock);
    return found;
}

/* Watchers. */

void watcher_clear(struct watcher *watcher)
{
    if (!watcher->job)
        return;
    if (watcher->next)
        watcher->next->previous = watcher->previous;
    *(watcher->previous ? &watcher->previous->next : &watcher->job->watchers) = watcher->next;
    fuse_pollhandle_destroy(watcher->poll);
    job_unref(watcher->job);
    *watcher = (struct watcher){0};
}

void watcher_set(struct watcher *watcher, struct job *job, struct fuse_pollhandle *poll)
{
    watcher_clear(watcher);
    *watcher = (struct watcher){.next = job->watchers, .job = job_ref(job), .poll = poll};
    if (job->watchers)
        job->watchers->previous = watcher;
    job->watchers = watcher;
}

/* The notifier. */

struct notifier {
    struct server *server;
    pthread_t thread;
    struct pulse pulse;
    int pipe[2];          /* words of interrupt_post; [0] is read by the thread */
    pthread_mutex_t lock; /* guards all below */
    struct text polls;    /* struct fuse_pollhandle pointers to notify */
    bool inval_root, stopping;
};

/* A word that no request has: it only wakes the thread. */
#define WAKE_WORD UINT64_MAX

static void notifier_wake(struct notifier *notifier)
{
    uint64_t word = WAKE_WORD;
    ssize_t size = write(notifier->pipe[1], &word, sizeof(word));
    (void)size; /* when the pipe is full the thread is awake */
}

void watchers_notify(struct server *server, struct job *job)
{
    struct notifier *notifier = server->notifier;
    if (!job->watchers)
        return;
    pthread_mutex_lock(&notifier->lock);
    for (struct watcher *watcher; (watcher = job->watchers);) {
        job->watchers = watcher->next;
        text_append(&notifier->polls, &watcher->poll, sizeof(watcher->poll));
        *watcher = (struct watcher){0};
        job_unref(job); /* never the last reference: the caller holds one */
    }
    pthread_mutex_unlock(&notifier->lock);
    notifier_wake(notifier);
}

void notifier_inval_root(struct notifier *notifier)
{
    pthread_mutex_lock(&notifier->lock);
    notifier->inval_root = true;
    pthread_mutex_unlock(&notifier->lock);
    notifier_wake(notifier);
}

void notifier_ask(struct notifier *notifier)
{
    pulse_ask(&notifier->pulse);
    notifier_wake(notifier);
}

bool notifier_is_silent(const struct notifier *notifier)
{
    return pulse_is_missing(&notifier->pulse);
}

static void polls_notify(struct fuse_pollhandle *const *polls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct fuse_pollhandle *poll = polls[i];
        fuse_lowlevel_notify_poll(poll);
        fuse_pollhandle_destroy(poll);
    }
}

/* root_inval makes the kernel look up the VMs' names and attributes again. */
static void root_inval(struct server *server)
{
    char name[16];
    fuse_lowlevel_notify_inval_inode(server->session, FUSE_ROOT_ID, 0, 0);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        int size = snprintf(name, sizeof(name), "vm%u", vm->id);
        fuse_lowlevel_notify_inval_entry(server->session, FUSE_ROOT_ID, name, (size_t)size);
        fuse_lowlevel_notify_inval_inode(server->session, node_ino(NODE_VM, vm->id, 0), 0, 0);
    }
}

void notify_file_gone(void *context, uint64_t number)
{
    const struct vm *vm = context;
    /* A job that was queued before a restart may end before the mount is there. */
    if (!atomic_load(&vm->server->serving))
        return;
    /* Attributes only (a negative offset). An error says that the kernel does not know the file. */
    fuse_lowlevel_notify_inval_inode(vm->server->session, node_ino(NODE_FILE, vm->id, number), -1,
                                     0);
}

/* notifier_serve does what has been asked for. False when the thread is to end. */
static bool notifier_serve(struct notifier *notifier)
{
    pthread_mutex_lock(&notifier->lock);
    struct text polls = notifier->polls;
    bool inval = notifier->inval_root, stopping = notifier->stopping;
    notifier->polls = (struct text){0};
    notifier->inval_root = false;
    pthread_mutex_unlock(&notifier->lock);
    polls_notify((struct fuse_pollhandle *const *)(void *)polls.data, polls.size / sizeof(void *));
    text_finish(&polls);
    if (inval)
        root_inval(notifier->server);
    return !stopping;
}

static void interrupts_find(struct server *server)
{
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        for (uint64_t unique; find_interrupted(vm, &unique);)
            parked_end(vm, unique, EINTR);
}

static void *notifier_run(void *argument)
{
    struct notifier *notifier = argument;
    uint64_t words[64];
    thread_name("interrupts", "");
    for (;;) {
        pulse_answer(&notifier->pulse);
        ssize_t size = read(notifier->pipe[0], words, sizeof(words));
        for (ssize_t i = 0; i < size / (ssize_t)sizeof(words[0]); i++) {
            struct vm *vm = words[i] == WAKE_WORD
                                ? NULL
                                : server_find_vm(notifier->server, words[i] >> UNIQUE_BITS);
            if (vm)
                parked_end(vm, words[i] & UNIQUE_MASK, EINTR);
        }
        if (atomic_exchange(&interrupts_lost, false))
            interrupts_find(notifier->server);
        if (!notifier_serve(notifier))
            return NULL;
    }
}

struct notifier *notifier_create(struct server *server)
{
    struct notifier *notifier = calloc(1, sizeof(*notifier));
    if (!notifier)
        return NULL;
    notifier->server = server;
    pthread_mutex_init(&notifier->lock, NULL);
    if (pipe2(notifier->pipe, O_CLOEXEC) < 0) {
        free(notifier);
        return NULL;
    }
    /* Who writes must never wait: it may hold libfuse's locks. */
    fcntl(notifier->pipe[1], F_SETFL, O_NONBLOCK);
    interrupt_pipe = notifier->pipe[1];
    int error = pthread_create(&notifier->thread, NULL, notifier_run, notifier);
    if (!error)
        return notifier;
    close(notifier->pipe[0]);
    close(notifier->pipe[1]);
    free(notifier);
    errno = error;
    return NULL;
}

void notifier_stop(struct notifier *notifier)
{
    pthread_mutex_lock(&notifier->lock);
    notifier->stopping = true;
    pthread_mutex_unlock(&notifier->lock);
    notifier_wake(notifier);
    pthread_join(notifier->thread, NULL);
}

void notifier_flush(struct notifier *notifier)
{
    notifier_serve(notifier);
}

void notifier_destroy(struct notifier *notifier)
{
    if (!notifier)
        return;
    if (!notifier->stopping)
        notifier_stop(notifier);
    interrupt_pipe = -1;
    close(notifier->pipe[0]);
    close(notifier->pipe[1]);
    text_finish(&notifier->polls);
    pthread_mutex_destroy(&notifier->lock);
    free(notifier);
}
