#include "nfs_wait.h"

#include "clock.h"
#include "config.h"
#include "fs_handle.h"
#include "nfs_lines.h"
#include "nodes.h"
#include "parked.h"
#include "process.h"
#include "pulse.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/*
 * How long it may take until the process that was told attributes wakes up and takes them. With ten
 * programs that would run for each processor, of 4,000 wake-ups of a blocked read(2) the middle one
 * took 0.02 ms, one in a hundred 29 ms, one in a thousand 127 ms, the longest 215 ms (Linux 6.18).
 * Too short a time shows a guest an older result, too long a one only makes it ask again.
 */
#define LOOK_US 300000

struct nfs_wait {
    struct server *server;
    pthread_t thread;
    struct pulse pulse;
    pthread_cond_t changed; /* CLOCK_MONOTONIC; there is something to do, or an earlier deadline */
    pthread_mutex_t lock;   /* guards all below, and VMs' nfs_waiting */
    struct nfs_turns turns;
    uint64_t hold_us;
    struct parked *again; /* to be done again */
    uint64_t lines_due_us;
    bool stopping;
    bool kernel_caches; /* it reads through the page cache */
};

enum operation { GETATTR, OPEN, READ };

struct nfs_request {
    struct parked parked;
    struct server *server;
    enum operation operation;
    fuse_ino_t ino;
    struct fuse_file_info info; /* of OPEN */
    struct handle *handle;      /* of READ; outlives it: RELEASE comes after the reply */
    uint64_t offset;
    size_t size;
    uint64_t deadline_us;
    uint64_t begun_us;
    pid_t thread; /* of GETATTR */
};

/* What a request that need not wait tells. */
struct content {
    struct blob *bytes; /* a reference */
    struct timespec changed;
};

static void request_run(struct nfs_request *request);

static bool request_answer(struct parked *parked, struct blob *result, int error)
{
    struct nfs_request *request = container_of(parked, struct nfs_request, parked);
    (void)result; /* by now the newest entry may be another one */
    if (!error) {
        request_run(request);
        return false;
    }
    /* A server that is restarted interrupts its threads. NFS cannot carry EINTR, so the guest is to
     * ask again. */
    parked_fail(parked->request, error == EINTR ? EAGAIN : error);
    free(request);
    return false;
}

/* turn_take: 0, or EAGAIN. The VM is locked. */
static int turn_take(struct nfs_request *request, struct vm *vm)
{
    struct nfs_wait *wait = request->server->nfs;
    struct nfs_turn *turn = &request->parked.turn;
    uint64_t now = clock_now_us();
    pthread_mutex_lock(&wait->lock);
    if (!request->deadline_us)
        request->deadline_us = now + wait->hold_us;
    turn->deadline_us = request->deadline_us;
    turn->unique = request->parked.unique;
    turn->vm = vm->id;
    int error =
        now < turn->deadline_us ? nfs_turns_enter(&wait->turns, turn, &vm->nfs_waiting) : EAGAIN;
    pthread_cond_signal(&wait->changed);
    pthread_mutex_unlock(&wait->lock);
    return error;
}

void nfs_wait_leave(struct nfs_wait *wait, struct nfs_turn *turn)
{
    if (!turn->waiting)
        return;
    pthread_mutex_lock(&wait->lock);
    nfs_turns_leave(&wait->turns, turn);
    pthread_mutex_unlock(&wait->lock);
}

/* park: 0, or an errno and the request is still the caller's. The VM is locked. */
static int park(struct nfs_request *request, struct vm *vm, struct job *job, bool newest)
{
    request->parked.newest = newest;
    int error = turn_take(request, vm);
    if (error)
        return error;
    if (parked_add(vm, job, &request->parked) == 0)
        return 0;
    nfs_wait_leave(request->server->nfs, &request->parked.turn);
    return atomic_load(&request->server->closing) ? EAGAIN : ENOSPC;
}

/* same_result: what is not kept in memory is another blob each time that it is asked for. */
static bool same_result(const struct blob *a, const struct blob *b)
{
    if (a == b)
        return true;
    if (a->job != b->job || a->size != b->size)
        return false;
    return a->job || memcmp(a->data, b->data, a->size) == 0;
}

