#include "job.h"

#include "common/number.h"
#include "report.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS          1000000u
#define PROGRESS_PERIOD_NS (100 * NS_PER_MS)
#define POLL_PERIOD_NS     (2 * NS_PER_MS)
#define DEFAULT_MAX_RESULT (1024 * 1024)

uint64_t job_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const struct job_value *job_value(const struct job *job, const char *name)
{
    const struct workload_param *param = workload_find_param(job->info, name);
    /* A workload that asks for what it has not declared is a mistake in the workload. */
    if (!param)
        abort();
    return &job->values[param - job->info->params];
}

bool job_given(const struct job *job, const char *name)
{
    return job_value(job, name)->given;
}

const char *job_text(const struct job *job, const char *name)
{
    return job_value(job, name)->value;
}

uint64_t job_uint(const struct job *job, const char *name)
{
    uint64_t number = 0;
    number_parse(job_text(job, name), 0, UINT64_MAX, &number);
    return number;
}

double job_real(const struct job *job, const char *name)
{
    double number = 0;
    number_parse_real(job_text(job, name), -HUGE_VAL, HUGE_VAL, &number);
    return number;
}

enum job_status job_fail(struct job *job, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(job->error, sizeof(job->error), format, args);
    va_end(args);
    return JOB_FAILED;
}

enum job_status job_end(const struct job *job)
{
    return job->stopped ? JOB_CANCELLED : JOB_FAILED;
}

/* job_build_output makes frames of the output so far. */
static void job_build_output(struct job *job)
{
    for (size_t offset = 0; offset < job->output.size;) {
        size_t size = job->output.size - offset;
        if (size > FRAME_MAX_PAYLOAD)
            size = FRAME_MAX_PAYLOAD;
        struct frame_builder builder = frame_begin(&job->frames, FRAME_OUTPUT, job->attempt);
        frame_end(&builder, job->output.data + offset, size);
        offset += size;
    }
    if (job->output.failed)
        job->frames.failed = true;
    text_clear(&job->output);
}

void job_printf(struct job *job, const char *format, ...)
{
    size_t before = job->output.size;
    va_list args;
    va_start(args, format);
    text_vprintf(&job->output, format, args);
    va_end(args);
    size_t added = job->output.size - before;
    if (added > job->output_left) {
        added = (size_t)job->output_left;
        job->output.size = before + added;
    }
    job->output_left -= added;
    if (job->output.size < FRAME_MAX_PAYLOAD)
        return;
    job_build_output(job);
    if (channel_send(job->channel, &job->frames) < 0)
        job->stopped = true;
}

void job_count_times(struct job *job, uint64_t took, const struct job_shares *shares)
{
    double all = (double)shares->computed + (double)shares->verified + (double)shares->copied;
    double each = all > 0 ? (double)took / all : 0;
    uint64_t verifying = (uint64_t)(each * (double)shares->verified);
    uint64_t copying = (uint64_t)(each * (double)shares->copied);
    if (verifying + copying > took) /* by a rounding */
        copying = took - verifying;
    job->verify_ns += verifying;
    job->copy_ns += copying;
    job->compute_ns += took - verifying - copying;
}

void job_print_times(struct job *job)
{
    job_printf(job, " compute_us=%" PRIu64 " copy_us=%" PRIu64 " verify_us=%" PRIu64 "\n",
               job->compute_ns / 1000, job->copy_ns / 1000, job->verify_ns / 1000);
}

const char *real_text(char buffer[REAL_TEXT_SIZE], double value)
{
    if (value != value) /* printf(3) would print the sign of a NaN, which has no meaning */
        return strcpy(buffer, "nan");
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buffer, REAL_TEXT_SIZE, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value)
            break;
    }
    return buffer;
}

/* job_listen reads what the daemon says while the job runs, for up to `timeout_ms`. */
static void job_listen(struct job *job, int timeout_ms)
{
    struct frame frame;
    int got = channel_receive(job->channel, &frame, timeout_ms);
    for (; got > 0; got = channel_receive(job->channel, &frame, 0)) {
        if (frame.type == FRAME_CANCEL && frame.attempt == job->attempt)
            job->stopped = true;
        if (frame.type == FRAME_JOB) {
            job->channel->over = true;
            job->channel->error = "a second job while one runs";
        }
    }
    if (job->channel->over)
        job->stopped = true;
}

