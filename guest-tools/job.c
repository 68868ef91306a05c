#include "job.h"

#include "record.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define DIGITS  "0123456789"

/* How each state of a job is to be understood; one that is not here is a job that goes on. */
static const struct {
    const char *name;
    enum job_phase phase;
} job_states[] = {
    {"done", JOB_ENDED},    {"failed", JOB_ENDED},      {"cancelled", JOB_ENDED},
    {"timeout", JOB_ENDED}, {"rejected", JOB_REJECTED},
};

/* What the errors of a submission mean (vgpufs(7)), for when the daemon's own words are not had. */
static const struct submit_error {
    int number;
    const char *name, *advice;
} submit_errors[] = {
    {EINVAL, "EINVAL", "check the command, its keys and their values"},
    {EFBIG, "EFBIG", "the line is too long: put data into files in data/"},
    {EACCES, "EACCES",
     "this user or this VM's identity may not do that: run as the owner of the "
     "VM's directory, see its identity file"},
    {EEXIST, "EEXIST", "the tag is in use for another command: choose another --tag"},
    {EDQUOT, "EDQUOT",
     "the VM has too many jobs or too much data: wait, or remove some of jobs/* "
     "or data/*"},
    {ENOSPC, "ENOSPC", "the pool's queue or the host's disk is full: try again later"},
    {EROFS, "EROFS", "the host drains and takes no new jobs: try again later"},
    {ESTALE, "ESTALE", "the host's daemon was started again: try again"},
    {ENOENT, "ENOENT", "mount vgpufs there first, and check that the host has this VM"},
    {ENOTCONN, "ENOTCONN", "the host's daemon does not run: start it, then mount again"},
    {EIO, "EIO", "the host's daemon is away: try again when it runs"},
};

bool job_tag_is_valid(const char *tag)
{
    size_t length = strlen(tag);
    return length > 0 && length < JOB_TAG_SIZE && strcmp(tag, "all") != 0 &&
           strspn(tag, LETTERS) > 0 && strspn(tag, LETTERS DIGITS "._-") == length;
}

/* random_fill takes the bytes from /dev/urandom where getrandom(2) is older than the kernel. */
static int random_fill(unsigned char *bytes, size_t size)
{
    if (getrandom(bytes, size, 0) == (ssize_t)size)
        return 0;
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    ssize_t count = read(file, bytes, size);
    close(file);
    if (count == (ssize_t)size)
        return 0;
    errno = EIO;
    return -1;
}

int job_tag_make(char tag[JOB_TAG_SIZE])
{
    uint64_t number;
    unsigned char bytes[sizeof(number)];
    if (random_fill(bytes, sizeof(bytes)) != 0)
        return -1;
    memcpy(&number, bytes, sizeof(number));
    snprintf(tag, JOB_TAG_SIZE, "run-%016llx", (unsigned long long)number);
    return 0;
}

static int refuse(char *message, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int refuse(char *message, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message, size, format, args);
    va_end(args);
    return -1;
}

static bool has_control(const char *string)
{
    for (; *string; string++)
        if ((unsigned char)*string < 0x20 || *string == 0x7f)
            return true;
    return false;
}

struct line_builder {
    char *line;
    size_t used;
    bool full;
};

static void line_put(struct line_builder *builder, char c)
{
    if (builder->used == JOB_LINE_SIZE - 1)
        builder->full = true;
    else
        builder->line[builder->used++] = c;
}

static void line_puts(struct line_builder *builder, const char *string, size_t size)
{
    for (size_t i = 0; i < size; i++)
        line_put(builder, string[i]);
}

static void line_put_value(struct line_builder *builder, const char *value)
{
    if (*value && !strpbrk(value, " \"\\")) {
        line_puts(builder, value, strlen(value));
        return;
    }
    line_put(builder, '"');
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            line_put(builder, '\\');
        line_put(builder, *value);
    }
    line_put(builder, '"');
}

/* argument_check: is it key=value, with a key that a directory's job can have? */
static int argument_check(const char *argument, size_t *key_size, char *message, size_t size)
{
    *key_size = strspn(argument, "abcdefghijklmnopqrstuvwxyz" DIGITS "_");
    if (*key_size == 0 || argument[*key_size] != '=')
        return refuse(message, size, "argument %.64s is not key=value: write it as n=8", argument);
    if (has_control(argument))
        return refuse(message, size, "the value of %.*s has a control character: take it out",
                      (int)(*key_size < 64 ? *key_size : 64), argument);
    if (*key_size == 3 && memcmp(argument, "tag", 3) == 0)
        return refuse(message, size, "tag= cannot be given to a job with a directory: use --tag");
    return 0;
}

