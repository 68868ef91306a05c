#include "server.h"

#include "caller.h"
#include "clock.h"
#include "common/log.h"
#include "executor/catalogue.h"
#include "fs_handle.h"
#include "handover.h"
#include "nfs_wait.h"
#include "parked.h"
#include "pool.h"
#include "process.h"
#include "running.h"
#include "session.h"
#include "stats.h"
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long the start waits for executors; one behind ssh may come later. */
#define READY_MS 10000
/* How often the log is told how far a long start has come. */
#define RESTORE_TOLD_US UINT64_C(1000000)
/* How often the wait for running jobs looks for a second signal. */
#define STOP_LOOK_MS 50

struct vm *server_find_vm(struct server *server, unsigned id)
{
    return id <= CONFIG_MAX_VM_ID ? atomic_load(&server->vm_by_id[id]) : NULL;
}

struct vm *server_vm_of(struct server *server, uid_t uid)
{
    struct vm *vm = uid == server->root_uid ? NULL : atomic_load(&server->vms);
    while (vm && atomic_load(&vm->uid) != uid)
        vm = atomic_load(&vm->next);
    return vm;
}

struct pool *server_find_pool(struct server *server, const char *name)
{
    int index = config_find_pool(server->config, name);
    return index < 0 ? NULL : &server->pools[index];
}

/* What an earlier daemon left running is killed before anything new is started. */
static void kill_leftover(void *context, pid_t pid, uint64_t start_time)
{
    struct server *server = context;
    if (start_time && process_start_time(pid) == start_time) {
        log_warning("executor %d was left behind by an earlier daemon: killing it", pid);
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL);
    }
    state_delete_executor(server->state, pid);
}

/* The rows of the state, by VM. */
struct saved_vms {
    struct state_vm *rows; /* by id up to the largest that is configured; id 0: no row */
    size_t count;
};

/* saved_vms_make: `rows` is NULL without memory. */
static struct saved_vms saved_vms_make(const struct config *config)
{
    size_t count = 1;
    for (size_t i = 0; i < config->vm_count; i++)
        if (config->vms[i].id >= count)
            count = config->vms[i].id + 1;
    return (struct saved_vms){calloc(count, sizeof(struct state_vm)), count};
}

/* number_checked: from where to count on. What has a number already is skipped later. */
static uint64_t number_checked(const struct state_vm *row, const char *what, uint64_t next)
{
    if (next >= 1 && next <= STATE_MAX_NUMBER)
        return next;
    log_error("vm%u: the state says that the next number of its %s is %" PRIu64
              ": it is damaged, counting goes on behind those that are there",
              row->id, what, next);
    return 1;
}

static void note_saved(void *context, const struct state_vm *row)
{
    struct saved_vms *saved = context;
    if (row->id == 0 || row->id >= saved->count)
        return;
    saved->rows[row->id] = *row;
    saved->rows[row->id].next_job = number_checked(row, "jobs", row->next_job);
    saved->rows[row->id].next_file = number_checked(row, "files", row->next_file);
    saved->rows[row->id].identity = row->identity ? strdup(row->identity) : NULL;
    saved->rows[row->id].rejection = row->rejection ? strdup(row->rejection) : NULL;
    saved->rows[row->id].request_error = row->request_error ? strdup(row->request_error) : NULL;
}

static void saved_vms_finish(struct saved_vms *saved)
{
    for (size_t id = 0; saved->rows && id < saved->count; id++) {
        free((void *)(uintptr_t)saved->rows[id].identity);
        free((void *)(uintptr_t)saved->rows[id].rejection);
        free((void *)(uintptr_t)saved->rows[id].request_error);
    }
    free(saved->rows);
}

/* vm_link puts a new VM into the list, which is sorted, and into the index. */
static void vm_link(struct server *server, struct vm *vm)
{
    _Atomic(struct vm *) *link = &server->vms;
    struct vm *next;
    while ((next = atomic_load(link)) && next->id < vm->id)
        link = &next->next;
    atomic_store(&vm->next, next);
    atomic_store(link, vm);
    atomic_store(&server->vm_by_id[vm->id], vm);
}

/* Jobs that the state had go to their VMs, or stay where they are if there is no such VM now. */
struct restorer {
    struct server *server;
    uint64_t count, told_us; /* what the log was told of, and when */
};

static void restore_job(void *context, const struct state_job *saved)
{
    struct restorer *restorer = context;
    struct vm *vm = server_find_vm(restorer->server, saved->vm);
    if (vm)
        vm_restore(vm, saved);
    restorer->count++;
    if (clock_now_us() - restorer->told_us < RESTORE_TOLD_US)
        return;
    restorer->told_us = clock_now_us();
    log_info("jobs of the state: %" PRIu64 " are back, it goes on", restorer->count);
}