static void job_send_progress(struct job *job, double progress)
{
    struct frame_builder builder = frame_begin(&job->frames, FRAME_PROGRESS, job->attempt);
    frame_field(&builder, "value", "%.4f", progress);
    frame_end(&builder, NULL, 0);
    report_append(&job->frames, false);
    if (channel_send(job->channel, &job->frames) < 0)
        job->stopped = true;
}

int job_step(struct job *job, double progress)
{
    uint64_t now = job_clock_ns();
    if (now >= job->next_poll_ns) {
        job_listen(job, 0);
        job->next_poll_ns = now + POLL_PERIOD_NS;
    }
    if (now >= job->next_progress_ns && !job->stopped) {
        job_send_progress(job, progress);
        job->next_progress_ns = now + PROGRESS_PERIOD_NS;
    }
    return job->stopped ? -1 : 0;
}

int job_wait(struct job *job, uint64_t ms)
{
    uint64_t start = job_clock_ns(), end = start + ms * NS_PER_MS, now = start;
    while (!job->stopped && now < end) {
        uint64_t until = end < job->next_progress_ns ? end : job->next_progress_ns;
        if (until > now)
            job_listen(job, (int)((until - now + NS_PER_MS - 1) / NS_PER_MS));
        now = job_clock_ns();
        if (now < end)
            job_step(job, (double)(now - start) / (double)(end - start));
    }
    return job->stopped ? -1 : 0;
}

static void job_clear(struct job *job)
{
    for (size_t i = 0; i < job->descriptor_count; i++)
        close(job->descriptors[i]);
    job->descriptor_count = 0;
    text_clear(&job->output);
    text_clear(&job->frames);
    text_clear(&job->fields);
}

void job_finish(struct job *job)
{
    job_clear(job);
    text_finish(&job->output);
    text_finish(&job->frames);
    text_finish(&job->fields);
}

/* job_set_arguments takes every arg.NAME=VALUE; the workload's own table says what is allowed. */
static int job_set_arguments(struct job *job, const struct frame *frame)
{
    static const char prefix[] = "arg.";
    const size_t prefix_size = sizeof(prefix) - 1;
    const char *cursor = NULL, *key, *value;
    size_t size;
    while (frame_each(frame, &cursor, &key, &size, &value)) {
        char name[64];
        if (size < prefix_size || memcmp(key, prefix, prefix_size) != 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(size - prefix_size), key + prefix_size);
        const struct workload_param *param = workload_find_param(job->info, name);
        if (!param) {
            job_fail(job, "%s has no parameter %s=", job->info->name, name);
            return -1;
        }
        if (workload_param_check(param, value, job->error, sizeof(job->error)) < 0)
            return -1;
        struct job_value *target = &job->values[param - job->info->params];
        if (target->given) {
            job_fail(job, "%s= is given twice", name);
            return -1;
        }
        target->value = value;
        target->given = true;
    }
    return 0;
}

/* job_check_descriptor: the file that the daemon sent must be usable for that parameter. */
static int job_check_descriptor(struct job *job, const struct workload_param *param, int descriptor)
{
    struct stat status;
    int mode = fcntl(descriptor, F_GETFL);
    if (mode < 0 || fstat(descriptor, &status) < 0 || !S_ISREG(status.st_mode)) {
        job_fail(job, "%s=: the executor got no regular file", param->name);
        return -1;
    }
    mode &= O_ACCMODE;
    int wanted = param->type == PARAM_FILE_OUT ? O_WRONLY : O_RDONLY;
    if (mode != O_RDWR && mode != wanted) {
        job_fail(job, "%s=: the executor got a file that it may not %s", param->name,
                 param->type == PARAM_FILE_OUT ? "write" : "read");
        return -1;
    }
    return 0;
}

