/* How vgpufs --check asks what it cannot read from a file. */
#include "check.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIST_MS   15000 /* as long as ssh to a slow machine may take */
#define LIST_MAX  65536
#define REACH_MS  1500
#define REACH_MAX 256 /* at once */
/* Nobody listens there, so a machine that is up refuses at once. */
#define REACH_PORT "9"

static int left_ms(uint64_t deadline_us)
{
    uint64_t now = clock_now_us();
    return deadline_us > now ? (int)((deadline_us - now) / 1000 + 1) : 0;
}

/* --- an executor's list --- */

/* words_with_list returns the words of the command line and "--list" behind them, as one
 * allocation; NULL and *error. */
static char **words_with_list(const char *command, const char **error)
{
    struct text line = {0};
    text_printf(&line, "%s --list", command);
    *error = "no memory";
    char **words = line.failed ? NULL : config_split_command(line.data, error);
    text_finish(&line);
    return words;
}

/* child_run becomes the program; *report gets errno where that fails. */
static void child_run(char *const *words, const struct user *user, int output, int report)
    __attribute__((noreturn));

static void child_run(char *const *words, const struct user *user, int output, int report)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setpgid(0, 0);
    if ((!user ||
         (user_environment(user) == 0 && user_borrow(user) == 0 && user_become(user) == 0)) &&
        null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
        dup2(output, STDERR_FILENO) >= 0)
        execvp(words[0], words);
    int error = errno;
    ssize_t written = write(report, &error, sizeof(error));
    _exit(written == sizeof(error) ? 127 : 126);
}

/* child_make returns errno of what failed on the way to the program. */
static int child_make(char *const *words, const struct user *user, int output, pid_t *pid)
{
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return errno;
    *pid = fork();
    if (*pid == 0)
        child_run(words, user, output, report[1]);
    int error = *pid < 0 ? errno : 0;
    close(report[1]);
    if (*pid > 0 && read(report[0], &error, sizeof(error)) > 0)
        waitpid(*pid, NULL, 0);
    close(report[0]);
    return error;
}

/* spawn starts it in a process group of its own; standard output and error come from *reading. */
static int spawn(char *const *words, const struct user *user, pid_t *pid, int *reading)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return errno;
    int error = child_make(words, user, ends[1], pid);
    close(ends[1]);
    *reading = ends[0];
    if (error)
        close(ends[0]);
    return error;
}

/* read_all reads until the end; false if that does not come in time. */
static bool read_all(int fd, struct text *out)
{
    uint64_t deadline_us = clock_now_us() + LIST_MS * 1000;
    for (;;) {
        struct pollfd wanted = {.fd = fd, .events = POLLIN};
        if (poll(&wanted, 1, left_ms(deadline_us)) <= 0 || out->size > LIST_MAX ||
            !text_reserve(out, 4096))
            return false;
        ssize_t size = read(fd, out->data + out->size, 4096);
        if (size <= 0)
            return size == 0;
        out->size += (size_t)size;
        out->data[out->size] = '\0';
    }
}

/* first_line makes *out what it was, up to its first newline, or `instead` where that is empty. */
static void first_line(struct text *out, const char *instead)
{
    if (out->size == 0 || out->data[0] == '\n') {
        text_clear(out);
        text_puts(out, instead);
        return;
    }
    out->data[out->size = strcspn(out->data, "\n")] = '\0';
}

int check_list(const char *command, const struct user *user, struct text *out)
{
    const char *why;
    pid_t pid = -1;
    int reading = -1, status = -1;
    char **words = words_with_list(command, &why);
    if (!words) {
        text_puts(out, why);
        return -1;
    }
    int error = spawn(words, user, &pid, &reading);
    free(words);
    if (error) {
        text_puts(out, strerror(error));
        return -1;
    }
    bool whole = read_all(reading, out);
    if (!whole)
        kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    close(reading);
    if (whole && status == 0)
        return 0;
    if (!whole)
        text_clear(out);
    first_line(out, whole ? "it fails and says nothing" : "no end within 15 seconds");
    return -1;
}

/* --- guests --- */

/* connect_begin returns a socket on its way to the address; -1 when there is no way. */
static int connect_begin(const char *address)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    if (getaddrinfo(address, REACH_PORT, &hints, &found) != 0)
        return -1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS &&
        errno != ECONNREFUSED) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

/* has_answered: somebody said that nobody listens, so there is somebody. */
static bool has_answered(int fd)
{
    int error = 0;
    socklen_t size = sizeof(error);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
           (error == 0 || error == ECONNREFUSED);
}

static void reach_some(const char *const *addresses, bool *answers, size_t count)
{
    struct pollfd polls[REACH_MAX];
    size_t waiting = 0;
    for (size_t i = 0; i < count; i++) {
        polls[i] = (struct pollfd){.fd = -1, .events = POLLOUT};
        if (addresses[i])
            polls[i].fd = connect_begin(addresses[i]);
        waiting += polls[i].fd >= 0;
    }
    uint64_t deadline_us = clock_now_us() + REACH_MS * 1000;
    while (waiting > 0 && poll(polls, count, left_ms(deadline_us)) > 0)
        for (size_t i = 0; i < count; i++) {
            if (polls[i].fd < 0 || !polls[i].revents)
                continue;
            answers[i] = has_answered(polls[i].fd);
            close(polls[i].fd);
            polls[i].fd = -1;
            waiting--;
        }
    for (size_t i = 0; i < count; i++)
        if (polls[i].fd >= 0)
            close(polls[i].fd);
}

void check_reach(const char *const *addresses, bool *answers, size_t count)
{
    for (size_t i = 0; i < count; i += REACH_MAX)
        reach_some(addresses + i, answers + i, count - i < REACH_MAX ? count - i : REACH_MAX);
}