/* jobs_restore brings back what new VMs had, and then shows them; `vm` 0 means all. */
static int jobs_restore(struct server *server, unsigned vm, const struct saved_vms *saved)
{
    struct restorer restorer = {.server = server, .told_us = clock_now_us()};
    if (state_load_jobs(server->state, vm, restore_job, &restorer) < 0)
        return -1;
    struct vm *each = vm ? server_find_vm(server, vm) : atomic_load(&server->vms);
    for (; each; each = vm ? NULL : atomic_load(&each->next)) {
        vm_restored(each, &saved->rows[each->id]);
        each->restored = true;
        atomic_store(&each->gone, false);
    }
    return 0;
}

static void hold_pool(void *context, const char *name)
{
    struct pool *pool = server_find_pool(context, name);
    if (pool)
        pool_hold(pool, true);
}

/* vm_add makes a VM that nobody sees before `gone` is taken from it. */
static int vm_add(struct server *server, const struct config_vm *config,
                  const struct state_vm *saved)
{
    struct state_vm fresh = {.id = config->id, .next_job = 1, .next_file = 1};
    struct vm *vm = vm_create(server, config, saved && saved->id ? saved : &fresh);
    if (!vm)
        return -1;
    atomic_store(&vm->gone, true);
    vm_link(server, vm);
    return 0;
}

static int vms_create(struct server *server, struct text *error)
{
    const struct config *config = server->config;
    struct saved_vms saved = saved_vms_make(config);
    int result = -1;
    if (!saved.rows)
        goto done;
    state_load_vms(server->state, note_saved, &saved);
    for (size_t i = 0; i < config->vm_count; i++)
        if (vm_add(server, &config->vms[i], &saved.rows[config->vms[i].id]) < 0)
            goto done;
    if (jobs_restore(server, 0, &saved) < 0) {
        text_puts(error, "the jobs in the state cannot be read: see the message above");
        goto done;
    }
    state_load_held_pools(server->state, hold_pool, server);
    result = 0;
done:
    saved_vms_finish(&saved);
    if (result < 0 && !error->size)
        text_puts(error, "no memory for the VMs");
    /* One wait for the first job numbers of all of them. */
    if (result == 0 && state_wait(server->state, state_now(server->state)) != 0) {
        text_puts(error, "the state cannot be written: see the message above");
        result = -1;
    }
    if (result == 0)
        running_forget(server->running); /* the state has counted them */
    for (struct vm *vm = atomic_load(&server->vms); vm && result == 0; vm = atomic_load(&vm->next))
        vm_numbers_ready(vm);
    return result;
}

static int pools_start(struct server *server, struct text *error)
{
    if (spawner_begin(server->spawner) < 0) {
        text_puts(error, "cannot start the thread that has executors started");
        return -1;
    }
    for (size_t i = 0; i < server->pool_count; i++)
        if (pool_start(&server->pools[i]) < 0) {
            text_puts(error, "cannot start the pools: see the message above");
            return -1;
        }
    for (size_t i = 0; i < server->pool_count; i++)
        if (!pool_wait_ready(&server->pools[i], READY_MS, error))
            return -1;
    return 0;
}

static int pools_create(struct server *server, struct text *error)
{
    const struct config *config = server->config;
    server->pools = calloc(config->pool_count, sizeof(*server->pools));
    bool failed = !server->pools;
    for (size_t i = 0; !failed && i < config->pool_count; i++, server->pool_count++)
        failed = pool_init(&server->pools[i], server, (unsigned)i) < 0;
    if (!failed)
        return 0;
    text_puts(error, "cannot set up the pools: see the message above");
    return -1;
}

static void durability_take(struct server *server, const struct config *config)
{
    state_set_durability(server->state, config->durability, config->group_ms);
    atomic_store(&server->on_restart, config->on_restart);
    atomic_store(&server->max_reruns, config->max_reruns);
}

/* server_init sets what needs nothing else. -1 without memory. */
static int server_init(struct server *server, const struct config *config, bool mount_is_roots)
{
    *server = (struct server){
        .config = config,
        .catalogue = {.workloads = workload_catalogue, .count = workload_catalogue_size},
        .stop_timeout_ms = config->stop_timeout_ms,
        .started_us = clock_now_us(),
        .root_uid = mount_is_roots ? 0 : geteuid(),
        .root_gid = mount_is_roots ? 0 : getegid(),
        .vm_by_id = calloc(CONFIG_MAX_VM_ID + 1, sizeof(*server->vm_by_id)),
    };
    nfs_lines_init(&server->nfs_lines);
    nfs_views_init(&server->nfs_views);
    atomic_store(&server->log_jobs, config->log_jobs);
    atomic_store(&server->stats_mode, config->stats_mode);
    return server->vm_by_id ? 0 : -1;
}

