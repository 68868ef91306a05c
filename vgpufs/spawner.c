#include "spawner.h"

#include "process.h"
#include "pulse.h"
#include "sandbox.h"
#include "spawner_process.h"
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long the process has to end by itself. */
#define END_MS 2000

/* One request, in the asker's frame; it waits until `answered`. */
struct request {
    struct request *next;
    struct text message; /* as it is sent */
    const struct enclosure *enclosure;
    int connection, errors;
    pid_t pid;
    int error;
    bool answered;
};

struct spawner {
    pid_t pid;  /* of the process; 0: it was waited for */
    int socket; /* to it */
    bool is_other, has_thread;
    pthread_t thread;
    struct pulse pulse;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t asked, answered;
    struct request *requests;
    bool stopping;
};

/* --- talking to the process --- */

/* call sends a message with descriptors (NULL: none) and takes the answer. 0, or an errno. */
static int call(const struct spawner *spawner, const void *bytes, size_t size, const int *given,
                pid_t *pid)
{
    union {
        char room[CMSG_SPACE(sizeof(int) * SPAWN_DESCRIPTORS)];
        struct cmsghdr aligned;
    } control = {{0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct spawn_answer answer;
    if (given) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * SPAWN_DESCRIPTORS);
        memcpy(CMSG_DATA(rights), given, sizeof(int) * SPAWN_DESCRIPTORS);
    }
    if (bytes && sendmsg(spawner->socket, &message, MSG_NOSIGNAL) < 0)
        return errno;
    ssize_t received;
    do {
        received = recv(spawner->socket, &answer, sizeof(answer), 0);
    } while (received < 0 && errno == EINTR);
    if (received < 0)
        return errno;
    if (received != sizeof(answer))
        return EPIPE; /* it has ended */
    *pid = answer.pid;
    return answer.error;
}

/* A pipe or a socketpair: [0] stays with the daemon, [1] goes to the child. */
struct channel {
    int end[2];
};

static void end_close(int *end)
{
    if (*end >= 0)
        close(*end);
    *end = -1;
}

static void channels_close(struct channel *channels, int end)
{
    for (int i = 0; i < SPAWN_DESCRIPTORS; i++)
        end_close(&channels[i].end[end]);
}

static int channels_open(struct channel *channels)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channels[SPAWN_CONNECTION].end) < 0 ||
        pipe2(channels[SPAWN_ERRORS].end, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channels[SPAWN_REPORT].end) < 0)
        return -1;
    /* Only the daemon's ends: the executor reads and writes as any program does. */
    fcntl(channels[SPAWN_CONNECTION].end[0], F_SETFL, O_NONBLOCK);
    fcntl(channels[SPAWN_ERRORS].end[0], F_SETFL, O_NONBLOCK);
    return 0;
}

/* child_release lets the child execute its program, in its cgroup. 0, or why it has not. */
static int child_release(const struct request *request, int report)
{
    int error = 0;
    ssize_t size;
    if (enclosure_take(request->enclosure, request->pid) < 0)
        return errno;
    if (send(report, "g", 1, MSG_NOSIGNAL) < 0)
        return errno; /* it has ended: how is known when it is waited for */
    do {
        size = read(report, &error, sizeof(error));
    } while (size < 0 && errno == EINTR);
    return size == sizeof(error) ? error : 0;
}

