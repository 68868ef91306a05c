#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *tool_program = "vgpu";

void tool_init(const char *program)
{
    tool_program = program;
}

/* make_printable replaces what a terminal would obey: C0, DEL, and C1 in UTF-8 (0xc2 0x80..9f). */
static void make_printable(char *string)
{
    for (unsigned char *s = (unsigned char *)string; *s; s++) {
        if (*s < 0x20 || *s == 0x7f)
            *s = '?';
        else if (*s == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f)
            s[0] = s[1] = '?';
    }
}

void tool_error(const char *format, ...)
{
    char message[PATH_MAX + 2048];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    make_printable(message);
    fprintf(stderr, "%s: %s\n", tool_program, message);
}

void tool_bad_option(int answer, char *const *arguments)
{
    const char *option = optind > 0 ? arguments[optind - 1] : "";
    if (answer == ':')
        tool_error("option %s needs a value: see --help", option);
    else
        tool_error("option %s is not known or takes no value: see --help", option);
}

int tool_number(const char *string, uint32_t min, uint32_t max, uint32_t *value)
{
    uint64_t sum = 0;
    size_t digits = strspn(string, "0123456789");
    if (digits == 0 || digits > 10 || string[digits])
        return -1;
    for (size_t i = 0; i < digits; i++)
        sum = sum * 10 + (uint64_t)(string[i] - '0');
    if (sum < min || sum > max)
        return -1;
    *value = (uint32_t)sum;
    return 0;
}

int tool_seconds(const char *string, int64_t *ms)
{
    enum { YEAR_S = 366 * 24 * 3600 };
    char whole[16];
    uint32_t seconds, thousandths = 0;
    size_t digits = strcspn(string, ".");
    if (digits >= sizeof(whole))
        return -1;
    memcpy(whole, string, digits);
    whole[digits] = '\0';
    if (tool_number(whole, 0, YEAR_S, &seconds) != 0)
        return -1;
    if (string[digits] == '.') {
        const char *decimals = string + digits + 1;
        size_t count = strlen(decimals);
        if (count > 3 || tool_number(decimals, 0, 999, &thousandths) != 0)
            return -1;
        for (; count < 3; count++)
            thousandths *= 10;
    }
    *ms = (int64_t)seconds * 1000 + thousandths;
    return 0;
}

bool tool_is_vm_id(const char *string, uint32_t *vm_id)
{
    return string[0] != '0' && tool_number(string, 1, TOOL_MAX_VM_ID, vm_id) == 0;
}

int64_t tool_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void tool_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&span, NULL);
}

int tool_path(char *path, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(path, size, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= size) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return 0;
}

ssize_t tool_read_file(const char *path, char *buffer, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    size_t used = 0;
    ssize_t count = 1;
    while (used < size - 1 && count > 0) {
        count = read(file, buffer + used, size - 1 - used);
        if (count > 0)
            used += (size_t)count;
    }
    int error = errno;
    close(file);
    if (count < 0) {
        errno = error;
        return -1;
    }
    buffer[used] = '\0';
    return (ssize_t)strlen(buffer);
}

int tool_write_file(const char *path, const char *content, size_t size, enum tool_step *step)
{
    *step = TOOL_OPEN;
    /* No O_CREAT: where vgpufs is not mounted, nothing is to be left in the empty directory. */
    int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (file < 0)
        return -1;
    *step = TOOL_WRITE;
    ssize_t written = write(file, content, size);
    int error = written < 0 ? errno : (size_t)written < size ? EIO : 0;
    if (close(file) != 0 && !error)
        error = errno;
    errno = error;
    return error ? -1 : 0;
}

bool tool_is_outage(int error)
{
    return error == EIO || error == ESTALE || error == ENOTCONN;
}
