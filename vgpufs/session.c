#include "session.h"

#include "data.h"
#include "fs.h"
#include "fs_handle.h"
#include "holder_client.h"
#include "nfs_lines.h"
#include "nfs_view.h"
#include "parked.h"
#include "process.h"
#include "pulse.h"
#include "server.h"
#include "stats.h"
#include "vm.h"
#include "worker.h"

#include "common/log.h"

#include <errno.h>
#include <linux/fuse.h>
#include <mntent.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 16
#define MIN_THREADS 4
#define HELLO_S     10
/* How long the stop waits for readers whose job has ended. */
#define LAST_READ_MS 300

extern char **environ;

/* One mount a process. */
static struct {
    pthread_t threads[MAX_THREADS];
    struct pulse pulses[MAX_THREADS];
    _Atomic(struct fuse_session *) fuse; /* what they serve */
    unsigned thread_count;
    sem_t greeted;            /* posted by the kernel's INIT */
    bool is_held;             /* vgpufs-mount has made the mount, and unmounts it */
    struct holder_gift gift;  /* what it gave, until it is used; .device -1: nothing */
    struct text init;         /* the kernel's INIT */
    uint64_t want, max_write; /* what it was answered */
    atomic_bool stopping, taken_away;
    struct fuse_lowlevel_ops operations;
} session = {.gift = {-1, -1}};

static void session_init(void *userdata, struct fuse_conn_info *connection)
{
    fs_operations.init(userdata, connection);
    session.want = connection->want;
    session.max_write = connection->max_write;
    sem_post(&session.greeted);
}

int session_is_private(void)
{
    char line[256];
    int private = 1;
    FILE *file = geteuid() == 0 ? NULL : fopen("/etc/fuse.conf", "re");
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, " \t\r\n")] = '\0';
        if (strcmp(line, "user_allow_other") == 0)
        private = 0;
    }
    if (file)
        fclose(file);
    return geteuid() == 0 ? 0 : private;
}

/* run_fusermount unmounts as a plain user. */
static int run_fusermount(const char *mountpoint)
{
    char *path = strdup(mountpoint);
    char program[] = "fusermount3", unmount[] = "-u", lazily[] = "-z", quiet[] = "-q", end[] = "--";
    char *arguments[] = {program, unmount, lazily, quiet, end, path, NULL};
    pid_t pid;
    int status = -1;
    if (path && posix_spawnp(&pid, program, NULL, NULL, arguments, environ) == 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
    free(path);
    return status == 0 ? 0 : -1;
}

/* is_mounted: is there a vgpufs on the mountpoint, alive or dead? */
static int is_mounted(const char *mountpoint)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    int found = 0;
    for (struct mntent *entry; mounts && (entry = getmntent(mounts));)
        if (strcmp(entry->mnt_dir, mountpoint) == 0)
            found = strcmp(entry->mnt_type, "fuse.vgpufs") == 0;
    if (mounts)
        endmntent(mounts);
    return found;
}

/*
 * session_prepare makes the folder if it is missing, and takes a dead mount away. A dead one
 * answers ENOTCONN: its daemon is gone, since closing /dev/fuse aborts the connection.
 */
int session_prepare(const char *mountpoint, struct text *error)
{
    struct stat stat_buffer;
    struct statfs statfs_buffer;
    for (int tries = 0; tries < 8; tries++) {
        /* statfs goes to the daemon; stat of a dead root may be answered from the kernel's cache.
         */
        if (statfs(mountpoint, &statfs_buffer) == 0 && stat(mountpoint, &stat_buffer) == 0) {
            if (is_mounted(mountpoint)) {
                text_printf(error,
                            "%s is a vgpufs mount already: stop its daemon or name another "
                            "mountpoint",
                            mountpoint);
                return -1;
            }
            if (S_ISDIR(stat_buffer.st_mode))
                return 0;
            text_printf(error, "%s is no folder: name another mountpoint", mountpoint);
            return -1;
        }
        if (errno == ENOENT && mkdir(mountpoint, 0755) == 0)
            continue;
        if (errno != ENOTCONN && errno != ECONNABORTED)
            break;
        log_warning("%s was left behind by a daemon that died: unmounting it", mountpoint);
        if (umount2(mountpoint, MNT_DETACH) < 0 && run_fusermount(mountpoint) < 0) {
            text_printf(error,
                        "cannot unmount the dead %s: run 'fusermount3 -u -z %s' as its owner",
                        mountpoint, mountpoint);
            return -1;
        }
    }
    text_printf(error, "cannot use mountpoint %s: %s: create it or name another", mountpoint,
                strerror(errno));
    return -1;
}