/* state_take opens what is kept in state_dir, which from then on is ours. */
static int state_take(struct server *server, const struct config *config, struct text *error)
{
    server->state = state_open(config->state_dir, error);
    if (!server->state)
        return -1;
    durability_take(server, config);
    if (state_load_draining(server->state)) {
        atomic_store(&server->draining, true);
        log_warning("draining, as before: 'vgpuctl resume' lets jobs be accepted");
    }
    server->running = running_open(config->state_dir, error);
    return server->running ? 0 : -1;
}

int server_restore(struct server *server, const struct config *config, struct text *error)
{
    if (server_init(server, config, false) < 0) {
        text_puts(error, "no memory");
        return -1;
    }
    if (state_take(server, config, error) < 0 || pools_create(server, error) < 0)
        return -1;
    return vms_create(server, error);
}

/* enclosures_make: where kill(2) does not reach the executors, something else must. */
static int enclosures_make(struct server *server, const struct config *config, struct text *error)
{
    server->enclosures = enclosures_create(config->state_dir, spawner_pid(server->spawner));
    if (!server->enclosures) {
        text_puts(error, "no memory");
        return -1;
    }
    if (!spawner_is_other(server->spawner) || geteuid() == 0 ||
        enclosures_require(server->enclosures) == 0)
        return 0;
    text_printf(error,
                "executor_user = '%s': they could not be ended: that takes root, or a cgroup from "
                "the service manager (Delegate=yes) and Linux 5.14: see vgpufs.service",
                config->executor_user);
    return -1;
}

int server_start(struct server *server, const struct config *config,
                 const struct session_options *options, struct spawner *spawner, struct text *error)
{
    int failed = server_init(server, config, options->mount_socket != NULL);
    server->spawner = spawner;
    if (failed) {
        text_puts(error, "no memory");
        return -1;
    }
    if (options->take_over && session_take_over(config->mountpoint, options, error) < 0)
        return -1;
    if (state_take(server, config, error) < 0)
        return -1;
    if (!options->mount_socket && session_prepare(config->mountpoint, error) < 0)
        return -1;
    server->started = clock_change();
    state_load_executors(server->state, kill_leftover, server);
    if (enclosures_make(server, config, error) < 0)
        return -1;
    if (pools_create(server, error) < 0 || vms_create(server, error) < 0)
        return -1;
    server->notifier = notifier_create(server);
    if (!server->notifier) {
        text_puts(error, "cannot start the thread that answers interrupts");
        return -1;
    }
    server->callers = callers_create("/proc");
    if (!server->callers) {
        text_printf(error, "cannot open /proc: %s: mount it", strerror(errno));
        return -1;
    }
    server->nfs = nfs_wait_create(server);
    if (!server->nfs) {
        text_puts(error, "cannot start the thread that ends the waits of NFS servers");
        return -1;
    }
    if (pools_start(server, error) < 0)
        return -1;
    if (session_mount(server, config->mountpoint, options, error) < 0)
        return -1;
    atomic_store(&server->serving, true);
    return 0;
}

static void vms_destroy(struct server *server)
{
    struct vm *vm = atomic_load(&server->vms);
    for (struct vm *next; vm; vm = next) {
        next = atomic_load(&vm->next);
        vm_destroy(vm);
    }
    free(server->vm_by_id);
}

/* wait_idle gives running jobs stop_timeout, unless there is a signal more. */
static void wait_idle(struct server *server, int signals)
{
    struct pollfd hurry = {.fd = signals, .events = POLLIN};
    uint64_t deadline = clock_now_us() + server->stop_timeout_ms * 1000;
    for (size_t i = 0; i < server->pool_count; i++)
        while (!pool_wait_idle(&server->pools[i], STOP_LOOK_MS))
            if (clock_now_us() >= deadline || poll(&hurry, 1, 0) > 0)
                return;
}

/* save notes all that the next daemon is to go on with. No other thread serves. */
static void save(struct server *server, struct handover *handover)
{
    session_save(handover);
    stats_save(server, handover);
    handles_save(handover);
    nfs_lines_save(&server->nfs_lines, handover);
    nfs_views_save(&server->nfs_views, handover);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        nfs_lines_save(&vm->nfs_lines, handover);
        nfs_views_save(&vm->nfs_views, handover);
        vm_told_save(vm, handover);
        parked_save(vm, handover);
    }
}

