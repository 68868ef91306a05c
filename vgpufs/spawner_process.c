#include "spawner_process.h"

#include "enclosure.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME "vgpufs-spawner"

/* What was started and may still run, as pidfds; -1 where the kernel has none (before 5.3). */
struct started {
    int *descriptors;
    size_t count, capacity;
};

struct spawner_process {
    int socket;
    const struct spawn_setting *setting;
    struct started started;
};

/* A request as it came: valid until the next one. */
struct received {
    struct spawn_request head;
    const char *mark;
    char **words;
    int descriptors[SPAWN_DESCRIPTORS];
};

/* --- the executor-to-be --- */

/* limits_enter: programs that use select(2) must not see how many descriptors we may have. */
static void limits_enter(uint64_t memory_bytes)
{
    struct rlimit files;
    enclosure_enter(memory_bytes);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > FD_SETSIZE) {
        files.rlim_cur = FD_SETSIZE;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* child_prepare makes an executor's process of this one. 0, or -1 with errno. */
static int child_prepare(const struct spawn_setting *setting, const struct received *request)
{
    sigset_t none;
    sigemptyset(&none);
    if (setting->user && user_become(setting->user) < 0)
        return -1;
    /* A change of ids takes both away; the files of /proc/self would be root's. */
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != setting->daemon)
        _exit(127); /* the daemon died before the line above */
    setpgid(0, 0);
    limits_enter(request->head.memory_bytes);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    return 0;
}

/* child_run becomes the executor: see spawner_process_run for what it says on `report`. */
static void child_run(const struct spawn_setting *setting, const struct received *request)
    __attribute__((noreturn));

static void child_run(const struct spawn_setting *setting, const struct received *request)
{
    const int *given = request->descriptors;
    int report = given[SPAWN_REPORT];
    char go;
    int failed = child_prepare(setting, request);
    if (!failed && read(report, &go, 1) != 1)
        _exit(127); /* the daemon has thought better of it, or has died */
    bool ready = !failed && dup2(given[SPAWN_CONNECTION], 0) == 0 &&
                 dup2(given[SPAWN_CONNECTION], 1) == 1 && dup2(given[SPAWN_ERRORS], 2) == 2;
    if (ready && (!request->head.sandbox || sandbox_enter(setting->sandbox) == 0))
        execvp(request->words[0], request->words);
    int error = errno;
    ssize_t written = write(report, &error, sizeof(error));
    _exit(written == sizeof(error) ? 127 : 126);
}

/* --- what was started --- */

/* started_note keeps a pidfd, in place of one whose process has ended if there is such. */
static int started_note(struct started *started, int descriptor)
{
    for (size_t i = 0; i < started->count; i++) {
        struct pollfd ended = {.fd = started->descriptors[i], .events = POLLIN};
        if (poll(&ended, 1, 0) <= 0)
            continue;
        close(started->descriptors[i]);
        started->descriptors[i] = started->descriptors[--started->count];
        i--;
    }
    if (started->count == started->capacity) {
        size_t capacity = started->capacity ? started->capacity * 2 : 16;
        int *descriptors = realloc(started->descriptors, capacity * sizeof(*descriptors));
        if (!descriptors)
            return -1;
        started->descriptors = descriptors;
        started->capacity = capacity;
    }
    started->descriptors[started->count++] = descriptor;
    return 0;
}

static void started_kill(struct started *started)
{
    for (size_t i = 0; i < started->count; i++) {
        process_kill(started->descriptors[i]);
        close(started->descriptors[i]);
    }
    free(started->descriptors);
}

/* --- requests --- */

/* words_split makes the request's strings an array; false if they are not as they must be. */
static bool words_split(char *strings, size_t size, struct received *request)
{
    size_t count = 0, used = 0;
    if (size == 0 || strings[size - 1] != '\0')
        return false;
    for (size_t i = 0; i < size; i++)
        count += strings[i] == '\0';
    request->words = count < 2 ? NULL : calloc(count, sizeof(*request->words));
    if (!request->words)
        return false;
    request->mark = strings;
    for (char *word = strings + strlen(strings) + 1; word < strings + size;
         word += strlen(word) + 1)
        request->words[used++] = word;
    return true;
}