static void kick(int number)
{
    (void)number; /* it only ends a read of /dev/fuse with EINTR */
}

/* request_process hands a request to libfuse. */
static void request_process(struct fuse_session *fuse, struct fuse_buf *buffer)
{
    /* What is spliced is a large write, which never waits for a job. */
    const struct fuse_in_header *header = buffer->flags & FUSE_BUF_IS_FD ? NULL : buffer->mem;
    parked_current = (struct parked_current){header, header ? buffer->size : 0};
    if (header && header->opcode == FUSE_INIT && !session.init.size)
        text_append(&session.init, header, buffer->size);
    fuse_session_process_buf(fuse, buffer);
}

/* The loop does not end by fuse_session_exit: fuse_session_receive_buf drops a request that it has
 * read when it sees that, and the next daemon would never see it. */
static void *receive_run(void *argument)
{
    struct pulse *pulse = argument;
    struct fuse_session *fuse = atomic_load(&session.fuse);
    struct fuse_buf buffer = {0};
    thread_name("mount", "");
    sigset_t kicks;
    sigemptyset(&kicks);
    sigaddset(&kicks, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &kicks, NULL);
    while (!atomic_load(&session.stopping) && !fuse_session_exited(fuse)) {
        pulse_answer(pulse);
        int size = fuse_session_receive_buf(fuse, &buffer);
        if (size == -EINTR)
            continue;
        if (size <= 0)
            break;
        request_process(fuse, &buffer);
    }
    free(buffer.mem);
    if (!atomic_load(&session.stopping))
        atomic_store(&session.taken_away, true);
    /* Unmounted from outside, or stopping: the main thread ends the rest in either case. */
    kill(getpid(), SIGTERM);
    return NULL;
}

static unsigned thread_count(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned wanted = cores > 0 ? 2 * (unsigned)cores : MIN_THREADS;
    return wanted < MIN_THREADS ? MIN_THREADS : wanted > MAX_THREADS ? MAX_THREADS : wanted;
}

static int threads_start(struct fuse_session *fuse, struct text *error)
{
    struct sigaction action = {.sa_handler = kick};
    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&session.fuse, fuse);
    workers_share(thread_count() / 2);
    for (unsigned i = 0; i < thread_count(); i++) {
        if (pthread_create(&session.threads[i], NULL, receive_run, &session.pulses[i]) != 0) {
            text_puts(error, "cannot start the threads that serve the mount");
            return -1;
        }
        session.thread_count++;
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HELLO_S;
    while (sem_timedwait(&session.greeted, &until) < 0) {
        if (errno == EINTR)
            continue;
        text_puts(error, "the kernel does not answer on /dev/fuse");
        return -1;
    }
    return 0;
}

void session_ask(void)
{
    for (unsigned i = 0; i < session.thread_count; i++) {
        pulse_ask(&session.pulses[i]);
        pthread_kill(session.threads[i], SIGUSR1);
    }
}

bool session_is_silent(void)
{
    for (unsigned i = 0; i < session.thread_count; i++)
        if (pulse_is_missing(&session.pulses[i]))
            return true;
    return false;
}

bool session_was_taken_away(void)
{
    return atomic_load(&session.taken_away);
}