/*
 * touch: READs may have brought older bytes into the kernel's cache after somebody else was told
 * the present time of the node, so that with the same time again they would stay. The VM is locked.
 */
static void touch(const struct node *node)
{
    if (!node->vm->server->nfs->kernel_caches)
        return;
    if (node->job)
        job_set_changed(node->job, clock_change());
    else
        node->vm->changed = clock_change();
}

/*
 * content_find: true, with the content or an errno; false, and the request is parked, perhaps
 * answered already. What GETATTR and OPEN find is what later READs return.
 */
static bool content_find(struct nfs_request *request, const struct node *node,
                         struct content *content, int *error)
{
    struct vm *vm = node->vm;
    struct job *pending = NULL;
    bool parked = false;
    *error = 0;
    atomic_store(&vm->nfs_reads, true);
    pthread_mutex_lock(&vm->lock);
    struct blob **told = node->job ? &node->job->told : &vm->told;
    if (request->operation == READ && *told)
        content->bytes = blob_ref(*told);
    else
        content->bytes = vm_result_now(vm, node->job, &pending);
    if (content->bytes) {
        if (*told && !same_result(*told, content->bytes))
            touch(node);
        if (*told != content->bytes)
            vm_told(vm, node->job, content->bytes);
    } else if (pending) {
        *error = park(request, vm, pending, !node->job);
        parked = !*error;
    } else {
        *error = node->job && node->job->forgotten ? ESTALE : ENOSPC;
    }
    content->changed = node->job ? job_changed(node->job) : vm->changed;
    pthread_mutex_unlock(&vm->lock);
    job_unref(pending);
    return !parked;
}

/* look_of is where it is kept what the kernel was told last; of few nodes, the newest. */
static struct nfs_look *look_of(const struct node *node)
{
    return &node->vm->looks[node->job ? 1 + node->job->number % (NFS_LOOKS - 1) : 0];
}

static bool is_said(const struct nfs_look *look, const struct stat *stat)
{
    return look->size == stat->st_size && look->changed.tv_sec == stat->st_mtim.tv_sec &&
           look->changed.tv_nsec == stat->st_mtim.tv_nsec;
}

static void look_note(struct nfs_look *look, const struct stat *stat, uint64_t until_us,
                      pid_t thread)
{
    bool others = look->ino == stat->st_ino && look->until_us >= clock_now_us();
    *look = (struct nfs_look){.ino = stat->st_ino,
                              .until_us = until_us,
                              .size = stat->st_size,
                              .changed = stat->st_mtim,
                              .thread = others && look->thread != thread ? 0 : thread};
}

void nfs_wait_looked(const struct node *node, const struct stat *stat, pid_t thread)
{
    if (!atomic_load(&node->vm->nfs_reads))
        return;
    pthread_mutex_lock(&node->vm->lock);
    look_note(look_of(node), stat, clock_now_us() + LOOK_US, thread);
    pthread_mutex_unlock(&node->vm->lock);
}

/* is_outdated: will the kernel ignore the attributes that this GETATTR is told? */
static bool is_outdated(const struct nfs_request *request, const struct node *node,
                        const struct stat *stat)
{
    if (!request->server->nfs->kernel_caches)
        return false;
    pthread_mutex_lock(&node->vm->lock);
    struct nfs_look *look = look_of(node);
    bool outdated = look->ino == stat->st_ino && look->until_us >= request->begun_us &&
                    (!look->thread || look->thread != request->thread) && !is_said(look, stat);
    if (!outdated)
        look_note(look, stat, clock_now_us(), request->thread); /* a server takes them at once */
    pthread_mutex_unlock(&node->vm->lock);
    return outdated;
}

static void reply_attr(const struct nfs_request *request, const struct node *node,
                       const struct content *content)
{
    struct stat stat;
    node_stat_as(node, (off_t)content->bytes->size, &content->changed, &stat);
    if (is_outdated(request, node, &stat))
        fuse_reply_err(request->parked.request, EAGAIN);
    else
        fuse_reply_attr(request->parked.request, &stat, 0);
}

static void reply_open(struct nfs_request *request, const struct node *node)
{
    uid_t uid = fuse_req_ctx(request->parked.request)->uid;
    int error = handle_open(node, &request->info, uid, true);
    if (error)
        fuse_reply_err(request->parked.request, error);
    else if (fuse_reply_open(request->parked.request, &request->info) < 0)
        handle_close(handle_of(&request->info));
}