int job_line_build(char line[JOB_LINE_SIZE], int count, char *const *arguments, char *message,
                   size_t size)
{
    struct line_builder builder = {.line = line};
    const char *command = count > 0 ? arguments[0] : "";
    if (!isalpha((unsigned char)*command) || has_control(command) || strpbrk(command, " \"\\="))
        return refuse(message, size, "%.64s is no COMMAND: write a word such as VECTOR_ADD",
                      *command ? command : "an empty word");
    line_puts(&builder, command, strlen(command));
    for (int i = 1; i < count; i++) {
        size_t key_size;
        if (argument_check(arguments[i], &key_size, message, size) != 0)
            return -1;
        line_put(&builder, ' ');
        line_puts(&builder, arguments[i], key_size + 1);
        line_put_value(&builder, arguments[i] + key_size + 1);
    }
    if (builder.full)
        return refuse(message, size, "the command is longer than %d bytes: shorten its values",
                      JOB_LINE_SIZE - 1);
    line[builder.used] = '\0';
    return 0;
}

int job_init(struct job *job, const char *mount, uint32_t vm_id, const char *tag)
{
    job->created = false;
    if (tool_path(job->vm_directory, sizeof(job->vm_directory), "%s/vm%u", mount, vm_id) != 0)
        return -1;
    return tool_path(job->directory, sizeof(job->directory), "%s/jobs/%s", job->vm_directory, tag);
}

/* job_path makes the path of a file in `directory`; job_init left room by PATH_MAX alone. */
static int job_path(char *path, size_t size, const char *directory, const char *name)
{
    return tool_path(path, size, "%s/%s", directory, name);
}

/*
 * daemon_words fetches the text of the VM's last error, if it is the error that was just seen:
 * errno has one number for many mistakes.
 */
static bool daemon_words(const struct job *job, const char *error_name, char *text, size_t size)
{
    char path[PATH_MAX], content[16384], name[16];
    if (job_path(path, sizeof(path), job->vm_directory, "status") != 0 ||
        tool_read_file(path, content, sizeof(content)) <= 0)
        return false;
    const char *line = record_find(content, "last_error");
    return line && record_get(line, "errno", name, sizeof(name)) && strcmp(name, error_name) == 0 &&
           record_get(line, "text", text, size) && text[0];
}

static void explain_submit_error(const struct job *job, const char *what, int error, bool ask,
                                 char *message, size_t size)
{
    char text[600];
    const struct submit_error *known = NULL;
    for (size_t i = 0; i < sizeof(submit_errors) / sizeof(submit_errors[0]); i++)
        if (submit_errors[i].number == error)
            known = &submit_errors[i];
    if (known && ask && daemon_words(job, known->name, text, sizeof(text)))
        snprintf(message, size, "cannot submit (%s): %s", known->name, text);
    else
        snprintf(message, size, "cannot submit: %s %s: %s: %s", what, job->directory,
                 strerror(error), known ? known->advice : "see vgpufs(7), TROUBLESHOOTING");
}

int job_submit(struct job *job, const char *line, char *message, size_t size)
{
    char path[PATH_MAX], content[JOB_LINE_SIZE + 1];
    enum tool_step step = TOOL_OPEN;
    /*
     * EEXIST is no error: --tag may name a job that was submitted before, and an NFS client that
     * has to send its MKDIR again gets it for a directory of its own. A tag that has another
     * command is refused by the write.
     */
    job->created = mkdir(job->directory, 0700) == 0;
    if (!job->created && errno != EEXIST) {
        int error = errno;
        explain_submit_error(job, "mkdir", error, true, message, size);
        errno = error;
        return -1;
    }
    int length = snprintf(content, sizeof(content), "%s\n", line);
    if (job_path(path, sizeof(path), job->directory, "command") != 0 ||
        tool_write_file(path, content, (size_t)length, &step) != 0) {
        int error = errno;
        explain_submit_error(job, step == TOOL_OPEN ? "open command of" : "write command of", error,
                             step == TOOL_WRITE, message, size);
        errno = error;
        return -1;
    }
    return 0;
}

/* progress_parse reads the share that is done, 0..1; anything else is unknown. */
static double progress_parse(const char *line)
{
    char text[16], *end;
    if (!record_get(line, "progress", text, sizeof(text)) || !isdigit((unsigned char)text[0]))
        return -1;
    double progress = strtod(text, &end);
    return *end == '\0' && progress >= 0 && progress <= 1 ? progress : -1;
}