static void request_serve(struct spawner *spawner, struct request *request)
{
    struct channel channels[SPAWN_DESCRIPTORS] = {{{-1, -1}}, {{-1, -1}}, {{-1, -1}}};
    int given[SPAWN_DESCRIPTORS];
    request->pid = 0;
    request->error = channels_open(channels) < 0 ? errno : 0;
    for (int i = 0; i < SPAWN_DESCRIPTORS; i++)
        given[i] = channels[i].end[1];
    if (!request->error)
        request->error =
            call(spawner, request->message.data, request->message.size, given, &request->pid);
    channels_close(channels, 1);
    if (!request->error)
        request->error = child_release(request, channels[SPAWN_REPORT].end[0]);
    end_close(&channels[SPAWN_REPORT].end[0]); /* without the byte the child ends */
    if (request->error) {
        while (request->pid > 0 && waitpid(request->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    } else {
        request->connection = channels[SPAWN_CONNECTION].end[0];
        request->errors = channels[SPAWN_ERRORS].end[0];
        channels[SPAWN_CONNECTION].end[0] = channels[SPAWN_ERRORS].end[0] = -1;
    }
    channels_close(channels, 0);
}

/* ping: a process that is stopped keeps the thread from answering its pulse. */
static void ping(struct spawner *spawner)
{
    struct spawn_request request = {.kind = SPAWN_PING};
    pid_t none;
    /* One that has ended is not silent: spawner_descriptor tells of it. */
    call(spawner, &request, sizeof(request), NULL, &none);
}

static void *spawner_run(void *argument)
{
    struct spawner *spawner = argument;
    thread_name("spawner", "");
    pthread_mutex_lock(&spawner->lock);
    for (;;) {
        struct request *request = spawner->requests;
        bool asked = pulse_is_missing(&spawner->pulse);
        if (!request && !asked) {
            if (spawner->stopping)
                break;
            pthread_cond_wait(&spawner->asked, &spawner->lock);
            continue;
        }
        if (request)
            spawner->requests = request->next;
        pthread_mutex_unlock(&spawner->lock);
        if (asked) {
            ping(spawner);
            pulse_answer(&spawner->pulse);
        }
        if (request)
            request_serve(spawner, request);
        pthread_mutex_lock(&spawner->lock);
        if (request)
            request->answered = true;
        pthread_cond_broadcast(&spawner->answered);
    }
    pthread_mutex_unlock(&spawner->lock);
    return NULL;
}

/* --- life --- */

/* process_make forks it: the child does not return. -1 and *error. */
static int process_make(struct spawner *spawner, const struct spawn_setting *setting,
                        struct text *error)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
        spawner->pid = fork();
        if (spawner->pid == 0) {
            close(ends[0]);
            exit(spawner_process_run(ends[1], setting));
        }
        close(ends[1]);
        spawner->socket = ends[0];
    }
    if (spawner->pid > 0)
        return 0;
    text_printf(error, "cannot make the process that starts executors: %s", strerror(errno));
    return -1;
}

/* greeting_take is the process's first answer: whether it has its user. */
static int greeting_take(const struct spawner *spawner, const struct user *user, struct text *error)
{
    pid_t none;
    int failed = call(spawner, NULL, 0, NULL, &none);
    if (!failed)
        return 0;
    if (user)
        text_printf(error,
                    "executor_user = '%s': %s: start vgpufs as root, or with CAP_SETUID and "
                    "CAP_SETGID as vgpufs.service does",
                    user->name, strerror(failed));
    else
        text_printf(error, "the process that starts executors: %s", strerror(failed));
    return -1;
}

/* process_begin makes the process, with all that it has to know. -1 and *error. */
static int process_begin(struct spawner *spawner, const struct spawner_options *options,
                         struct text *error)
{
    struct sandbox *sandbox = NULL;
    struct user user;
    int result = -1, wanted = user_wanted(options->user, &user, error);
    struct spawn_setting setting = {
        .user = wanted > 0 ? &user : NULL, .daemon = getpid(), .background = options->background};
    if (wanted >= 0 && (!options->sandbox || (sandbox = sandbox_create(error)))) {
        setting.sandbox = sandbox;
        spawner->is_other = wanted > 0;
        result = process_make(spawner, &setting, error);
    }
    if (result == 0)
        result = greeting_take(spawner, setting.user, error);
    sandbox_destroy(sandbox);
    user_finish(&user);
    return result;
}

struct spawner *spawner_create(const struct spawner_options *options, struct text *error)
{
    struct spawner *spawner = calloc(1, sizeof(*spawner));
    if (!spawner) {
        text_puts(error, "no memory");
        return NULL;
    }
    spawner->socket = -1;
    pthread_mutex_init(&spawner->lock, NULL);
    pthread_cond_init(&spawner->asked, NULL);
    pthread_cond_init(&spawner->answered, NULL);
    int result = process_begin(spawner, options, error);
    if (result == 0 && geteuid() != 0 && capabilities_drop() < 0) {
        text_printf(error, "cannot give up capabilities: %s", strerror(errno));
        result = -1;
    }
    if (result == 0)
        return spawner;
    spawner_destroy(spawner);
    return NULL;
}

