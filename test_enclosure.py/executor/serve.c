#include "serve.h"

#include "common/log.h"
#include "common/number.h"
#include "parallel.h"
#include "report.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct workload_info *find_info(const char *name)
{
    const struct workload *workload = workload_find(name);
    return workload ? &workload->info : NULL;
}

static void build_hello(struct text *frames, const struct backend *backend, bool descriptors)
{
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    struct frame_builder builder = frame_begin(frames, FRAME_HELLO, 0);
    frame_field(&builder, "protocol", "%d", FRAME_PROTOCOL);
    frame_field(&builder, "version", "%s", VGPUFS_VERSION);
    frame_field(&builder, "backend", "%s", backend->name);
    frame_field(&builder, "device", "%s", backend->device_name());
    frame_field(&builder, "host", "%s", host);
    frame_field(&builder, "pid", "%ld", (long)getpid());
    frame_field(&builder, "descriptors", "%s", descriptors ? "yes" : "no");
    struct text names = {0};
    for (size_t i = 0; i < workload_count; i++)
        text_printf(&names, "%s%s", i ? "," : "", workloads[i]->info.name);
    if (names.failed)
        frames->failed = true;
    frame_field(&builder, "workloads", "%s", names.data ? names.data : "");
    frame_end(&builder, NULL, 0);
    text_finish(&names);
}

static void build_refuse(struct text *frames, const char *error)
{
    struct frame_builder builder = frame_begin(frames, FRAME_REFUSE, 0);
    frame_field(&builder, "error", "%s", error);
    frame_end(&builder, NULL, 0);
}

/* hello_error returns what is wrong with the daemon's first frame, or NULL. */
static const char *hello_error(const struct frame *frame)
{
    uint64_t protocol = 0;
    const char *value = frame_get(frame, "protocol");
    if (frame->type != FRAME_HELLO || !value || number_parse(value, 0, UINT32_MAX, &protocol) < 0)
        return "the daemon's first frame is no hello";
    static char error[160];
    if (protocol == FRAME_PROTOCOL)
        return NULL;
    snprintf(error, sizeof(error),
             "this executor (version " VGPUFS_VERSION ") speaks protocol %d, the daemon %u: "
             "install the same version of both",
             FRAME_PROTOCOL, (unsigned)protocol);
    return error;
}

/* greet answers the daemon's hello: 0 if both go on, -1 if not. */
static int greet(struct channel *channel, const struct backend *backend, const char *error)
{
    struct frame frame;
    if (channel_receive(channel, &frame, -1) < 0) {
        /* Nobody is there to be told: say it here, once. */
        if (!backend)
            log_error("%s", error);
        else if (channel->error)
            log_error("instead of the daemon's hello: %s", channel->error);
        return -1;
    }
    int received[FRAME_MAX_DESCRIPTORS];
    size_t count = channel_take_descriptors(channel, received);
    for (size_t i = 0; i < count; i++)
        close(received[i]);
    const char *wrong = hello_error(&frame);
    if (!wrong && !backend)
        wrong = error;
    struct text answer = {0};
    if (wrong)
        build_refuse(&answer, wrong);
    else
        build_hello(&answer, backend, count > 0);
    if (!wrong && frame_get(&frame, "readings")) {
        report_start(backend);
        report_append(&answer, true);
    }
    int result = channel_send(channel, &answer);
    text_finish(&answer);
    return wrong ? -1 : result;
}

static void run_job(struct job *job, const struct backend *backend, struct channel *channel,
                    const struct frame *frame)
{
    enum job_status status = JOB_FAILED;
    if (job_start(job, channel, frame, find_info) == 0) {
        const struct workload *workload = workload_find(job->info->name);
        if (!workload->check || workload->check(job) == 0)
            status = backend->run(workload, job);
    }
    /* Where the work ended in time, a cancellation that came too late changes nothing. */
    job_answer(job, status, backend->broken() != NULL);
}

/* serve_jobs runs what comes until the channel is over, or the backend can no more. */
static void serve_jobs(struct channel *channel, const struct backend *backend)
{
    struct job job = {0};
    struct frame frame;
    int got;
    while (!backend->broken() && (got = channel_receive(channel, &frame, report_wait_ms())) >= 0) {
        if (got == 0) {
            report_append(&job.frames, false);
            channel_send(channel, &job.frames);
        } else if (frame.type == FRAME_JOB) {
            run_job(&job, backend, channel, &frame);
        } else if (frame.type != FRAME_CANCEL && frame.type != FRAME_RESERVED) {
            /* Those two may be late, for a job that has just ended. */
            channel->over = true;
            channel->error = "a frame that only an executor sends, or a second hello";
        }
    }
    job_finish(&job);
    parallel_finish();
}

int serve(const struct backend *backend, const char *error)
{
    /* A terminal's Ctrl-C goes to the whole foreground group: when to end is the daemon's to say.
     */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    struct channel channel;
    if (channel_init(&channel) < 0) {
        log_error("standard input and output: %s: start it from the vgpufs daemon",
                  strerror(errno));
        return EXIT_FAILURE;
    }
    int greeted = greet(&channel, backend, error);
    if (greeted == 0) {
        serve_jobs(&channel, backend);
        if (channel.error)
            log_error("from the daemon: %s: the connection ends", channel.error);
        else if (backend->broken())
            log_error("%s", backend->broken());
    }
    bool failed = !backend || channel.error || !channel.over;
    channel_finish(&channel);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
