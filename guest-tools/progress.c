#include "progress.h"

#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR_WIDTH = 20, DEFAULT_COLUMNS = 80, MAX_COLUMNS = 255 };

/* ECMA-48: carriage return, then EL (erase to the end of the line). */
#define CLEAR_LINE "\r\033[K"

void progress_init(struct progress *progress, const char *name, bool quiet)
{
    const char *terminal = getenv("TERM");
    *progress = (struct progress){.name = name, .start_ms = tool_now_ms()};
    progress->enabled =
        !quiet && isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
}

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return DEFAULT_COLUMNS;
    return size.ws_col < MAX_COLUMNS ? size.ws_col : MAX_COLUMNS;
}

/* The state comes from the mount: only letters of it reach the terminal. */
static const char *state_word(const struct job_status *status)
{
    size_t letters = strspn(status->state, "abcdefghijklmnopqrstuvwxyz");
    return letters && !status->state[letters] ? status->state : "?";
}

static void detail_print(char *detail, size_t size, const struct job_status *status)
{
    detail[0] = '\0';
    if (status->progress >= 0) {
        char bar[BAR_WIDTH + 1];
        int filled = (int)(status->progress * BAR_WIDTH);
        memset(bar, '-', BAR_WIDTH);
        memset(bar, '#', (size_t)filled);
        bar[BAR_WIDTH] = '\0';
        snprintf(detail, size, " [%s] %3d%%", bar, (int)(status->progress * 100));
    } else if (status->position > 0) {
        snprintf(detail, size, ", position %llu%s", (unsigned long long)status->position,
                 status->held ? ", the VM is held" : "");
    }
}

void progress_draw(struct progress *progress, const struct job_status *status)
{
    char detail[64], line[MAX_COLUMNS + 1];
    if (!progress->enabled)
        return;
    long long seconds = (tool_now_ms() - progress->start_ms) / 1000;
    detail_print(detail, sizeof(detail), status);
    snprintf(line, sizeof(line), "%s: %s%s, %lld:%02lld", progress->name, state_word(status),
             detail, seconds / 60, seconds % 60);
    /* One column stays free: some terminals wrap when the last one is written. */
    fprintf(stderr, CLEAR_LINE "%.*s", terminal_columns() - 1, line);
    fflush(stderr);
    progress->drawn = true;
}

void progress_clear(struct progress *progress)
{
    if (progress->drawn)
        fputs(CLEAR_LINE, stderr);
    fflush(stderr);
    progress->drawn = false;
}