/* job_set_files finds the descriptor of each file that was named. */
static int job_set_files(struct job *job, const struct frame *frame)
{
    for (size_t i = 0; i < job->info->param_count; i++) {
        const struct workload_param *param = &job->info->params[i];
        if (!job->values[i].given ||
            (param->type != PARAM_FILE_IN && param->type != PARAM_FILE_OUT))
            continue;
        char key[80];
        uint64_t index;
        snprintf(key, sizeof(key), "file.%s", param->name);
        const char *value = frame_get(frame, key);
        if (job->descriptor_count == 0 || !value) {
            job_fail(job,
                     "%s=%s: the file did not reach the executor: data files need an executor "
                     "on the daemon's machine",
                     param->name, job->values[i].value);
            return -1;
        }
        if (number_parse(value, 0, job->descriptor_count - 1, &index) < 0) {
            job_fail(job, "%s=%s: the job came with no such descriptor", param->name,
                     job->values[i].value);
            return -1;
        }
        if (job_check_descriptor(job, param, job->descriptors[index]) < 0)
            return -1;
        job->values[i].descriptor = job->descriptors[index];
    }
    return 0;
}

int job_start(struct job *job, struct channel *channel, const struct frame *frame,
              const struct workload_info *(*find)(const char *name))
{
    job_clear(job);
    *job = (struct job){
        .channel = channel,
        .attempt = frame->attempt,
        .fields = job->fields,
        .output = job->output,
        .frames = job->frames,
        .start_ns = job_clock_ns(),
    };
    job->next_poll_ns = job->start_ns + POLL_PERIOD_NS;
    job->next_progress_ns = job->start_ns + PROGRESS_PERIOD_NS;
    job->descriptor_count = channel_take_descriptors(channel, job->descriptors);
    /* The frame lies in the reader, which goes on reading while the job runs. */
    text_append(&job->fields, frame->fields, frame->fields_size);
    if (job->fields.failed) {
        job_fail(job, "out of memory");
        return -1;
    }
    struct frame copy = {.fields = job->fields.data, .fields_size = job->fields.size};
    const char *command = frame_get(&copy, "command");
    job->info = command ? find(command) : NULL;
    if (!job->info) {
        job_fail(job,
                 "unknown command %s: this executor (version " VGPUFS_VERSION ") has none "
                 "of that name",
                 command ? command : "-");
        return -1;
    }
    const char *max_result = frame_get(&copy, "max_result");
    uint64_t limit = DEFAULT_MAX_RESULT;
    if (max_result && number_parse(max_result, 0, UINT64_MAX - 1, &limit) < 0) {
        job_fail(job, "max_result=%s is no number of bytes", max_result);
        return -1;
    }
    job->output_left = limit + 1; /* the one byte more tells the daemon that something is missing */
    for (size_t i = 0; i < job->info->param_count; i++)
        job->values[i] =
            (struct job_value){.value = job->info->params[i].default_value, .descriptor = -1};
    return job_set_arguments(job, &copy) < 0 || job_set_files(job, &copy) < 0 ? -1 : 0;
}

void job_answer(struct job *job, enum job_status status, bool leaving)
{
    static const char *const names[] = {"done", "failed", "cancelled"};
    uint64_t run_ns = job_clock_ns() - job->start_ns;
    for (size_t i = 0; i < job->descriptor_count; i++)
        close(job->descriptors[i]);
    job->descriptor_count = 0;
    job_build_output(job);
    if (leaving) /* the last word before the connection ends */
        report_append(&job->frames, true);
    struct frame_builder builder = frame_begin(&job->frames, FRAME_DONE, job->attempt);
    frame_text(&builder, "status", names[status]);
    if (status == JOB_FAILED)
        frame_text(&builder, "error", job->error[0] ? job->error : "failed");
    if (status == JOB_FAILED && job->fault)
        frame_field(&builder, "fault", "%s", job->fault);
    if (leaving)
        frame_field(&builder, "leaving", "yes");
    if (job->backend) {
        frame_field(&builder, "backend", "%s", job->backend);
        frame_field(&builder, "device", "%s", job->device);
    }
    frame_number(&builder, "device_us", run_ns / 1000);
    frame_number(&builder, "compute_us", job->compute_ns / 1000);
    frame_number(&builder, "copy_us", job->copy_ns / 1000);
    frame_number(&builder, "verify_us", job->verify_ns / 1000);
    frame_end(&builder, NULL, 0);
    channel_send(job->channel, &job->frames);
    if (leaving)
        return;
    report_append(&job->frames, false); /* after the answer: reading takes its time */
    channel_send(job->channel, &job->frames);
}