static void reply_read(const struct nfs_request *request, const struct node *node,
                       const struct content *content)
{
    const struct blob *bytes = content->bytes;
    size_t start = request->offset < bytes->size ? (size_t)request->offset : bytes->size;
    size_t size = bytes->size - start < request->size ? bytes->size - start : request->size;
    if (start + size == bytes->size)
        handle_note_read(node, bytes);
    fuse_reply_buf(request->parked.request, bytes->data + start, size);
}

/* node_of finds the node again: its job may be forgotten by now. An open file has it. */
static int node_of(const struct nfs_request *request, struct node *node)
{
    if (request->operation != READ)
        return node_resolve(request->server, request->ino, node);
    *node = *handle_node(request->handle);
    if (node->job)
        job_ref(node->job);
    return 0;
}

static void request_run(struct nfs_request *request)
{
    struct node node;
    struct content content = {0};
    int error = node_of(request, &node);
    if (error) {
        fuse_reply_err(request->parked.request, error);
        free(request);
        return;
    }
    if (content_find(request, &node, &content, &error)) {
        if (error)
            fuse_reply_err(request->parked.request, error);
        else if (request->operation == GETATTR)
            reply_attr(request, &node, &content);
        else if (request->operation == OPEN)
            reply_open(request, &node);
        else
            reply_read(request, &node, &content);
        blob_unref(content.bytes);
        free(request);
    }
    node_release(&node);
}

/* request_begin runs a request that this thread is handling. */
static void request_begin(fuse_req_t fuse_request, const struct nfs_request *given)
{
    struct nfs_request *request = malloc(sizeof(*request));
    if (!request) {
        fuse_reply_err(fuse_request, ENOSPC);
        return;
    }
    *request = *given;
    request->server = fuse_req_userdata(fuse_request);
    request->parked = (struct parked){.request = fuse_request, .answer = request_answer};
    if (parked_note(&request->parked) == 0) {
        request_run(request);
        return;
    }
    fuse_reply_err(fuse_request, ENOSPC);
    free(request);
}

void nfs_wait_getattr(fuse_req_t request, const struct node *node)
{
    request_begin(request, &(struct nfs_request){.operation = GETATTR,
                                                 .ino = node_self_ino(node),
                                                 .begun_us = clock_now_us(),
                                                 .thread = fuse_req_ctx(request)->pid});
}

void nfs_wait_open(fuse_req_t request, const struct node *node, const struct fuse_file_info *info)
{
    request_begin(request, &(struct nfs_request){
                               .operation = OPEN, .ino = node_self_ino(node), .info = *info});
}

void nfs_wait_read(fuse_req_t request, struct handle *handle, size_t size, uint64_t offset)
{
    request_begin(
        request,
        &(struct nfs_request){.operation = READ, .handle = handle, .size = size, .offset = offset});
}

void nfs_wait_moved(struct vm *vm, struct job *job)
{
    struct nfs_wait *wait = vm->server->nfs;
    struct parked *list = parked_detach_newest(vm, job);
    if (!list)
        return;
    pthread_mutex_lock(&wait->lock);
    struct parked *last = list;
    while (last->next)
        last = last->next;
    last->next = wait->again;
    wait->again = list;
    pthread_cond_signal(&wait->changed);
    pthread_mutex_unlock(&wait->lock);
}

void nfs_wait_tick_at(struct nfs_wait *wait, uint64_t due_us)
{
    pthread_mutex_lock(&wait->lock);
    if (due_us < wait->lines_due_us) {
        wait->lines_due_us = due_us;
        pthread_cond_signal(&wait->changed);
    }
    pthread_mutex_unlock(&wait->lock);
}

/* The thread. */

static void wait_until(struct nfs_wait *wait, uint64_t us)
{
    if (us == UINT64_MAX) {
        pthread_cond_wait(&wait->changed, &wait->lock);
        return;
    }
    struct timespec until = {.tv_sec = (time_t)(us / 1000000),
                             .tv_nsec = (long)(us % 1000000 * 1000)};
    pthread_cond_timedwait(&wait->changed, &wait->lock, &until);
}

