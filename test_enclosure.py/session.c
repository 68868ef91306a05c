#include "session.h"

#include "fs.h"
#include "fs_handle.h"
#include "holder_client.h"
#include "parked.h"
#include "process.h"
#include "pulse.h"
#include "server.h"

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
    sem_t greeted; /* posted by the kernel's INIT */
    bool is_held;  /* vgpufs-mount has made the mount, and unmounts it */
    atomic_bool stopping, taken_away;
    struct fuse_lowlevel_ops operations;
} session;

static void session_init(void *userdata, struct fuse_conn_info *connection)
{
    fs_operations.init(userdata, connection);
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
    while (!fuse_session_exited(fuse)) {
        pulse_answer(pulse);
        int size = fuse_session_receive_buf(fuse, &buffer);
        if (size == -EINTR)
            continue;
        if (size <= 0)
            break;
        /* What is spliced is a large write, which never waits for a job. */
        const struct fuse_in_header *header = buffer.mem;
        parked_current_unique = buffer.flags & FUSE_BUF_IS_FD ? 0 : header->unique;
        fuse_session_process_buf(fuse, &buffer);
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

/* mount_held takes the mount from vgpufs-mount. */
static int mount_held(struct fuse_session *fuse, const char *mountpoint, const char *socket_path,
                      struct text *error)
{
    char path[32];
    int device = holder_take(socket_path, mountpoint, error);
    if (device < 0)
        return -1;
    /* In place of a mountpoint, "/dev/fd/N" is a descriptor that is mounted already; it becomes
     * libfuse's: fuse_session_mount in fuse_lowlevel.c. */
    snprintf(path, sizeof(path), "/dev/fd/%d", device);
    if (fuse_session_mount(fuse, path) == 0)
        return 0;
    text_puts(error, "libfuse refuses the descriptor of vgpufs-mount: see its message above");
    close(device);
    holder_leave();
    return -1;
}

static int mount_here(struct fuse_session *fuse, const char *mountpoint, struct text *error)
{
    if (fuse_session_mount(fuse, mountpoint) == 0)
        return 0;
    text_printf(error, "cannot mount %s: is there a /dev/fuse that may be used, and fusermount3?",
                mountpoint);
    return -1;
}

int session_mount(struct server *server, const char *mountpoint,
                  const struct session_options *options, struct text *error)
{
    struct fuse_session *fuse = fuse_new(server, options, error);
    if (!fuse)
        return -1;
    session.is_held = options->mount_socket != NULL;
    int result = session.is_held ? mount_held(fuse, mountpoint, options->mount_socket, error)
                                 : mount_here(fuse, mountpoint, error);
    if (result < 0) {
        fuse_session_destroy(fuse);
        return -1;
    }
    sem_init(&session.greeted, 0, 0);
    server->session = fuse;
    if (threads_start(fuse, error) == 0)
        return 0;
    session_unmount(server);
    return -1;
}

void session_unmount(struct server *server)
{
    if (!server->session)
        return;
    handles_wait_readers(LAST_READ_MS);
    atomic_store(&session.stopping, true);
    fuse_session_exit(server->session);
    for (unsigned i = 0; i < session.thread_count; i++) {
        struct timespec pause = {.tv_nsec = 2000000};
        /* A thread may have looked at the flag just before it was set: kick it until it ends. */
        while (pthread_tryjoin_np(session.threads[i], NULL) != 0) {
            pthread_kill(session.threads[i], SIGUSR1);
            nanosleep(&pause, NULL);
        }
    }
    session.thread_count = 0;
    if (!session.is_held)
        fuse_session_unmount(server->session);
    fuse_session_destroy(server->session);
    holder_leave();
    handles_finish();
    server->session = NULL;
    sem_destroy(&session.greeted);
}