int spawner_begin(struct spawner *spawner)
{
    int error = pthread_create(&spawner->thread, NULL, spawner_run, spawner);
    spawner->has_thread = error == 0;
    errno = error;
    return error ? -1 : 0;
}

/* process_reap waits for its end, and ends it if it takes long. Returns its status. */
static int process_reap(struct spawner *spawner)
{
    int status = 0;
    struct pollfd ended = {.fd = process_descriptor(spawner->pid), .events = POLLIN};
    if (ended.fd < 0 || poll(&ended, 1, END_MS) <= 0)
        kill(spawner->pid, SIGKILL);
    end_close(&ended.fd);
    while (waitpid(spawner->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    spawner->pid = 0;
    return status;
}

void spawner_destroy(struct spawner *spawner)
{
    if (!spawner)
        return;
    pthread_mutex_lock(&spawner->lock);
    spawner->stopping = true;
    pthread_cond_signal(&spawner->asked);
    pthread_mutex_unlock(&spawner->lock);
    if (spawner->has_thread) {
        shutdown(spawner->socket, SHUT_RDWR); /* it may wait for a process that is stopped */
        pthread_join(spawner->thread, NULL);
    }
    end_close(&spawner->socket);
    if (spawner->pid > 0)
        process_reap(spawner);
    pthread_cond_destroy(&spawner->asked);
    pthread_cond_destroy(&spawner->answered);
    pthread_mutex_destroy(&spawner->lock);
    free(spawner);
}

pid_t spawner_pid(const struct spawner *spawner)
{
    return spawner->pid;
}

bool spawner_is_other(const struct spawner *spawner)
{
    return spawner->is_other;
}

int spawner_descriptor(const struct spawner *spawner)
{
    return spawner->socket;
}

void spawner_death(struct spawner *spawner, struct text *how)
{
    int status = process_reap(spawner);
    if (WIFSIGNALED(status))
        text_printf(how, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        text_printf(how, "exit status %d", WEXITSTATUS(status));
}

void spawner_ask(struct spawner *spawner)
{
    pulse_ask(&spawner->pulse);
    pthread_mutex_lock(&spawner->lock);
    pthread_cond_signal(&spawner->asked);
    pthread_mutex_unlock(&spawner->lock);
}

bool spawner_is_silent(const struct spawner *spawner)
{
    return pulse_is_missing(&spawner->pulse);
}

/* --- what is started --- */

/* message_make: false if it is too long, or there is no memory. */
static bool message_make(struct text *message, char *const *words, bool sandbox,
                         const struct enclosure *enclosure)
{
    struct spawn_request head = {
        .kind = SPAWN_START, .sandbox = sandbox, .memory_bytes = enclosure->memory_bytes};
    text_append(message, &head, sizeof(head));
    text_append(message, enclosure->mark, strlen(enclosure->mark) + 1);
    for (size_t i = 0; words[i]; i++)
        text_append(message, words[i], strlen(words[i]) + 1);
    errno = message->failed ? ENOMEM : E2BIG;
    return !message->failed && message->size <= SPAWN_MAX_REQUEST;
}

pid_t spawner_start(struct spawner *spawner, char *const *words, bool sandbox,
                    const struct enclosure *enclosure, int *connection, int *errors)
{
    struct request request = {.enclosure = enclosure};
    if (!message_make(&request.message, words, sandbox, enclosure)) {
        int error = errno;
        text_finish(&request.message);
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&spawner->lock);
    request.next = spawner->requests;
    spawner->requests = &request;
    pthread_cond_signal(&spawner->asked);
    while (!request.answered)
        pthread_cond_wait(&spawner->answered, &spawner->lock);
    pthread_mutex_unlock(&spawner->lock);
    text_finish(&request.message);
    if (request.error) {
        errno = request.error;
        return -1;
    }
    *connection = request.connection;
    *errors = request.errors;
    return request.pid;
}
