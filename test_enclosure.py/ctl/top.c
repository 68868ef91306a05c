#include "top.h"

#include "ctl/snapshot.h"
#include "ctl/view.h"

#include <curses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_LINES 200 /* of the queue are shown at most */
#define KEY_CTRL_L  ('L' & 0x1f)

struct top {
    const char *mount;
    unsigned interval_ms;
    struct snapshot now, before;
    bool have_now, have_before;
    struct text error; /* why there is no newer snapshot */
    struct text frame;
    size_t line_count; /* of the frame */
    size_t first_line; /* of the frame that is shown below the title */
    uint64_t next_us;  /* CLOCK_MONOTONIC: when to read again */
};

static uint64_t monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* top_read takes a new snapshot; the one shown so far becomes the one before. */
static int top_read(struct top *top)
{
    struct snapshot fresh;
    text_clear(&top->error);
    if (snapshot_read(&fresh, top->mount, &top->error) != 0)
        return -1;
    if (top->have_before)
        snapshot_finish(&top->before);
    top->before = top->now;
    top->have_before = top->have_now;
    top->now = fresh;
    top->have_now = true;
    return 0;
}

/* queue_render appends the first jobs of the queue, for a user who may read it. */
static void queue_render(const struct top *top, struct text *out)
{
    struct text error = {0};
    FILE *stream = mount_stream(top->mount, "queue", &error);
    text_finish(&error);
    if (!stream)
        return;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    for (int i = 0; i < QUEUE_LINES && (length = getline(&line, &capacity, stream)) > 0; i++) {
        if (i == 0) {
            text_puts(out, "\n");
            view_queue_line(VIEW_QUEUE_HEADING, strlen(VIEW_QUEUE_HEADING), out);
        }
        view_queue_line(line, (size_t)length - (line[length - 1] == '\n'), out);
    }
    free(line);
    fclose(stream);
}

static void frame_render(struct top *top, unsigned width)
{
    text_clear(&top->frame);
    if (!top->have_now)
        return;
    struct view view = {&top->now, top->have_before ? &top->before : NULL, width};
    view_render(&view, &top->frame);
    queue_render(top, &top->frame);
    top->line_count = 0;
    for (size_t i = 0; i < top->frame.size; i++)
        top->line_count += top->frame.data[i] == '\n';
}

/* The title is the frame's first line, or what went wrong; it does not scroll. */
static size_t body_height(void)
{
    return LINES > 2 ? (size_t)LINES - 1 : 1;
}

static void scroll_by(struct top *top, long lines)
{
    size_t body = top->line_count ? top->line_count - 1 : 0;
    size_t last = body > body_height() ? body - body_height() : 0;
    long first = (long)top->first_line + lines;
    top->first_line = first < 0 ? 0 : (size_t)first > last ? last : (size_t)first;
}

static void line_draw(int y, const char *line, size_t size)
{
    struct text cut = {0};
    view_text(&cut, line, size, (unsigned)COLS);
    if (cut.data)
        mvaddnstr(y, 0, cut.data, (int)cut.size);
    text_finish(&cut);
}

static void screen_draw(struct top *top)
{
    erase();
    scroll_by(top, 0);
    const char *at = top->frame.size ? top->frame.data : "";
    const char *end = at + top->frame.size;
    for (size_t number = 0; at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = newline ? (size_t)(newline - at) : (size_t)(end - at);
        if (number == 0)
            line_draw(0, at, length);
        else if (number > top->first_line && number - top->first_line <= body_height())
            line_draw((int)(number - top->first_line), at, length);
        at += length + (newline != NULL);
    }
    if (top->error.size) {
        move(0, 0);
        clrtoeol();
        attron(A_REVERSE);
        line_draw(0, top->error.data, top->error.size);
        attroff(A_REVERSE);
    }
    refresh();
}

/* key_handle returns false when the user is done. */
static bool key_handle(struct top *top, int key)
{
    long page = (long)body_height();
    switch (key) {
    case 'q':
    case 'Q':
        return false;
    case KEY_UP:
        scroll_by(top, -1);
        break;
    case KEY_DOWN:
        scroll_by(top, 1);
        break;
    case KEY_PPAGE:
        scroll_by(top, -page);
        break;
    case KEY_NPAGE:
        scroll_by(top, page);
        break;
    case KEY_HOME:
        scroll_by(top, -(long)top->line_count);
        break;
    case KEY_END:
        scroll_by(top, (long)top->line_count);
        break;
    case KEY_RESIZE:
        frame_render(top, (unsigned)COLS);
        break;
    case KEY_CTRL_L:
        clearok(curscr, TRUE);
        break;
    default:
        break;
    }
    return true;
}

static bool terminal_gone(void)
{
    struct pollfd terminal = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&terminal, 1, 0) > 0 && (terminal.revents & (POLLHUP | POLLERR | POLLNVAL));
}

/* top_loop reads at fixed times and draws after each reading and each key. */
static void top_loop(struct top *top)
{
    for (;;) {
        uint64_t now_us = monotonic_us();
        if (now_us >= top->next_us) {
            top_read(top);
            frame_render(top, (unsigned)COLS);
            top->next_us = now_us + (uint64_t)top->interval_ms * 1000;
        }
        screen_draw(top);
        now_us = monotonic_us();
        timeout(top->next_us > now_us ? (int)((top->next_us - now_us) / 1000 + 1) : 0);
        int key = getch();
        if (key == ERR ? terminal_gone() : !key_handle(top, key))
            return;
    }
}

static int top_screen(struct top *top, struct text *error)
{
    SCREEN *screen = newterm(NULL, stdout, stdin);
    if (!screen) {
        const char *term = getenv("TERM");
        text_printf(error,
                    "top: the terminal type \"%s\" is unknown: set TERM, or use `vgpuctl status`",
                    term ? term : "");
        return -1;
    }
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    curs_set(0);
    top_loop(top);
    endwin();
    delscreen(screen);
    return 0;
}

int top_run(const char *mount, unsigned interval_ms, struct text *error)
{
    struct top top = {.mount = mount, .interval_ms = interval_ms};
    int result = top_read(&top);
    if (result != 0) {
        text_clear(error);
        text_append(error, top.error.data, top.error.size);
    } else if (isatty(STDOUT_FILENO) && isatty(STDIN_FILENO)) {
        result = top_screen(&top, error);
    } else {
        frame_render(&top, 0);
        fwrite(top.frame.data, 1, top.frame.size, stdout);
    }
    if (top.have_now)
        snapshot_finish(&top.now);
    if (top.have_before)
        snapshot_finish(&top.before);
    text_finish(&top.error);
    text_finish(&top.frame);
    return result;
}
