#include "log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

static const char *log_program = "vgpufs";
static _Atomic int log_limit = LOG_LEVEL_INFO;
static atomic_bool log_syslog, log_hurries;
static pthread_mutex_t lost_lock = PTHREAD_MUTEX_INITIALIZER; /* guards `lost`, and the order */
static unsigned long lost;

void log_init(const char *program, enum log_level level)
{
    log_program = program;
    log_set_level(level);
}

void log_set_level(enum log_level level)
{
    atomic_store(&log_limit, (int)level);
}

void log_to_syslog(void)
{
    openlog(log_program, LOG_PID, LOG_DAEMON);
    atomic_store(&log_syslog, true);
}

void log_never_wait(void)
{
    atomic_store(&log_hurries, true);
}

/* piece_write writes to standard error without waiting: a socket can be told so, and of a pipe that
 * poll(2) finds writable, PIPE_BUF bytes are taken at once. */
static ssize_t piece_write(const char *bytes, size_t size)
{
    ssize_t written = send(STDERR_FILENO, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (written >= 0 || errno != ENOTSOCK)
        return written;
    struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&room, 1, 0) <= 0 || !(room.revents & POLLOUT))
        return -1;
    return write(STDERR_FILENO, bytes, size < PIPE_BUF ? size : PIPE_BUF);
}

static bool text_write(const char *text, size_t size)
{
    while (size) {
        ssize_t written = piece_write(text, size);
        if (written <= 0)
            return false;
        text += written;
        size -= (size_t)written;
    }
    return true;
}

/* line_write writes a line, and before it how many were lost. */
static void line_write(char *line, size_t size)
{
    char words[96];
    pthread_mutex_lock(&lost_lock);
    if (lost) {
        int length =
            snprintf(words, sizeof(words), "%s: %lu lines lost: standard error did not take them\n",
                     log_program, lost);
        if (text_write(words, (size_t)length))
            lost = 0;
    }
    if (lost || !text_write(line, size))
        lost++;
    pthread_mutex_unlock(&lost_lock);
}

void log_line(enum log_level level, const char *format, ...)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    if ((int)level > atomic_load_explicit(&log_limit, memory_order_relaxed))
        return;
    char line[8192 + 64];
    int begin = snprintf(line, 64, "%.60s: ", log_program);
    char *message = line + begin;
    va_list args;
    va_start(args, format);
    vsnprintf(message, 8192, format, args);
    va_end(args);
    size_t size = strlen(message);
    if (atomic_load(&log_syslog)) {
        syslog(priorities[level], "%s", message);
    } else if (atomic_load(&log_hurries)) {
        message[size] = '\n';
        line_write(line, (size_t)begin + size + 1);
    } else {
        fprintf(stderr, "%s\n", line);
    }
}
