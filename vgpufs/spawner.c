#include "spawner.h"

#include "process.h"
#include "pulse.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* One request, in the asker's frame; it waits until `answered`. */
struct request {
    struct request *next;
    char *const *words;
    const struct sandbox *sandbox;
    const struct enclosure *enclosure;
    char **environment; /* with the enclosure's mark */
    int connection, errors;
    pid_t pid;
    int error;
    bool answered;
};

struct spawner {
    pthread_t thread;
    struct pulse pulse;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t asked, answered;
    struct request *requests;
    bool stopping;
};

/*
 * child_run becomes the executor. Only async-signal-safe calls are made between fork and exec
 * (signal-safety(7)), since other threads may hold any lock. An error number on `report` says that
 * exec failed.
 */
static void child_run(const struct request *request, int connection, int errors, int report,
                      pid_t parent) __attribute__((noreturn));

static void child_run(const struct request *request, int connection, int errors, int report,
                      pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127); /* the daemon died before the line above */
    setpgid(0, 0);
    enclosure_enter(request->enclosure);
    /* The daemon raises its limit of descriptors; programs that use select(2) must not see that. */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > FD_SETSIZE) {
        files.rlim_cur = FD_SETSIZE;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    bool ready = dup2(connection, 0) == 0 && dup2(connection, 1) == 1 && dup2(errors, 2) == 2;
    if (ready && (!request->sandbox || sandbox_enter(request->sandbox) == 0))
        execvpe(request->words[0], request->words, request->environment);
    int error = errno;
    ssize_t written = write(report, &error, sizeof(error));
    _exit(written == sizeof(error) ? 127 : 126);
}

/* exec_error waits until the child has executed the program: 0, or why it could not. */
static int exec_error(int report)
{
    int error = 0;
    ssize_t size;
    do {
        size = read(report, &error, sizeof(error));
    } while (size < 0 && errno == EINTR);
    return size == sizeof(error) ? error : 0;
}

/* A pipe or a socketpair: [0] stays with the daemon, [1] goes to the child. */
struct channel {
    int end[2];
};

static void channel_close(struct channel *channel)
{
    for (int i = 0; i < 2; i++)
        if (channel->end[i] >= 0)
            close(channel->end[i]);
}

static int channels_open(struct channel *connection, struct channel *errors, struct channel *report)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connection->end) < 0 ||
        pipe2(errors->end, O_CLOEXEC) < 0 || pipe2(report->end, O_CLOEXEC) < 0)
        return -1;
    /* Only the daemon's ends: the executor reads and writes as any program does. */
    fcntl(connection->end[0], F_SETFL, O_NONBLOCK);
    fcntl(errors->end[0], F_SETFL, O_NONBLOCK);
    return 0;
}

static void request_serve(struct request *request)
{
    struct channel connection = {{-1, -1}}, errors = {{-1, -1}}, report = {{-1, -1}};
    pid_t parent = getpid();
    request->error = 0;
    if (channels_open(&connection, &errors, &report) < 0)
        goto failed;
    request->pid = fork();
    if (request->pid < 0)
        goto failed;
    if (request->pid == 0)
        child_run(request, connection.end[1], errors.end[1], report.end[1], parent);
    setpgid(request->pid, request->pid); /* both do it: nobody may find it in our group */
    close(report.end[1]);
    report.end[1] = -1;
    request->error = exec_error(report.end[0]);
    if (request->error) {
        while (waitpid(request->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        goto done;
    }
    request->connection = connection.end[0];
    request->errors = errors.end[0];
    connection.end[0] = errors.end[0] = -1;
    goto done;
failed:
    request->error = errno;
done:
    channel_close(&connection);
    channel_close(&errors);
    channel_close(&report);
}

static void *spawner_run(void *argument)
{
    struct spawner *spawner = argument;
    thread_name("spawner", "");
    pthread_mutex_lock(&spawner->lock);
    for (;;) {
        pulse_answer(&spawner->pulse);
        struct request *request = spawner->requests;
        if (!request) {
            if (spawner->stopping)
                break;
            pthread_cond_wait(&spawner->asked, &spawner->lock);
            continue;
        }
        spawner->requests = request->next;
        pthread_mutex_unlock(&spawner->lock);
        request_serve(request);
        pthread_mutex_lock(&spawner->lock);
        request->answered = true;
        pthread_cond_broadcast(&spawner->answered);
    }
    pthread_mutex_unlock(&spawner->lock);
    return NULL;
}

struct spawner *spawner_create(void)
{
    struct spawner *spawner = calloc(1, sizeof(*spawner));
    if (!spawner)
        return NULL;
    pthread_mutex_init(&spawner->lock, NULL);
    pthread_cond_init(&spawner->asked, NULL);
    pthread_cond_init(&spawner->answered, NULL);
    int error = pthread_create(&spawner->thread, NULL, spawner_run, spawner);
    if (error) {
        free(spawner);
        errno = error;
        return NULL;
    }
    return spawner;
}

void spawner_destroy(struct spawner *spawner)
{
    if (!spawner)
        return;
    pthread_mutex_lock(&spawner->lock);
    spawner->stopping = true;
    pthread_cond_signal(&spawner->asked);
    pthread_mutex_unlock(&spawner->lock);
    pthread_join(spawner->thread, NULL);
    pthread_cond_destroy(&spawner->asked);
    pthread_cond_destroy(&spawner->answered);
    pthread_mutex_destroy(&spawner->lock);
    free(spawner);
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

/* environment_with returns the environment with one variable more; to be freed, but not what is in
 * it. */
static char **environment_with(const char *variable)
{
    size_t count = 0, size = strcspn(variable, "=") + 1, used = 0;
    while (environ[count])
        count++;
    char **all = calloc(count + 2, sizeof(*all));
    for (size_t i = 0; all && i < count; i++)
        if (strncmp(environ[i], variable, size) != 0)
            all[used++] = environ[i];
    if (all)
        all[used] = (char *)(uintptr_t)variable;
    return all;
}

pid_t spawner_start(struct spawner *spawner, char *const *words, const struct sandbox *sandbox,
                    const struct enclosure *enclosure, int *connection, int *errors)
{
    struct request request = {.words = words, .sandbox = sandbox, .enclosure = enclosure};
    request.environment = environment_with(enclosure->mark);
    if (!request.environment) {
        errno = ENOMEM;
        return -1;
    }
    pthread_mutex_lock(&spawner->lock);
    request.next = spawner->requests;
    spawner->requests = &request;
    pthread_cond_signal(&spawner->asked);
    while (!request.answered)
        pthread_cond_wait(&spawner->answered, &spawner->lock);
    pthread_mutex_unlock(&spawner->lock);
    free(request.environment);
    if (request.error) {
        errno = request.error;
        return -1;
    }
    *connection = request.connection;
    *errors = request.errors;
    return request.pid;
}
