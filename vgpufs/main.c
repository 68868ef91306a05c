/* vgpufs(8): options, configuration, start and stop. */
#include "check.h"
#include "clock.h"
#include "common/log.h"
#include "config.h"
#include "holder_client.h"
#include "nfs_exports.h"
#include "server.h"
#include "session.h"
#include "stats.h"
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_USAGE 2
#define EXPIRE_MS  60000

struct options {
    const char *config_file, *mountpoint;
    struct session_options session;
    bool foreground, check, exports;
};

static const char help_text[] =
    "usage: vgpufs [-c FILE] [-f] [-o OPTIONS] [MOUNTPOINT]\n"
    "       vgpufs [-c FILE] --check | --exports\n"
    "\n"
    "Mounts the GPU job queue of many virtual machines as a filesystem and serves it.\n"
    "Without -f it goes to the background; the parent exits 0 when all is mounted.\n"
    "\n"
    "  -c, --config=FILE    configuration (default " CONFIG_DEFAULT_FILE ")\n"
    "  -f, --foreground     stay in the foreground and log to standard error\n"
    "  -o, --options=LIST   further mount options for fuse(8)\n"
    "      --mount-socket=PATH\n"
    "                       take the mount from vgpufs-mount(8), which listens there\n"
    "      --take-over      have the daemon that serves leave, and go on in its place\n"
    "      --check          check the configuration and this machine, and exit\n"
    "      --exports        print the lines of /etc/exports for the VMs, and exit\n"
    "      --help-config    list every key of the configuration with its default\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "Signals: SIGTERM and SIGINT stop it, running jobs get stop_timeout; SIGHUP reads\n"
    "the configuration again.\n"
    "See vgpufs(8), vgpufs(7) for the tree, vgpufs.conf(5).\n";

enum {
    OPTION_CHECK = 256,
    OPTION_EXPORTS,
    OPTION_HELP_CONFIG,
    OPTION_MOUNT_SOCKET,
    OPTION_TAKE_OVER
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"foreground", no_argument, NULL, 'f'},
    {"options", required_argument, NULL, 'o'},
    {"mount-socket", required_argument, NULL, OPTION_MOUNT_SOCKET},
    {"take-over", no_argument, NULL, OPTION_TAKE_OVER},
    {"check", no_argument, NULL, OPTION_CHECK},
    {"exports", no_argument, NULL, OPTION_EXPORTS},
    {"help-config", optional_argument, NULL, OPTION_HELP_CONFIG},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

/* help_config prints the keys, for people or (=mdoc) for the manual's build. */
static int help_config(const char *format)
{
    if (format && strcmp(format, "mdoc") != 0) {
        fprintf(stderr, "vgpufs: --help-config=%s: only =mdoc is another format\n", format);
        return EXIT_USAGE;
    }
    if (format)
        config_print_mdoc(stdout);
    else
        config_print_help(stdout);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* options_read returns -1 to go on, or the exit status. */
static int options_read(int argc, char **argv, struct options *options)
{
    *options = (struct options){.config_file = CONFIG_DEFAULT_FILE};
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, "c:fo:hV", long_options, NULL)) != -1;) {
        switch (option) {
        case 'c':
            options->config_file = optarg;
            break;
        case 'f':
            options->foreground = true;
            break;
        case 'o':
            options->session.mount_options = optarg;
            break;
        case OPTION_MOUNT_SOCKET:
            options->session.mount_socket = optarg;
            break;
        case OPTION_TAKE_OVER:
            options->session.take_over = true;
            break;
        case OPTION_CHECK:
            options->check = true;
            break;
        case OPTION_EXPORTS:
            options->exports = true;
            break;
        case OPTION_HELP_CONFIG:
            return help_config(optarg);
        case 'h':
            fputs(help_text, stdout);
            return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        case 'V':
            puts("vgpufs " VGPUFS_VERSION);
            return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        default:
            fprintf(stderr, "vgpufs: '%s' is unknown or lacks its value: try 'vgpufs --help'\n",
                    argv[optind - 1]);
            return EXIT_USAGE;
        }
    }
    if (optind < argc)
        options->mountpoint = argv[optind++];
    if (options->session.take_over && !options->session.mount_socket) {
        fputs("vgpufs: --take-over: only a mount of vgpufs-mount(8) can be taken over: name its "
              "socket with --mount-socket\n",
              stderr);
        return EXIT_USAGE;
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "vgpufs: '%s': one mountpoint is enough: try 'vgpufs --help'\n", argv[optind]);
    return EXIT_USAGE;
}