/* fuse_new makes the session, not mounted yet; NULL and *error. */
static struct fuse_session *fuse_new(struct server *server, const struct session_options *options,
                                     struct text *error)
{
    struct text mount_options = {0};
    char program[] = "vgpufs", flag[] = "-o";
    text_puts(&mount_options,
              "fsname=vgpufs,subtype=vgpufs,default_permissions,nosuid,nodev,noexec");
    if (!session_is_private())
        text_puts(&mount_options, ",allow_other");
    if (options->mount_options)
        text_printf(&mount_options, ",%s", options->mount_options);
    if (mount_options.failed) {
        text_puts(error, "no memory");
        return NULL;
    }
    char *arguments[] = {program, flag, mount_options.data, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
    session.operations = fs_operations;
    session.operations.init = session_init;
    struct fuse_session *fuse =
        fuse_session_new(&args, &session.operations, sizeof(session.operations), server);
    fuse_opt_free_args(&args);
    text_finish(&mount_options);
    if (!fuse)
        text_puts(error, "libfuse refuses the mount options: see its message above");
    return fuse;
}

int session_take_over(const char *mountpoint, const struct session_options *options,
                      struct text *error)
{
    session.is_held = true;
    return holder_take(options->mount_socket, mountpoint, true, &session.gift, error);
}

/* left_read reads what the daemon before has left: 1, 0 if that is nothing, -1 and *error. */
static int left_read(struct handover *handover, struct text *packed, struct text *error)
{
    if (session.gift.state < 0)
        return 0;
    if (handover_read(session.gift.state, packed, error) < 0 ||
        handover_parse(handover, packed->data, packed->size, error) < 0)
        return -1;
    if (handover->session.library == (uint64_t)fuse_version())
        return 1;
    text_printf(error, "of libfuse %u, and this one is %d", (unsigned)handover->session.library,
                fuse_version());
    handover_finish(handover);
    return -1;
}

/*
 * mount_take takes the mount from vgpufs-mount, unless that was done before, and reads what was
 * left. What cannot be read is no reason not to serve: then the mount is made anew, as after a
 * crash.
 */
static int mount_take(const char *mountpoint, const char *socket_path, struct handover *handover,
                      struct text *packed, struct text *error)
{
    struct text why = {0};
    if (session.gift.device < 0 &&
        holder_take(socket_path, mountpoint, false, &session.gift, error) < 0)
        return -1;
    int result = left_read(handover, packed, &why);
    if (result < 0) {
        log_error("what the daemon before has left is %s: mounting anew, and who waited gets an "
                  "error",
                  why.data ? why.data : "too large for the memory");
        text_finish(packed);
        close(session.gift.device);
        close(session.gift.state);
        session.gift = (struct holder_gift){-1, -1};
        holder_drop();
        result = holder_take(socket_path, mountpoint, false, &session.gift, error);
    }
    text_finish(&why);
    return result;
}

/* mount_held makes the session on the descriptor of vgpufs-mount. */
static int mount_held(struct fuse_session *fuse, struct text *error)
{
    char path[32];
    int device = session.gift.device;
    session.gift.device = -1;
    /* In place of a mountpoint, "/dev/fd/N" is a descriptor that is mounted already; it becomes
     * libfuse's: fuse_session_mount in fuse_lowlevel.c. */
    snprintf(path, sizeof(path), "/dev/fd/%d", device);
    if (fuse_session_mount(fuse, path) == 0)
        return 0;
    text_puts(error, "libfuse refuses the descriptor of vgpufs-mount: see its message above");
    close(device);
    return -1;
}

/* --- going on with what was left --- */

/* No request has this number: the kernel counts up from 0. Nor is it 0, a notification's, or odd,
 * an interrupt's. The kernel refuses the answer with ENOENT, as that to an interrupted request. */
#define UNUSED_UNIQUE (UINT64_MAX - 1)

static void replay(struct fuse_session *fuse, const struct handover_bytes *request, bool unanswered)
{
    union {
        struct fuse_in_header header;
        char bytes[HANDOVER_MAX_INIT];
    } copy;
    struct fuse_buf buffer = {.mem = &copy, .size = request->size};
    memcpy(&copy, request->data, request->size);
    if (unanswered)
        copy.header.unique = UNUSED_UNIQUE;
    request_process(fuse, &buffer);
}

/* rooms_restore gives the rooms what is theirs. */
static int rooms_restore(struct server *server, const struct handover *handover)
{
    const struct handover_lines *lines = handover->lines.items;
    const struct handover_view *views = handover->views.items;
    const struct handover_told *told = handover->told.items;
    int result = handles_restore(server, handover);
    for (size_t i = 0; i < handover->lines.count && result == 0; i++)
        result = nfs_lines_restore(server, &lines[i]);
    for (size_t i = 0; i < handover->views.count && result == 0; i++)
        result = nfs_view_restore(server, handover, &views[i]);
    for (size_t i = 0; i < handover->told.count; i++)
        vm_told_restore(server, handover, &told[i]);
    stats_restore(server, handover);
    return result;
}

static int restore(struct server *server, const struct handover *handover, struct text *error)
{
    const struct handover_request *requests = handover->requests.items;
    replay(server->session, &handover->session.init, true);
    if (session.want != handover->session.want ||
        session.max_write != handover->session.max_write) {
        text_puts(error, "the daemon before has agreed with the kernel on other things than this "
                         "one would: start it once more");
        return -1;
    }
    if (rooms_restore(server, handover) < 0) {
        text_puts(error, "no memory for what the daemon before has left: start it once more");
        return -1;
    }
    log_info("going on with %zu open files and %zu requests that wait", handover->handles.count,
             handover->requests.count);
    for (size_t i = 0; i < handover->requests.count; i++)
        replay(server->session, &requests[i].bytes, false);
    return 0;
}

static int mount_here(struct fuse_session *fuse, const char *mountpoint, struct text *error)
{
    if (fuse_session_mount(fuse, mountpoint) == 0)
        return 0;
    text_printf(error, "cannot mount %s: is there a /dev/fuse that may be used, and fusermount3?",
                mountpoint);
    return -1;
}

static int serve_mount(struct server *server, const char *mountpoint,
                       const struct handover *handover, struct text *error)
{
    struct fuse_session *fuse = server->session;
    int result = session.is_held ? mount_held(fuse, error) : mount_here(fuse, mountpoint, error);
    if (result < 0) {
        fuse_session_destroy(fuse);
        server->session = NULL;
        return -1;
    }
    sem_init(&session.greeted, 0, 0);
    if (handover && restore(server, handover, error) < 0)
        return -1;
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        data_sweep(&vm->data);
    return threads_start(fuse, error);
}

int session_mount(struct server *server, const char *mountpoint,
                  const struct session_options *options, struct text *error)
{
    struct handover handover = {0};
    struct text packed = {0};
    int left = 0;
    session.is_held = options->mount_socket != NULL;
    server->session = fuse_new(server, options, error);
    if (!server->session)
        return -1;
    if (session.is_held)
        left = mount_take(mountpoint, options->mount_socket, &handover, &packed, error);
    if (session.gift.state >= 0)
        close(session.gift.state);
    session.gift.state = -1;
    int result =
        left < 0 ? -1 : serve_mount(server, mountpoint, left > 0 ? &handover : NULL, error);
    if (left > 0)
        handover_finish(&handover);
    text_finish(&packed);
    if (result < 0 && left > 0) /* who waits would wait for ever */
        holder_drop();
    return result;
}

bool session_can_leave(void)
{
    return session.is_held && holder_connection() >= 0 && session.init.size &&
           !atomic_load(&session.taken_away);
}

void session_stop_reading(void)
{
    atomic_store(&session.stopping, true);
    for (unsigned i = 0; i < session.thread_count; i++) {
        struct timespec pause = {.tv_nsec = 2000000};
        /* A thread may have looked at the flag just before it was set: kick it until it ends. */
        while (pthread_tryjoin_np(session.threads[i], NULL) != 0) {
            pthread_kill(session.threads[i], SIGUSR1);
            nanosleep(&pause, NULL);
        }
    }
    session.thread_count = 0;
    workers_wait(); /* they reply */
}

void session_save(struct handover *handover)
{
    handover->session = (struct handover_session){
        .init = {session.init.data, session.init.size},
        .library = (uint64_t)fuse_version(),
        .want = session.want,
        .max_write = session.max_write,
    };
}

void session_leave(int state)
{
    holder_leave(state);
    close(state);
}

void session_unmount(struct server *server, bool left)
{
    if (session.gift.device >= 0) { /* it has not come to serving */
        close(session.gift.device);
        holder_leave(session.gift.state);
    }
    if (server->session) {
        if (!left)
            handles_wait_readers(LAST_READ_MS);
        session_stop_reading();
        if (!session.is_held)
            fuse_session_unmount(server->session);
        fuse_session_destroy(server->session);
        handles_finish();
        server->session = NULL;
        sem_destroy(&session.greeted);
    }
    if (!left)
        holder_leave(-1);
    text_finish(&session.init);
}