/* start returns the pid of a sibling that becomes the executor; -1 with errno. */
static pid_t start(struct spawner_process *process, const struct received *request)
{
    const char *equals = strchr(request->mark, '=');
    char name[64];
    if (!equals || equals == request->mark || equals - request->mark >= (long)sizeof(name) ||
        (request->head.sandbox && !process->setting->sandbox)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(name, request->mark, (size_t)(equals - request->mark));
    name[equals - request->mark] = '\0';
    if (setenv(name, equals + 1, 1) < 0)
        return -1;
    /* Without a stack of its own it is a fork; the arguments after the second are for others. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        child_run(process->setting, request);
    if (pid < 0)
        return -1;
    /* It has not been waited for: who would do that hears of it only by our answer. */
    int descriptor = process_descriptor(pid);
    if (descriptor >= 0 && started_note(&process->started, descriptor) < 0)
        close(descriptor);
    return pid;
}

static int answer(const struct spawner_process *process, pid_t pid, int error)
{
    struct spawn_answer answered = {.pid = pid, .error = error};
    return send(process->socket, &answered, sizeof(answered), MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int request_serve(struct spawner_process *process, char *bytes, size_t size, int *given)
{
    struct received request = {.words = NULL};
    pid_t pid = 0;
    int error = EINVAL;
    if (size >= sizeof(request.head))
        memcpy(&request.head, bytes, sizeof(request.head));
    memcpy(request.descriptors, given, sizeof(request.descriptors));
    if (size == sizeof(request.head) && request.head.kind == SPAWN_PING) {
        error = 0;
    } else if (size > sizeof(request.head) && request.head.kind == SPAWN_START &&
               given[SPAWN_DESCRIPTORS - 1] >= 0 &&
               words_split(bytes + sizeof(request.head), size - sizeof(request.head), &request)) {
        pid = start(process, &request);
        error = pid < 0 ? errno : 0;
    }
    free(request.words);
    return answer(process, pid < 0 ? 0 : pid, error);
}

/* descriptors_take copies those of a message; -1 for those that did not come. */
static void descriptors_take(struct msghdr *message, int *given)
{
    for (int i = 0; i < SPAWN_DESCRIPTORS; i++)
        given[i] = -1;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
            memcpy(given, CMSG_DATA(part), part->cmsg_len - CMSG_LEN(0));
}

static void serve(struct spawner_process *process)
{
    static char bytes[SPAWN_MAX_REQUEST];
    for (;;) {
        int given[SPAWN_DESCRIPTORS];
        union {
            char room[CMSG_SPACE(sizeof(given))];
            struct cmsghdr aligned;
        } control;
        struct iovec part = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 /* Not the padding behind it: a descriptor more would fit. */
                                 .msg_controllen = CMSG_LEN(sizeof(given))};
        ssize_t size = recvmsg(process->socket, &message, MSG_CMSG_CLOEXEC);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return;
        descriptors_take(&message, given);
        int failed = request_serve(process, bytes, (size_t)size, given);
        for (int i = 0; i < SPAWN_DESCRIPTORS; i++)
            if (given[i] >= 0)
                close(given[i]);
        if (failed)
            return;
    }
}

/* --- life --- */

/* surroundings_leave gives up what the daemon's start has lent: descriptors (a caller that waits
 * for their end would wait for us), signals that are the daemon's, a terminal, a folder. */
static int surroundings_leave(int socket, bool background)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL); /* it ends with the daemon, however that is ended */
    int high = fcntl(socket, F_DUPFD_CLOEXEC, 3);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (high < 0 || null < 0)
        return -1;
    for (int i = 0; i < (background ? 3 : 2); i++)
        dup2(null, i);
    if (high != 3 && dup3(high, 3, O_CLOEXEC) < 0)
        return -1;
    closefrom(4);
    if (background && chdir("/") < 0)
        return -1;
    return 3;
}

/* privileges_leave: stopped, it still notices the daemon's end. */
static int privileges_leave(const struct spawn_setting *setting)
{
    int failed = 0;
    if (setting->user)
        failed = user_environment(setting->user) < 0 || user_borrow(setting->user) < 0;
    else if (geteuid() != 0)
        failed = capabilities_drop() < 0;
    if (failed)
        return -1;
    prctl(PR_SET_NAME, NAME);
    if (setting->user)
        prctl(PR_SET_DUMPABLE, 0); /* whatever fs.suid_dumpable is: executors must not trace it */
    prctl(PR_SET_PDEATHSIG, SIGCONT);
    return 0;
}

int spawner_process_run(int socket, const struct spawn_setting *setting)
{
    struct spawner_process process = {.setting = setting};
    struct rlimit files;
    process.socket = surroundings_leave(socket, setting->background);
    if (process.socket < 0)
        return EXIT_FAILURE;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int error = privileges_leave(setting) < 0 ? errno : 0;
    if (answer(&process, 0, error) == 0 && !error)
        serve(&process);
    /* The socket ends before the daemon does: a SIGCONT that comes later would undo the stop by
     * which a leak sanitizer looks at this process, and have it wait for ever. */
    prctl(PR_SET_PDEATHSIG, 0);
    started_kill(&process.started);
    /* ptrace(2) of such a sanitizer wants all of a process's ids to be one user's. Not earlier:
     * as the daemon's we could not have killed them. */
    if (setting->user && !error && user_give_back() < 0)
        error = errno;
    return error ? EXIT_FAILURE : EXIT_SUCCESS;
}
