#include "log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <syslog.h>

static const char *log_program = "vgpufs";
static _Atomic int log_limit = LOG_LEVEL_INFO;
static atomic_bool log_syslog;

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

void log_line(enum log_level level, const char *format, ...)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    if ((int)level > atomic_load_explicit(&log_limit, memory_order_relaxed))
        return;
    char message[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    if (atomic_load(&log_syslog))
        syslog(priorities[level], "%s", message);
    else
        fprintf(stderr, "%s: %s\n", log_program, message);
}
