/* vgpufs-mount(8): holds the mount for a vgpufs that has no privileges. */
#include "exports.h"
#include "holder.h"
#include "message.h"

#include "common/log.h"
#include "common/number.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXIT_USAGE 2

static const char help_text[] =
    "usage: vgpufs-mount [--user=NAME] [--socket=PATH] [--wait=SECONDS] [MOUNTPOINT]\n"
    "\n"
    "Mounts the tree of a vgpufs that has no privileges itself, gives it /dev/fuse over a socket,\n"
    "and keeps the mount while vgpufs restarts. Runs as root, in the foreground.\n"
    "\n"
    "  --user=NAME      whose processes may take the mount, beside root's (default vgpufs)\n"
    "  --socket=PATH    where they ask for it (default " MOUNT_SOCKET ")\n"
    "  --wait=SECONDS   how long calls into the mount wait for a vgpufs (default 60)\n"
    "  --help           this text\n"
    "  --version        the version\n"
    "\n"
    "MOUNTPOINT is an absolute path, by default /mnt/vgpu; vgpufs.conf must name the same.\n";

static const struct option long_options[] = {
    {"user", required_argument, NULL, 'u'}, {"socket", required_argument, NULL, 's'},
    {"wait", required_argument, NULL, 'w'}, {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},    {0},
};

struct options {
    const char *user, *socket, *mountpoint;
    uint64_t wait_s;
};

static int print(const char *text)
{
    fputs(text, stdout);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int usage_error(const char *word, const char *what)
{
    log_error("'%s': %s: try 'vgpufs-mount --help'", word, what);
    return EXIT_USAGE;
}

/* options_read returns -1 to go on, or the exit status. */
static int options_read(int argc, char **argv, struct options *options)
{
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (option) {
        case 'u':
            options->user = optarg;
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'w':
            if (number_parse(optarg, 1, 86400, &options->wait_s) < 0)
                return usage_error(optarg, "not a number of seconds from 1 to 86400");
            break;
        case 'h':
            return print(help_text);
        case 'V':
            return print("vgpufs-mount " VGPUFS_VERSION "\n");
        default:
            return usage_error(argv[optind - 1], "unknown, or lacks its value");
        }
    }
    if (optind < argc)
        options->mountpoint = argv[optind++];
    if (optind < argc)
        return usage_error(argv[optind], "one mountpoint is enough");
    if (options->mountpoint[0] != '/' || options->socket[0] != '/')
        return usage_error(options->mountpoint[0] != '/' ? options->mountpoint : options->socket,
                           "not an absolute path");
    return -1;
}

/*
 * mountpoint_resolve gives the path as /proc/self/mounts shows it: without symbolic links, but
 * without a look at the mountpoint itself, where a dead mount may lie. NULL and a message.
 */
static char *mountpoint_resolve(const char *path)
{
    char *copy = strdup(path), *resolved = NULL, *parent = NULL;
    for (size_t size = copy ? strlen(copy) : 0; size > 1 && copy[size - 1] == '/'; size--)
        copy[size - 1] = '\0';
    char *slash = copy ? strrchr(copy, '/') : NULL;
    if (slash) {
        *slash = '\0';
        parent = realpath(slash == copy ? "/" : copy, NULL);
    }
    if (!parent)
        log_error("%s: %s: name a folder, or one that can be made", path, strerror(errno));
    else if (strcmp(slash + 1, "") == 0 || strcmp(slash + 1, ".") == 0 ||
             strcmp(slash + 1, "..") == 0)
        log_error("%s: no mountpoint: name a folder below /", path);
    else if (asprintf(&resolved, "%s/%s", parent[1] ? parent : "", slash + 1) < 0)
        resolved = NULL;
    free(parent);
    free(copy);
    return resolved;
}

/* user_find: a name, or a number. */
static int user_find(const char *name, uid_t *uid)
{
    uint64_t number;
    const struct passwd *entry = getpwnam(name);
    if (entry) {
        *uid = entry->pw_uid;
        return 0;
    }
    if (number_parse(name, 0, UINT_MAX - 1, &number) == 0) {
        *uid = (uid_t)number;
        return 0;
    }
    log_error("there is no user %s: make it, as with 'useradd --system %s', or name another with "
              "--user",
              name, name);
    return -1;
}

/* tell_manager is sd_notify(3) without its library. */
static void tell_manager(const char *state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = getenv("NOTIFY_SOCKET");
    size_t size = name ? strlen(name) : 0;
    if (size < 2 || size >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, name, size);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size)) < 0)
        log_warning("cannot tell the service manager %s: %s", state, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static int signals_take(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* signals_serve returns true when it is to stop. */
static bool signals_serve(int signals)
{
    struct signalfd_siginfo info;
    bool stop = false;
    while (read(signals, &info, sizeof(info)) == sizeof(info))
        stop = stop || info.ssi_signo != SIGCHLD;
    exports_reap();
    return stop;
}

/* serve returns the exit status. */
static int serve(struct holder *holder, int signals)
{
    struct pollfd polls[HOLDER_POLLS + 1];
    for (;;) {
        unsigned count = holder_polls(holder, polls);
        polls[count] = (struct pollfd){.fd = signals, .events = POLLIN};
        if (poll(polls, count + 1, holder_timeout_ms(holder)) < 0 && errno != EINTR) {
            log_error("poll: %s: start it again", strerror(errno));
            return EXIT_FAILURE;
        }
        if (polls[count].revents && signals_serve(signals))
            return EXIT_SUCCESS;
        if (holder_serve(holder, polls, count) < 0)
            return EXIT_FAILURE;
    }
}

int main(int argc, char **argv)
{
    struct options options = {
        .user = "vgpufs", .socket = MOUNT_SOCKET, .mountpoint = "/mnt/vgpu", .wait_s = 60};
    log_init("vgpufs-mount", LOG_LEVEL_INFO);
    int status = options_read(argc, argv, &options);
    if (status >= 0)
        return status;
    struct holder holder = {.socket_path = options.socket, .patience_ms = options.wait_s * 1000};
    if (user_find(options.user, &holder.user) < 0)
        return EXIT_FAILURE;
    char *mountpoint = mountpoint_resolve(options.mountpoint);
    if (!mountpoint)
        return EXIT_FAILURE;
    holder.device.mountpoint = mountpoint;
    int signals = signals_take();
    signal(SIGPIPE, SIG_IGN);
    status = EXIT_FAILURE;
    if (signals < 0)
        log_error("signalfd: %s: start it again", strerror(errno));
    else if (holder_start(&holder) == 0) {
        tell_manager("READY=1");
        status = serve(&holder, signals);
        tell_manager("STOPPING=1");
    }
    if (signals >= 0) {
        holder_finish(&holder);
        close(signals);
    }
    free(mountpoint);
    return status;
}