/* due_end ends the request whose turn is over; the lock is given up meanwhile. */
static void due_end(struct nfs_wait *wait, const struct nfs_turn *due)
{
    uint64_t unique = due->unique;
    struct vm *vm = server_find_vm(wait->server, due->vm);
    pthread_mutex_unlock(&wait->lock);
    parked_end(vm, unique, EAGAIN);
    pthread_mutex_lock(&wait->lock);
}

/* lines_end takes lines that nobody finishes; the lock is given up meanwhile. */
static void lines_end(struct nfs_wait *wait)
{
    wait->lines_due_us = UINT64_MAX;
    pthread_mutex_unlock(&wait->lock);
    uint64_t due_us = nfs_lines_tick(wait->server, clock_now_us());
    pthread_mutex_lock(&wait->lock);
    if (due_us < wait->lines_due_us)
        wait->lines_due_us = due_us;
}

static void *wait_run(void *argument)
{
    struct nfs_wait *wait = argument;
    pthread_mutex_lock(&wait->lock);
    thread_name("nfs", "wait");
    for (;;) {
        pulse_answer(&wait->pulse);
        struct parked *again = wait->again;
        const struct nfs_turn *next = nfs_turns_next(&wait->turns);
        if (again) {
            wait->again = NULL;
            pthread_mutex_unlock(&wait->lock);
            parked_answer(again, NULL);
            pthread_mutex_lock(&wait->lock);
        } else if (wait->stopping) {
            break;
        } else if (next && next->deadline_us <= clock_now_us()) {
            due_end(wait, next);
        } else if (wait->lines_due_us <= clock_now_us()) {
            lines_end(wait);
        } else {
            uint64_t us = next ? next->deadline_us : UINT64_MAX;
            wait_until(wait, us < wait->lines_due_us ? us : wait->lines_due_us);
        }
    }
    pthread_mutex_unlock(&wait->lock);
    return NULL;
}

void nfs_wait_ask(struct nfs_wait *wait)
{
    pulse_ask(&wait->pulse);
    pthread_mutex_lock(&wait->lock);
    pthread_cond_signal(&wait->changed);
    pthread_mutex_unlock(&wait->lock);
}

bool nfs_wait_is_silent(const struct nfs_wait *wait)
{
    return pulse_is_missing(&wait->pulse);
}

/* kernel_caches: does the kernel's NFS server read through the cache? */
static bool kernel_caches(void)
{
    struct utsname name;
    unsigned major, minor;
    if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
        return true;
    return major > 6 || (major == 6 && minor >= 5);
}

void nfs_wait_limit(struct nfs_wait *wait, const struct config *config)
{
    pthread_mutex_lock(&wait->lock);
    wait->hold_us = config->nfs_hold_ms * 1000;
    wait->turns.threads = config->nfs_threads;
    wait->turns.per_vm = config->nfs_waiting_per_vm;
    pthread_mutex_unlock(&wait->lock);
}

struct nfs_wait *nfs_wait_create(struct server *server)
{
    struct nfs_wait *wait = calloc(1, sizeof(*wait));
    pthread_condattr_t monotonic;
    if (!wait)
        return NULL;
    wait->server = server;
    wait->kernel_caches = kernel_caches();
    wait->lines_due_us = UINT64_MAX;
    pthread_mutex_init(&wait->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&wait->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    nfs_wait_limit(wait, server->config);
    int error = pthread_create(&wait->thread, NULL, wait_run, wait);
    if (!error)
        return wait;
    pthread_cond_destroy(&wait->changed);
    pthread_mutex_destroy(&wait->lock);
    free(wait);
    errno = error;
    return NULL;
}

void nfs_wait_stop(struct nfs_wait *wait)
{
    if (!wait || wait->stopping)
        return;
    pthread_mutex_lock(&wait->lock);
    wait->stopping = true;
    pthread_cond_signal(&wait->changed);
    pthread_mutex_unlock(&wait->lock);
    pthread_join(wait->thread, NULL);
}

void nfs_wait_destroy(struct nfs_wait *wait)
{
    if (!wait)
        return;
    pthread_cond_destroy(&wait->changed);
    pthread_mutex_destroy(&wait->lock);
    free(wait);
}
