#include "run.h"

#include "data.h"
#include "parked.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of a job's frame: most jobs need no more. */
#define FRAME_ROOM 256

static int file_open(struct run *run, const struct command_argument *argument, char *error)
{
    struct data *data = &run->job->vm->data;
    bool is_output = argument->param->type == PARAM_FILE_OUT;
    if (run->file_count == FRAME_MAX_DESCRIPTORS) {
        snprintf(error, COMMAND_MAX_ERROR, "more than %d files", FRAME_MAX_DESCRIPTORS);
        return -1;
    }
    struct run_file *file = &run->files[run->file_count];
    *file = (struct run_file){.param = argument->param, .descriptor = -1};
    int failure = 0;
    if (is_output) {
        failure = data_create_output(data, &file->file);
        file->install_as = strdup(argument->value);
        if (!failure && !file->install_as)
            failure = ENOMEM;
    } else if (!(file->file = data_find(data, argument->value))) {
        failure = ENOENT;
    }
    if (!failure)
        file->descriptor = data_open_backing(file->file, is_output ? O_RDWR : O_RDONLY);
    if (!failure && file->descriptor < 0)
        failure = errno;
    run->file_count++;
    if (!failure)
        return 0;
    struct text text = {0};
    text_printf(&text, "%s=", argument->param->name);
    text_escape(&text, argument->value, strlen(argument->value), 200);
    snprintf(error, COMMAND_MAX_ERROR, "%s: %s in data/", text.failed ? "file" : text.data,
             failure == ENOENT ? "no such file" : strerror(failure));
    text_finish(&text);
    return -1;
}

int run_prepare(struct run *run, const struct catalogue *catalogue, struct text *frame, char *error)
{
    const struct job *job = run->job;
    struct command command;
    if (command_parse(&command, catalogue, job->line, strcspn(job->line, "\n"), error) != 0)
        return -1; /* it was accepted with this catalogue: cannot happen */
    text_reserve(frame, FRAME_ROOM);
    struct frame_builder builder = frame_begin(frame, FRAME_JOB, run->attempt);
    frame_text(&builder, "command", command.workload->name);
    frame_number(&builder, "vm", job->vm->id);
    frame_number(&builder, "job", job->number);
    frame_number(&builder, "max_result", run->max_output_bytes);
    for (size_t i = 0; i < command.argument_count; i++) {
        const struct command_argument *argument = &command.arguments[i];
        char key[64];
        snprintf(key, sizeof(key), "arg.%s", argument->param->name);
        frame_text(&builder, key, argument->value);
        if (argument->param->type != PARAM_FILE_IN && argument->param->type != PARAM_FILE_OUT)
            continue;
        snprintf(key, sizeof(key), "file.%s", argument->param->name);
        frame_number(&builder, key, run->file_count);
        if (file_open(run, argument, error) < 0)
            return -1;
    }
    frame_end(&builder, NULL, 0);
    if (!frame->failed)
        return 0;
    snprintf(error, COMMAND_MAX_ERROR, "no memory for the job");
    return -1;
}

size_t run_descriptors(const struct run *run, int *descriptors)
{
    for (size_t i = 0; i < run->file_count; i++)
        descriptors[i] = run->files[i].descriptor;
    return run->file_count;
}

void run_output(struct run *run, const void *bytes, size_t size)
{
    size_t room = run->max_output_bytes - run->output.size;
    if (size > room) {
        run->truncated = true;
        size = room;
    }
    text_append(&run->output, bytes, size);
}

int run_reserve(struct run *run, const char *param, uint64_t bytes)
{
    for (size_t i = 0; i < run->file_count; i++) {
        const struct run_file *file = &run->files[i];
        if (file->install_as && strcmp(file->param->name, param) == 0)
            return bytes > INT64_MAX ? EFBIG : data_charge(file->file, bytes);
    }
    return ENOENT;
}

bool run_has_output(const struct run *run)
{
    for (size_t i = 0; i < run->file_count; i++)
        if (run->files[i].install_as)
            return true;
    return false;
}

int run_sync(const struct run *run, char *error)
{
    for (size_t i = 0; i < run->file_count; i++) {
        const struct run_file *file = &run->files[i];
        if (!file->install_as || fdatasync(file->descriptor) == 0)
            continue;
        snprintf(error, COMMAND_MAX_ERROR, "%s=: cannot have the file on disk: %s",
                 file->param->name, strerror(errno));
        return -1;
    }
    return 0;
}

int run_install(struct run *run, char *error)
{
    for (size_t i = 0; i < run->file_count; i++) {
        struct run_file *file = &run->files[i];
        struct stat before, after;
        if (!file->install_as)
            continue;
        data_stat(file->file, &before);
        data_settle(file->file, file->descriptor);
        data_stat(file->file, &after);
        if (after.st_size > before.st_size) {
            snprintf(error, COMMAND_MAX_ERROR,
                     "%s= has %jd bytes, more than the %jd that were reserved", file->param->name,
                     (intmax_t)after.st_size, (intmax_t)before.st_size);
            return -1;
        }
    }
    for (size_t i = 0; i < run->file_count; i++) {
        struct run_file *file = &run->files[i];
        uint64_t replaced = 0;
        int failure = file->install_as ? data_install(file->file, file->install_as, &replaced) : 0;
        if (replaced)
            notify_file_gone(run->job->vm, replaced);
        if (failure) {
            snprintf(error, COMMAND_MAX_ERROR, "%s=: cannot put the file in place: %s",
                     file->param->name, strerror(failure));
            return -1;
        }
    }
    return 0;
}

void run_finish(struct run *run)
{
    for (size_t i = 0; i < run->file_count; i++) {
        struct run_file *file = &run->files[i];
        if (file->descriptor >= 0)
            close(file->descriptor);
        data_unref(file->file);
        free(file->install_as);
    }
    text_finish(&run->output);
    job_unref(run->job);
    *run = (struct run){0};
}
