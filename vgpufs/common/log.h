/*
 * The log: one line a message, on standard error (systemd collects it there)
 * or, once the daemon has gone to the background, in syslog. Thread-safe.
 */
#ifndef VGPUFS_COMMON_LOG_H
#define VGPUFS_COMMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* `program` begins each line and must stay valid. */
void log_init(const char *program, enum log_level level);
void log_set_level(enum log_level level);
/* log_to_syslog is for a process without a terminal or a supervisor. */
void log_to_syslog(void);

/* log_never_wait: from now on a standard error that takes nothing loses lines, and holds nobody up;
 * how many is logged when it takes them again. For whoever logs with locks held. */
void log_never_wait(void);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
