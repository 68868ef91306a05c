/*
 * The floor: a filesystem with the names, the mount options, the threads and
 * the cache times of vgpufs that does nothing. Every operation is answered at
 * once, from memory. What a client's calls cost here is what FUSE costs.
 *
 * usage: bench-floor MOUNTPOINT VMS
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONG_TIMEOUT 3600.0
#define THREADS      4

enum kind { ROOT, VM, SUBMIT, RESULT, FILE_OF_ZEROS };

/* A result of the size that a NOP's has. */
static const char answer[] =
    "status=done job=123456 tag=123456 command=NOP pool=A priority=1 backend=cpu "
    "device=\"AMD EPYC Processor\" wait_us=38 run_us=41 bytes=0\n";

/* As a data file of vgpufs is opened and remembered, and all of them have one size. */
#define FILE_TIMEOUT 1.0
#define MAX_READ     ((size_t)1 << 20)
static _Atomic uint64_t file_size;
static char zeros[MAX_READ];

static unsigned vms;
static struct timespec started;

static fuse_ino_t ino_of(enum kind kind, unsigned vm)
{
    return kind == ROOT ? FUSE_ROOT_ID : ((fuse_ino_t)kind << 32 | vm);
}

static enum kind kind_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? ROOT : (enum kind)(ino >> 32);
}

static double timeout_of(enum kind kind)
{
    return kind == ROOT ? LONG_TIMEOUT : kind == FILE_OF_ZEROS ? FILE_TIMEOUT : 0;
}

static void stat_of(fuse_ino_t ino, struct stat *stat)
{
    static const mode_t modes[] = {S_IFDIR | 0755, S_IFDIR | 0700, S_IFREG | 0200, S_IFREG | 0400,
                                   S_IFREG | 0600};
    enum kind kind = kind_of(ino);
    *stat = (struct stat){
        .st_ino = ino,
        .st_mode = modes[kind],
        .st_nlink = 1,
        .st_size = kind == FILE_OF_ZEROS ? (off_t)atomic_load(&file_size) : 0,
        .st_uid = getuid(),
        .st_gid = getgid(),
        .st_ctim = started,
        .st_mtim = started,
        .st_atim = started,
    };
}

static void floor_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.generation = 1, .entry_timeout = LONG_TIMEOUT};
    unsigned vm = (unsigned)(parent & UINT32_MAX);
    if (kind_of(parent) == ROOT && sscanf(name, "vm%u", &vm) == 1 && vm >= 1 && vm <= vms)
        entry.ino = ino_of(VM, vm);
    else if (kind_of(parent) == VM && strcmp(name, "submit") == 0)
        entry.ino = ino_of(SUBMIT, vm);
    else if (kind_of(parent) == VM && strcmp(name, "result") == 0)
        entry.ino = ino_of(RESULT, vm);
    else if (kind_of(parent) == VM && strcmp(name, "file") == 0)
        entry.ino = ino_of(FILE_OF_ZEROS, vm);
    if (!entry.ino) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    entry.attr_timeout = timeout_of(kind_of(entry.ino));
    stat_of(entry.ino, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void floor_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat stat;
    (void)info;
    stat_of(ino, &stat);
    fuse_reply_attr(request, &stat, timeout_of(kind_of(ino)));
}

static void floor_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *wanted, int to_set,
                          struct fuse_file_info *info)
{
    if (to_set & FUSE_SET_ATTR_SIZE)
        atomic_store(&file_size, (uint64_t)wanted->st_size);
    floor_getattr(request, ino, info);
}

static void floor_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    bool is_file = kind_of(ino) == FILE_OF_ZEROS;
    info->direct_io = !is_file || (info->flags & O_ACCMODE) == O_WRONLY;
    info->keep_cache = is_file;
    fuse_reply_open(request, info);
}

static void floor_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    size_t whole = sizeof(answer) - 1, start = (size_t)offset < whole ? (size_t)offset : whole;
    (void)info;
    if (kind_of(ino) == FILE_OF_ZEROS) {
        fuse_reply_buf(request, zeros, size < MAX_READ ? size : MAX_READ);
        return;
    }
    fuse_reply_buf(request, answer + start, size < whole - start ? size : whole - start);
}

static void floor_write_buf(fuse_req_t request, fuse_ino_t ino, struct fuse_bufvec *in,
                            off_t offset, struct fuse_file_info *info)
{
    uint64_t end = (uint64_t)offset + fuse_buf_size(in);
    (void)info;
    if (kind_of(ino) == FILE_OF_ZEROS && atomic_load(&file_size) < end)
        atomic_store(&file_size, end); /* one writer */
    fuse_reply_write(request, fuse_buf_size(in));
}

static void floor_done(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    (void)info;
    fuse_reply_err(request, 0);
}

static void floor_fsync(fuse_req_t request, fuse_ino_t ino, int data_only,
                        struct fuse_file_info *info)
{
    (void)data_only;
    floor_done(request, ino, info);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = floor_lookup,
    .getattr = floor_getattr,
    .setattr = floor_setattr,
    .open = floor_open,
    .read = floor_read,
    .write_buf = floor_write_buf,
    .flush = floor_done,
    .fsync = floor_fsync,
    .release = floor_done,
};

static void *receive(void *argument)
{
    struct fuse_session *session = argument;
    struct fuse_buf buffer = {0};
    while (!fuse_session_exited(session)) {
        int size = fuse_session_receive_buf(session, &buffer);
        if (size == -EINTR)
            continue;
        if (size <= 0)
            break;
        fuse_session_process_buf(session, &buffer);
    }
    free(buffer.mem);
    return NULL;
}

int main(int argc, char **argv)
{
    char program[] = "floor", flag[] = "-o";
    char options[128];
    char *words[] = {program, flag, options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    pthread_t threads[THREADS];
    sigset_t ends;
    int number;
    if (argc != 3) {
        fputs("usage: bench-floor MOUNTPOINT VMS\n", stderr);
        return 2;
    }
    vms = (unsigned)strtoul(argv[2], NULL, 10);
    clock_gettime(CLOCK_REALTIME, &started);
    snprintf(options, sizeof(options),
             "fsname=floor,subtype=floor,default_permissions,nosuid,nodev,noexec%s",
             geteuid() == 0 ? ",allow_other" : ""); /* as vgpufs does */
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    if (!session || fuse_session_mount(session, argv[1]) < 0) {
        fprintf(stderr, "bench-floor: cannot mount %s: see the message above\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, receive, session) != 0)
            return 1;
    sigwait(&ends, &number);
    /* The threads sit in read(2); the process' end takes them, and the mount with it. */
    fuse_session_unmount(session);
    fuse_opt_free_args(&args);
    _exit(0);
}