/* vm_is_held: does the VM's status say so? */
static bool vm_is_held(const struct job *job)
{
    char path[PATH_MAX], text[4096], held[4];
    if (job_path(path, sizeof(path), job->vm_directory, "status") != 0 ||
        tool_read_file(path, text, sizeof(text)) < 0)
        return false;
    const char *line = record_find(text, "vm");
    return line && record_get(line, "held", held, sizeof(held)) && strcmp(held, "yes") == 0;
}

int job_poll(const struct job *job, struct job_status *status)
{
    char path[PATH_MAX], line[4096];
    if (job_path(path, sizeof(path), job->directory, "status") != 0)
        return -1;
    if (tool_read_file(path, line, sizeof(line)) < 0) {
        if (errno != ENOENT)
            return -1;
        /* While the host mounts anew, the empty directory below can be seen. */
        bool mounted = access(job->vm_directory, F_OK) == 0;
        errno = mounted ? ENOENT : ENOTCONN;
        return -1;
    }
    *status = (struct job_status){.phase = JOB_PENDING, .progress = progress_parse(line)};
    if (!record_get(line, "state", status->state, sizeof(status->state)))
        snprintf(status->state, sizeof(status->state), "submitted");
    if (!record_number(line, "position", &status->position))
        status->position = 0;
    for (size_t i = 0; i < sizeof(job_states) / sizeof(job_states[0]); i++)
        if (strcmp(status->state, job_states[i].name) == 0)
            status->phase = job_states[i].phase;
    status->held = strcmp(status->state, "queued") == 0 && vm_is_held(job);
    if (!record_get(line, "error", status->error, sizeof(status->error)))
        status->error[0] = '\0';
    return 0;
}

static int write_all(int output, const char *bytes, size_t size)
{
    while (size) {
        ssize_t count = write(output, bytes, size);
        if (count < 0)
            return -1;
        bytes += count;
        size -= (size_t)count;
    }
    return 0;
}

/* header_fetch reads until the first newline. */
static enum job_fetch header_fetch(int file, struct job_result *result)
{
    char header[sizeof(result->header)];
    size_t used = 0;
    char *newline = NULL;
    while (!newline && used < sizeof(header)) {
        ssize_t count = pread(file, header + used, sizeof(header) - used, (off_t)used);
        if (count < 0)
            return JOB_FETCH_FAILED;
        if (count == 0)
            return JOB_FETCH_CUT;
        newline = memchr(header + used, '\n', (size_t)count);
        used += (size_t)count;
    }
    if (!newline)
        return JOB_FETCH_CUT;
    *newline = '\0';
    if (strlen(header) < (size_t)(newline - header))
        return JOB_FETCH_CUT;
    memcpy(result->header, header, (size_t)(newline - header) + 1);
    result->offset = newline - header + 1;
    return JOB_FETCHED;
}

static enum job_fetch output_fetch(int file, struct job_result *result, int output)
{
    char buffer[65536];
    uint64_t bytes;
    bool bounded = record_number(result->header, "bytes", &bytes);
    uint64_t done = (uint64_t)result->offset - strlen(result->header) - 1;
    while (!bounded || done < bytes) {
        size_t wanted =
            bounded && bytes - done < sizeof(buffer) ? (size_t)(bytes - done) : sizeof(buffer);
        ssize_t count = pread(file, buffer, wanted, result->offset);
        if (count < 0)
            return JOB_FETCH_FAILED;
        if (count == 0)
            return bounded ? JOB_FETCH_CUT : JOB_FETCHED;
        if (write_all(output, buffer, (size_t)count) != 0)
            return JOB_OUTPUT_FAILED;
        result->offset += count;
        done += (uint64_t)count;
    }
    return JOB_FETCHED;
}

enum job_fetch job_fetch(const struct job *job, struct job_result *result, int output)
{
    char path[PATH_MAX];
    if (job_path(path, sizeof(path), job->directory, "result") != 0)
        return JOB_FETCH_FAILED;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return JOB_FETCH_FAILED;
    enum job_fetch outcome = result->offset ? JOB_FETCHED : header_fetch(file, result);
    if (outcome == JOB_FETCHED)
        outcome = output_fetch(file, result, output);
    int error = errno;
    close(file);
    errno = error;
    return outcome;
}

int job_remove(const struct job *job)
{
    return rmdir(job->directory);
}