/* pack makes the file of it. -1 and *error. */
static int pack(struct server *server, struct text *error)
{
    struct handover handover = {0};
    struct text packed = {0};
    int file = -1;
    save(server, &handover);
    handover_pack(&handover, &packed);
    if (packed.failed)
        text_puts(error, "no memory for it");
    else
        file = handover_write(&packed, error);
    text_finish(&packed);
    handover_finish(&handover);
    return file;
}

/*
 * leave brings all to rest and returns the file for the next daemon; -1 if there can be none.
 *
 * The order matters: first nothing more is read, then what was read is worked off, and after the
 * last write to the disk whoever waits now goes on waiting.
 */
static int leave(struct server *server)
{
    struct text error = {0};
    int file = -1;
    notifier_stop(server->notifier);
    session_stop_reading();
    state_settle(server->state); /* replies to close() and fsync(), results of the last moment */
    nfs_wait_stop(server->nfs);
    notifier_flush(server->notifier);
    if (state_is_failing(server->state))
        text_puts(&error, "the disk refuses what was accepted");
    else
        file = pack(server, &error);
    if (file < 0)
        log_error("cannot hand over to the next daemon: %s: mounting anew",
                  error.data ? error.data : "no memory");
    text_finish(&error);
    if (file < 0)
        return -1;
    handles_leave();
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        parked_leave(vm);
    return file;
}

/* end_waits: who waits for a job that goes on in the next daemon cannot wait in this one. */
static void end_waits(struct server *server)
{
    atomic_store(&server->closing, true);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        parked_give_up(vm);
}

void server_stop(struct server *server, int signals)
{
    bool leaving = atomic_load(&server->serving) && session_can_leave();
    int left = -1;
    atomic_store(&server->leaving, leaving);
    atomic_store(&server->stopping, true);
    if (!leaving) /* else what is accepted meanwhile is the next daemon's to run */
        atomic_store(&server->draining, true);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_stop_dispatch(&server->pools[i]);
    wait_idle(server, signals);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_stop(&server->pools[i]);
    if (leaving)
        left = leave(server);
    if (server->state && left < 0)
        state_settle(server->state); /* results of the last moment are written, and read */
    if (left < 0)
        end_waits(server);
    /* Nobody waits and nothing is notified any more: the thread goes before the
     * descriptor that it writes to, and before those that may have to answer for it to go on. */
    notifier_destroy(server->notifier);
    nfs_wait_stop(server->nfs);
    session_unmount(server, left >= 0);
    spawner_destroy(server->spawner);
    enclosures_destroy(server->enclosures);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        vm_save_numbers(vm);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_drop_queue(&server->pools[i]);
    vms_destroy(server);
    nfs_wait_destroy(server->nfs);
    nfs_lines_finish(&server->nfs_lines);
    nfs_views_finish(&server->nfs_views);
    callers_destroy(server->callers);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_finish(&server->pools[i]);
    free(server->pools);
    state_close(server->state);
    running_close(server->running);
    if (left >= 0) /* now the next one can have the state too */
        session_leave(left);
}

void server_reload(struct server *server, const struct config *config)
{
    atomic_store(&server->log_jobs, config->log_jobs);
    atomic_store(&server->stats_mode, config->stats_mode);
    server->stop_timeout_ms = config->stop_timeout_ms;
    durability_take(server, config);
    log_set_level(config->log_level);
    nfs_wait_limit(server->nfs, config);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_reload(&server->pools[i], &config->pools[i]);
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        if (config_find_vm(config, vm->id))
            continue;
        log_info("vm%u is gone from the configuration: it drains", vm->id);
        atomic_store(&vm->gone, true);
    }
    /* A VM that is new here may have lived before: its numbers go on. */
    struct saved_vms saved = saved_vms_make(config);
    if (saved.rows)
        state_load_vms(server->state, note_saved, &saved);
    for (size_t i = 0; i < config->vm_count; i++) {
        unsigned id = config->vms[i].id;
        struct vm *vm = server_find_vm(server, id);
        if (vm && vm->restored)
            vm_reload(vm, &config->vms[i]);
        else if (!saved.rows || (!vm && vm_add(server, &config->vms[i], &saved.rows[id]) < 0))
            log_error("no memory for vm%u", id);
        else if (jobs_restore(server, id, &saved) < 0)
            log_error("vm%u: not all of its jobs could be read: it is not shown before another "
                      "reload",
                      id);
        else {
            data_sweep(&server_find_vm(server, id)->data);
            if (vm)
                vm_reload(vm, &config->vms[i]);
        }
    }
    saved_vms_finish(&saved);
    for (size_t i = 0; i < server->pool_count; i++)
        pool_dispatch(&server->pools[i]);
    notifier_inval_root(server->notifier);
}

void server_expire(struct server *server)
{
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        vm_expire(vm);
}