/* Going to the background: the parent waits until the child is ready or has failed. */

static int ready_pipe = -1;

/* background_enter returns in the child only; the parent exits with the child's success. */
static void background_enter(void)
{
    int ends[2];
    char byte;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        fprintf(stderr, "vgpufs: cannot make a pipe: %s\n", strerror(errno));
        exit(EXIT_FAILURE);
    }
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "vgpufs: cannot go to the background: %s\n", strerror(errno));
        exit(EXIT_FAILURE);
    }
    if (child == 0) {
        close(ends[0]);
        ready_pipe = ends[1];
        setsid();
        return;
    }
    close(ends[1]);
    ssize_t size;
    do {
        size = read(ends[0], &byte, 1);
    } while (size < 0 && errno == EINTR);
    _exit(size == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* ready_tell tells whoever waits for it that all is mounted. */
static void ready_tell(void)
{
    manager_tell("READY=1");
    log_never_wait();
    if (ready_pipe < 0)
        return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    log_to_syslog();
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
    if (null > 2)
        close(null);
    ssize_t size = write(ready_pipe, "R", 1);
    (void)size; /* a parent that is gone does not wait */
    close(ready_pipe);
    if (chdir("/") < 0)
        log_warning("cannot leave the working folder: %s", strerror(errno));
}

/* Running. */

static int signals_take(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigset_t blocked = signals;
    sigaddset(&blocked, SIGUSR1); /* the receive loop's threads open it for themselves */
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* a parent that ignores it would leave us without exit statuses */
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

/*
 * config_read reads the file, with the mountpoint of the command line in place of the file's. A
 * mount that root's vgpufs-mount has made may show files of any owner, so the defaults are root's.
 */
static struct config *config_read(const struct options *options, const char *file,
                                  const char *mountpoint)
{
    struct text error = {0};
    bool plain_user = geteuid() != 0 && !options->session.mount_socket;
    struct config *config = config_load(file, plain_user, &error);
    if (config && mountpoint && config_set_mountpoint(config, mountpoint, &error) < 0) {
        config_destroy(config);
        config = NULL;
    }
    if (!config)
        log_error("%s", error.data ? error.data : "no memory");
    text_finish(&error);
    return config;
}

/* reload reads the file again; what was in force goes on if anything in it is wrong. */
static void reload(const struct options *options, struct server *server, const struct config *first,
                   uint64_t *interval_ms)
{
    struct text error = {0};
    manager_tell("RELOADING=1");
    struct config *config =
        config_read(options, first->file, options->mountpoint ? first->mountpoint : NULL);
    if (config && config_reload_refused(first, config, &error)) {
        log_error("not reloaded: %s", error.data ? error.data : "no memory");
    } else if (!config) {
        log_error("not reloaded: the configuration of before stays in force");
    } else {
        server_reload(server, config);
        *interval_ms = config->stats_log_interval_ms;
        log_info("configuration reloaded");
    }
    text_finish(&error);
    config_destroy(config);
    manager_tell("READY=1");
}

/* wait_ms: until the next thing that is due. */
static int wait_ms(uint64_t now_us, uint64_t due_us)
{
    uint64_t ms = due_us > now_us ? (due_us - now_us + 999) / 1000 : 0;
    return ms > EXPIRE_MS ? EXPIRE_MS : (int)ms;
}

/* starter_is_gone: nothing else can start executors for this daemon, nor may it make another. */
static bool starter_is_gone(struct server *server, const struct pollfd *found)
{
    struct text how = {0};
    if (!(found->revents & POLLHUP))
        return false;
    spawner_death(server->spawner, &how);
    log_error("the process that starts executors has ended (%s): start vgpufs again: what was "
              "accepted is kept",
              how.data ? how.data : "no memory");
    text_finish(&how);
    return true;
}

/* serve waits for signals until one says stop. Returns the exit status. */
static int serve(const struct options *options, struct server *server, const struct config *config,
                 int signals)
{
    uint64_t interval_ms = config->stats_log_interval_ms;
    uint64_t stats_us = clock_now_us() + interval_ms * 1000;
    struct watchdog watchdog;
    watchdog_start(&watchdog);
    for (;;) {
        struct pollfd wanted[] = {{.fd = signals, .events = POLLIN},
                                  {.fd = holder_connection(), .events = POLLIN},
                                  {.fd = spawner_descriptor(server->spawner)}};
        uint64_t due_us = interval_ms && stats_us < watchdog.due_us ? stats_us : watchdog.due_us;
        poll(wanted, 3, wait_ms(clock_now_us(), due_us));
        if (wanted[1].revents && holder_asks()) {
            log_info("another vgpufs takes over");
            return EXIT_SUCCESS;
        }
        if (starter_is_gone(server, &wanted[2]))
            return EXIT_FAILURE;
        struct signalfd_siginfo signal_info;
        while (read(signals, &signal_info, sizeof(signal_info)) == sizeof(signal_info)) {
            if (signal_info.ssi_signo != SIGHUP)
                return EXIT_SUCCESS;
            reload(options, server, config, &interval_ms);
        }
        server_expire(server);
        if (clock_now_us() >= watchdog.due_us)
            watchdog_tick(&watchdog, server);
        if (interval_ms && stats_us > clock_now_us() + interval_ms * 1000)
            stats_us = clock_now_us() + interval_ms * 1000; /* a reload has made it shorter */
        if (interval_ms && clock_now_us() >= stats_us) {
            stats_log(server);
            stats_us = clock_now_us() + interval_ms * 1000;
        }
    }
}

static int run(const struct options *options, struct config *config, struct spawner *spawner)
{
    struct server server = {0};
    struct text error = {0};
    int signals = signals_take();
    struct rlimit files; /* each open data file is one here */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int status = EXIT_FAILURE;
    if (server_start(&server, config, &options->session, spawner, &error) == 0) {
        log_info("%s is mounted%s", config->mountpoint,
                 !options->session.mount_socket && session_is_private()
                     ? ": only this user can use it (user_allow_other is not in /etc/fuse.conf)"
                     : "");
        ready_tell();
        status = serve(options, &server, config, signals);
        manager_tell("STOPPING=1\nSTATUS=ending running jobs");
        log_info("stopping");
        /* By hand, unmounting is a way to stop it. Here vgpufs-mount has ended: the service manager
         * is to start us again. */
        if (options->session.mount_socket && session_was_taken_away()) {
            log_error("vgpufs-mount has taken %s away: start both again", config->mountpoint);
            status = EXIT_FAILURE;
        }
    } else {
        log_error("%s", error.data ? error.data : "no memory");
    }
    server_stop(&server, signals);
    text_finish(&error);
    close(signals);
    return status;
}

/* spawner_make makes the process that starts executors; NULL if it cannot. */
static struct spawner *spawner_make(const struct options *options, const struct config *config)
{
    struct spawner_options wanted = {.user = config->executor_user,
                                     .background = !options->foreground};
    struct text error = {0};
    for (size_t i = 0; i < config->pool_count; i++)
        wanted.sandbox |= config->pools[i].sandbox;
    struct spawner *spawner = spawner_create(&wanted, &error);
    if (!spawner)
        log_error("%s", error.data ? error.data : "no memory");
    text_finish(&error);
    return spawner;
}

/* check returns the exit status of --check. */
static int check(const struct options *options, const struct config *config)
{
    struct check_machine machine = check_real_machine;
    machine.mount_socket = options->session.mount_socket;
    machine.is_root = geteuid() == 0;
    printf("%s: no mistakes: %zu VMs, %zu pools\n", config->file, config->vm_count,
           config->pool_count);
    unsigned errors = check_run(config, &machine, stdout);
    return fflush(stdout) == 0 && errors == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* exports returns the exit status of --exports. */
static int exports(const struct config *config)
{
    struct text error = {0};
    int result = nfs_exports_print(config, stdout, &error);
    if (result < 0)
        log_error("%s", error.data ? error.data : "no memory");
    text_finish(&error);
    return result == 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct options options;
    int status = options_read(argc, argv, &options);
    if (status >= 0)
        return status;
    log_init("vgpufs", LOG_LEVEL_INFO);
    struct config *config = config_read(&options, options.config_file, options.mountpoint);
    if (!config)
        return EXIT_FAILURE;
    log_set_level(config->log_level);
    if (options.check || options.exports) {
        status = options.check ? check(&options, config) : exports(config);
        config_destroy(config);
        return status;
    }
    if (!options.foreground)
        background_enter();
    /* Before anything that a guest has written is read, and before there are threads. */
    struct spawner *spawner = spawner_make(&options, config);
    status = spawner ? run(&options, config, spawner) : EXIT_FAILURE;
    config_destroy(config);
    return status;
}
