#include "slot.h"

#include "clock.h"
#include "common/log.h"
#include "common/number.h"
#include "pool.h"
#include "process.h"
#include "server.h"
#include "slot_command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELLO_US        UINT64_C(60000000) /* ssh and srun take their time */
#define CANCEL_GRACE_US UINT64_C(500000)
#define PROBE_US        UINT64_C(30000000)
#define KNOW_WHY_US     UINT64_C(100000) /* how long a job waits for its executor's exit status */
#define FIRST_DELAY_US  UINT64_C(100000)
#define MOST_DELAY_US   UINT64_C(30000000)
#define MOST_GREETED_US UINT64_C(1000000)
/* Of one executor in a row: whoever floods must not keep the pool from its timers and slots. */
#define MOST_READS 16
/* What a probe runs: it allocates, copies, computes and checks. */
#define PROBE_COMMAND "SANITY"
#define PROBE_MIB     1
/* So many failed starts, or losses without a job done in between, make a probe necessary. */
#define DOUBT_STARTS 2
#define DOUBT_LOSSES 3

const char *slot_state_name(enum slot_state state)
{
    static const char *const names[] = {"down", "starting", "idle", "busy", "dying"};
    return names[state];
}

void slot_init(struct slot *slot, struct pool *pool, unsigned index)
{
    *slot = (struct slot){.pool = pool, .index = index, .state = SLOT_DOWN, .death = -1};
    snprintf(slot->name, sizeof(slot->name), "%s.%u", pool->name, index);
    link_init(&slot->link);
    slot_reading_init(&slot->reading);
}

/* restart_delay_us grows with the failures in a row; the first restart is at once. One that greeted
 * works: what killed it was a job, and others must not wait long for that. */
static uint64_t restart_delay_us(unsigned failures, bool greeted)
{
    uint64_t most = greeted ? MOST_GREETED_US : MOST_DELAY_US;
    if (failures <= 1)
        return 0;
    unsigned doublings = failures - 2 < 16 ? failures - 2 : 16;
    uint64_t delay = FIRST_DELAY_US << doublings;
    return delay < most ? delay : most;
}

/* slot_note_failure keeps why there is no executor. The log hears it once in a row, and not while
 * the daemon starts: then the start fails with these words. */
static void slot_note_failure(struct slot *slot, const char *text)
{
    if (strcmp(slot->failure, text) != 0 && atomic_load(&slot->pool->server->serving))
        log_warning("executor %s: %s", slot->name, text);
    snprintf(slot->failure, sizeof(slot->failure), "%s", text);
    slot->answered = true;
    pthread_cond_broadcast(&slot->pool->slots_changed);
}

void slot_end(struct slot *slot, enum job_state state, const char *error, struct ending *ending)
{
    if (error)
        snprintf(ending->error, sizeof(ending->error), "%s", error);
    memcpy(ending->backend, slot->backend, sizeof(ending->backend));
    memcpy(ending->device, slot->device, sizeof(ending->device));
    ending->run = slot->run;
    ending->outcome = (struct job_outcome){
        .state = state,
        .error = error ? ending->error : NULL,
        .backend = ending->backend,
        .device = ending->device,
        .truncated = slot->run.truncated,
        .exit_code = -1,
        .ended_us = clock_now_us(),
    };
    slot->run = (struct run){0};
    if (slot->state == SLOT_BUSY)
        slot->state = SLOT_IDLE;
}

/*
 * slot_count_failure counts an executor that did not start, was lost, or failed its probe, and says
 * what that means for the next one.
 */
static void slot_count_failure(struct slot *slot)
{
    bool served = slot->state == SLOT_IDLE || slot->state == SLOT_BUSY;
    slot->probe = 0;
    slot->failures++;
    if (slot->doubted && !slot->failing && !slot->pool->quitting) {
        slot->failing = true;
        log_warning("executor %s is failing: no job is sent to it until it passes a probe, which "
                    "is tried again and again",
                    slot->name);
    }
    if (slot->failures >= (served ? DOUBT_LOSSES : DOUBT_STARTS))
        slot->doubted = true;
}

/* slot_accept: the executor gets jobs from now on. */
static void slot_accept(struct slot *slot)
{
    if (slot->failing) {
        log_warning("executor %s has passed its probe: it serves again", slot->name);
        slot->failures = 0;
    }
    slot->doubted = slot->failing = false;
    slot->probe = 0;
    slot->state = SLOT_IDLE;
    slot->due_us = UINT64_MAX;
    slot->failure[0] = '\0';
    slot->answered = true;
    pthread_cond_broadcast(&slot->pool->slots_changed);
}

/* slot_kill: the cgroup's files do not ask whose its processes are; kill(2) reaches those of a user
 * of their own only if the daemon is root. */
static void slot_kill(const struct slot *slot)
{
    enclosure_kill(slot->pool->server->enclosures, slot->name);
    kill(-slot->pid, SIGKILL);
}

/* slot_lose gives the process up: kill it, with all that is in its cgroup and its group, and wait
 * for it. Its job stays until the reason is known. */
static void slot_lose(struct slot *slot)
{
    slot_kill(slot);
    for (int left = MOST_READS; left && link_read_errors(&slot->link, slot->name) > 0; left--)
        continue;
    if (slot->death >= 0)
        close(slot->death);
    slot->death = -1;
    link_close(&slot->link); /* closing takes both out of the epoll set */
    slot_count_failure(slot);
    slot_reading_lose(&slot->reading);
    slot->state = SLOT_DYING;
    slot->waits = 0;
    slot->lost_us = slot->due_us = clock_now_us();
}

/* slot_fail ends the job, if there is one, with that error and gives the process up. */
static void slot_fail(struct slot *slot, enum job_state state, const char *error,
                      struct ending *ending)
{
    bool crashed = state != JOB_CANCELLED;
    if (slot->state == SLOT_BUSY && !slot->run.preparing) {
        slot_end(slot, state, error, ending);
        ending->outcome.crashed = crashed;
    } else {
        slot_note_failure(slot, error);
    }
    slot_lose(slot);
}

static void watch(struct slot *slot, int descriptor, uint32_t kind)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)slot->index << 3 | kind};
    epoll_ctl(slot->pool->epoll, EPOLL_CTL_ADD, descriptor, &event);
}

/*
 * slot_greet sends the hello. Any descriptor goes along: an executor that gets it knows that data
 * files can come the same way, which they cannot through ssh.
 */
static int slot_greet(struct slot *slot)
{
    struct text frame = {0};
    struct frame_builder builder = frame_begin(&frame, FRAME_HELLO, 0);
    frame_field(&builder, "protocol", "%d", FRAME_PROTOCOL);
    frame_field(&builder, "pool", "%s", slot->pool->name);
    frame_field(&builder, "slot", "%u", slot->index);
    frame_field(&builder, "readings", "yes");
    frame_end(&builder, NULL, 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int result = link_send(&slot->link, &frame, &null, null >= 0);
    if (null >= 0)
        close(null);
    text_finish(&frame);
    return result;
}

void slot_launch(struct slot *slot)
{
    struct pool *pool = slot->pool;
    int connection = -1, errors = -1;
    char **words = slot_command(slot);
    const struct server *server = pool->server;
    const struct config_pool *config = &server->config->pools[pool->index];
    struct enclosure_limits limits = {config->host_memory_bytes, config->max_processes};
    struct enclosure enclosure;
    enclosure_open(server->enclosures, slot->name, &limits, &enclosure);
    uint64_t ooms = enclosure_ooms(server->enclosures, slot->name);
    pid_t pid = words ? spawner_start(server->spawner, words, config->sandbox, &enclosure,
                                      &connection, &errors)
                      : -1;
    int error = errno;
    enclosure_close(&enclosure);
    slot_command_free(slot, words);
    pthread_mutex_lock(&pool->lock);
    if (pid < 0) {
        char text[256];
        snprintf(text, sizeof(text), "cannot start '%s': %s", pool->executor[0], strerror(error));
        slot_count_failure(slot);
        slot_note_failure(slot, text);
        slot->due_us = clock_now_us() + restart_delay_us(slot->failures + 1, false);
    } else {
        slot->pid = pid;
        slot->ooms = ooms;
        slot->state = SLOT_STARTING;
        slot->greeted = false;
        slot->due_us = clock_now_us() + HELLO_US;
        link_open(&slot->link, connection, errors);
        watch(slot, connection, POOL_EVENT_FRAMES);
        watch(slot, errors, POOL_EVENT_ERRORS);
        slot->death = process_descriptor(pid);
        if (slot->death >= 0)
            watch(slot, slot->death, POOL_EVENT_DEATH);
        state_put_executor(pool->server->state, pid, process_start_time(pid));
        slot_greet(slot); /* if that fails, the end of the connection will be read */
        if (pool->quitting)
            slot_lose(slot); /* slot_quit found none to end */
    }
    pthread_mutex_unlock(&pool->lock);
}

static void copy_field(char *to, size_t size, const struct frame *frame, const char *key)
{
    const char *value = frame_get(frame, key);
    snprintf(to, size, "%s", value ? value : "-");
}

/* is_backend: a word that may stand unquoted in a header. */
static bool is_backend(const char *name)
{
    return *name && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(name);
}

/* has_workload looks into the hello's list. */
static bool has_workload(const struct frame *frame, const char *name)
{
    const char *list = frame_get(frame, "workloads");
    size_t size = strlen(name);
    for (; list; list = strchr(list, ',')) {
        list += *list == ',';
        if (strncmp(list, name, size) == 0 && (list[size] == ',' || !list[size]))
            return true;
    }
    return false;
}

static int slot_send_probe(struct slot *slot)
{
    struct text frame = {0};
    slot->probe = ++slot->pool->last_attempt;
    slot->due_us = clock_now_us() + PROBE_US;
    struct frame_builder builder = frame_begin(&frame, FRAME_JOB, slot->probe);
    frame_field(&builder, "command", "%s", PROBE_COMMAND);
    frame_field(&builder, "vm", "%d", 0);
    frame_field(&builder, "job", "%d", 0);
    frame_field(&builder, "max_result", "%d", 4096);
    frame_field(&builder, "arg.mib", "%d", PROBE_MIB);
    frame_end(&builder, NULL, 0);
    int sent = link_send(&slot->link, &frame, NULL, 0);
    text_finish(&frame);
    return sent;
}

static const char *take_hello(struct slot *slot, const struct frame *frame)
{
    const char *protocol = frame_get(frame, "protocol");
    const char *descriptors = frame_get(frame, "descriptors");
    uint64_t version;
    if (slot->state != SLOT_STARTING || slot->probe)
        return "it said hello twice";
    if (!protocol || number_parse(protocol, FRAME_PROTOCOL, FRAME_PROTOCOL, &version) < 0)
        return "it speaks another version of the protocol: install the same version of vgpufs "
               "where it runs";
    copy_field(slot->backend, sizeof(slot->backend), frame, "backend");
    copy_field(slot->device, sizeof(slot->device), frame, "device");
    copy_field(slot->host, sizeof(slot->host), frame, "host");
    copy_field(slot->reported_pid, sizeof(slot->reported_pid), frame, "pid");
    if (!is_backend(slot->backend) ||
        strspn(slot->reported_pid, "0123456789-") != strlen(slot->reported_pid))
        return "its hello has a malformed backend or pid";
    slot->descriptors = descriptors && strcmp(descriptors, "yes") == 0;
    slot->greeted = true;
    log_info("executor %s: backend=%s pid=%d", slot->name, slot->backend, slot->pid);
    if (!slot->doubted || !has_workload(frame, PROBE_COMMAND))
        slot_accept(slot);
    else if (slot_send_probe(slot) < 0)
        return "it does not read its probe";
    return NULL;
}

/* take_probe judges what the executor says of its probe; returns what is wrong, or NULL. */
static const char *take_probe(struct slot *slot, const struct frame *frame)
{
    const char *status = frame_get(frame, "status"), *error = frame_get(frame, "error");
    struct text text = {0};
    if (frame->type != FRAME_DONE)
        return NULL;
    if (status && strcmp(status, "done") == 0 && !frame_get(frame, "leaving")) {
        slot_accept(slot);
        return NULL;
    }
    text_puts(&text, "its probe failed: ");
    text_escape(&text, error ? error : "-", error ? strlen(error) : 1, sizeof(slot->failure) - 40);
    slot_note_failure(slot, text.failed ? "its probe failed" : text.data);
    text_finish(&text);
    slot_lose(slot);
    return NULL;
}

static const char *take_refusal(struct slot *slot, const struct frame *frame)
{
    const char *error = frame_get(frame, "error");
    struct text text = {0};
    if (!error || !*error)
        error = "it gives no reason";
    text_escape(&text, error, strlen(error), sizeof(slot->failure) - 1);
    slot_note_failure(slot, text.failed ? "it refuses" : text.data);
    text_finish(&text);
    slot_lose(slot);
    slot->greeted = false;
    return NULL;
}

static const char *take_reserve(struct slot *slot, const struct frame *frame)
{
    const char *param = frame_get(frame, "param"), *bytes = frame_get(frame, "bytes");
    uint64_t size;
    struct text answer = {0};
    if (!param || !bytes || number_parse(bytes, 0, INT64_MAX, &size) < 0)
        return "it asked for room in a malformed way";
    int failure = run_reserve(&slot->run, param, size);
    struct frame_builder builder = frame_begin(&answer, FRAME_RESERVED, frame->attempt);
    if (failure == EDQUOT)
        frame_field(&builder, "error", "%s= would exceed the VM's data_quota", param);
    else if (failure)
        frame_field(&builder, "error", "%s=: %s", param, strerror(failure));
    frame_end(&builder, NULL, 0);
    int sent = link_send(&slot->link, &answer, NULL, 0);
    text_finish(&answer);
    return sent < 0 ? "it asks and does not read the answer" : NULL;
}

static void take_progress(struct slot *slot, const struct frame *frame)
{
    const char *value = frame_get(frame, "value");
    double progress;
    if (value && number_parse_real(value, 0, 1, &progress) == 0)
        atomic_store(&slot->run.job->progress, (uint16_t)(progress * 10000));
}

static const char *take_done(struct slot *slot, const struct frame *frame, struct ending *ending)
{
    const char *status = frame_get(frame, "status"), *error = frame_get(frame, "error");
    const char *exit_code = frame_get(frame, "exit_code"), *backend = frame_get(frame, "backend");
    uint64_t code;
    if (!status)
        return "it ended the job without saying how";
    if (strcmp(status, "done") == 0)
        slot_end(slot, JOB_DONE, NULL, ending);
    else if (strcmp(status, "cancelled") == 0 && slot->run.cancelled)
        slot_end(slot, JOB_CANCELLED, slot->run.cancel_error, ending);
    else
        slot_end(slot, JOB_FAILED,
                 error && *error ? error : "the workload failed and gave no reason", ending);
    if (exit_code && number_parse(exit_code, 0, 255, &code) == 0)
        ending->outcome.exit_code = (int)code;
    if (backend && is_backend(backend)) { /* it ran elsewhere than the hello said */
        copy_field(ending->backend, sizeof(ending->backend), frame, "backend");
        copy_field(ending->device, sizeof(ending->device), frame, "device");
    }
    slot->link.error_lines_left = 20;
    if (!frame_get(frame, "leaving")) {
        slot->failures = 0;
        return NULL;
    }
    /* It ends now: the next job is for the one after it. */
    const char *fault = frame_get(frame, "fault");
    bool device = fault && strcmp(fault, "device") == 0;
    ending->outcome.crashed = fault && strcmp(fault, "sticky") == 0;
    slot_lose(slot); /* the frame's memory goes with the connection */
    slot->doubted = slot->doubted || device;
    return NULL;
}

/* slot_take handles one frame; returns what is wrong with it, or NULL. */
static const char *slot_take(struct slot *slot, const struct frame *frame, struct ending *ending)
{
    if (frame->type == FRAME_HELLO)
        return take_hello(slot, frame);
    if (frame->type == FRAME_REFUSE)
        return take_refusal(slot, frame);
    if (frame->type == FRAME_READING) {
        slot_reading_take(&slot->reading, frame, slot->name);
        return NULL;
    }
    if (slot->probe && frame->attempt == slot->probe)
        return take_probe(slot, frame);
    /* A late word about an earlier attempt is dropped. */
    if (slot->state != SLOT_BUSY || slot->run.preparing || frame->attempt != slot->run.attempt)
        return NULL;
    switch (frame->type) {
    case FRAME_OUTPUT:
        run_output(&slot->run, frame->payload, frame->payload_size);
        return NULL;
    case FRAME_PROGRESS:
        take_progress(slot, frame);
        return NULL;
    case FRAME_RESERVE:
        return take_reserve(slot, frame);
    case FRAME_DONE:
        return take_done(slot, frame, ending);
    default:
        return "it sent a frame that only the daemon may send";
    }
}

void slot_read(struct slot *slot, struct ending *ending)
{
    const char *error = NULL;
    int received, next = 0, left = MOST_READS;
    if (slot->link.connection < 0)
        return;
    do {
        struct frame frame;
        received = link_receive(&slot->link);
        while (!ending->run.job && slot->link.connection >= 0 &&
               (next = frame_reader_next(&slot->link.reader, &frame, &error)) > 0) {
            error = slot_take(slot, &frame, ending);
            if (error)
                break;
        }
    } while (received > 0 && --left && !error && !ending->run.job && slot->link.connection >= 0);
    if (slot->link.connection < 0)
        return;
    if (error) {
        char text[COMMAND_MAX_ERROR];
        snprintf(text, sizeof(text), "the executor broke the protocol: %s", error);
        slot_fail(slot, JOB_FAILED, text, ending);
    } else if (received < 0) {
        slot_lose(slot); /* why is known when the process has been waited for */
    }
}

void slot_died(struct slot *slot, struct ending *ending)
{
    /* The event may have been another's, whose slot has a new process by now. */
    struct pollfd death = {.fd = slot->death, .events = POLLIN};
    if (slot->death < 0 || poll(&death, 1, 0) <= 0)
        return;
    slot_read(slot, ending); /* its last words */
    if (slot->link.connection >= 0)
        slot_lose(slot);
}

void slot_read_errors(struct slot *slot)
{
    if (slot->link.errors < 0 || link_read_errors(&slot->link, slot->name) >= 0)
        return;
    close(slot->link.errors);
    slot->link.errors = -1;
}

/* death_words says how the process ended. */
static void death_words(const struct slot *slot, int status, char *text, size_t size)
{
    int used;
    if (WIFSIGNALED(status))
        used = snprintf(text, size, "the executor was killed by signal %d (%s)", WTERMSIG(status),
                        strsignal(WTERMSIG(status)));
    else
        used = snprintf(text, size, "the executor exited with status %d", WEXITSTATUS(status));
    if (enclosure_ooms(slot->pool->server->enclosures, slot->name) > slot->ooms && used > 0 &&
        (size_t)used < size)
        used += snprintf(text + used, size - (size_t)used, ": it used more than host_memory");
    if (slot->link.last_error[0] && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, ": %s", slot->link.last_error);
}

/* slot_death tells why: to the job that was running, or to the log. */
static void slot_death(struct slot *slot, const char *text, struct ending *ending)
{
    if (slot->run.job && !slot->run.preparing) {
        enum job_state state = slot->run.cancelled ? JOB_CANCELLED : JOB_FAILED;
        slot_end(slot, state, state == JOB_CANCELLED ? slot->run.cancel_error : text, ending);
        ending->outcome.crashed = state == JOB_FAILED;
    }
    /* A refusal, or what it did wrong, says more than how it was killed for that. */
    if (!slot->pool->quitting && !slot->failure[0])
        slot_note_failure(slot, text);
}

static void slot_reap(struct slot *slot, uint64_t now_us, struct ending *ending)
{
    char text[COMMAND_MAX_ERROR];
    int status;
    siginfo_t dead = {.si_pid = 0};
    /* Not reaped yet: until then its number, and its group's, are nobody else's. */
    int failed = waitid(P_PID, (id_t)slot->pid, &dead, WEXITED | WNOHANG | WNOWAIT);
    if (failed == 0 && dead.si_pid == 0) {
        if (now_us - slot->lost_us >= KNOW_WHY_US)
            slot_death(slot, "the executor closed its connection", ending);
        slot->waits++;
        slot->due_us = now_us + (UINT64_C(1000) << (slot->waits < 7 ? slot->waits : 7));
        return;
    }
    if (failed == 0 && waitpid(slot->pid, &status, 0) > 0)
        death_words(slot, status, text, sizeof(text));
    else
        snprintf(text, sizeof(text), "the executor is gone");
    slot_death(slot, text, ending);
    state_delete_executor(slot->pool->server->state, slot->pid);
    slot->pid = 0;
    slot->state = SLOT_DOWN;
    slot->pool->counters.executor_restarts += !slot->pool->quitting;
    slot->due_us = slot->pool->quitting
                       ? UINT64_MAX
                       : now_us + restart_delay_us(slot->failures, slot->greeted && !slot->failing);
}

/* slot_check_job enforces the time limit, and kills what does not let itself be cancelled. */
static void slot_check_job(struct slot *slot, uint64_t now_us, struct ending *ending)
{
    char text[COMMAND_MAX_ERROR];
    struct run *run = &slot->run;
    if (run->preparing)
        return;
    if (run->cancelled && now_us >= run->kill_us) {
        slot_fail(slot, JOB_CANCELLED, run->cancel_error, ending);
    } else if (now_us >= run->limit_us) {
        snprintf(text, sizeof(text), "the time limit of %g s has passed",
                 (double)run->limit_ms / 1000);
        slot_fail(slot, JOB_TIMEOUT, text, ending);
    }
}

bool slot_tick(struct slot *slot, uint64_t now_us, struct ending *ending)
{
    switch (slot->state) {
    case SLOT_BUSY:
        slot_check_job(slot, now_us, ending);
        break;
    case SLOT_STARTING:
        if (now_us >= slot->due_us)
            slot_fail(slot, JOB_FAILED,
                      slot->probe ? "the executor did not end its probe in time"
                                  : "the executor did not say hello in time",
                      ending);
        break;
    case SLOT_IDLE:
    case SLOT_DOWN:
    case SLOT_DYING:
        break;
    }
    if (slot->state == SLOT_DYING && now_us >= slot->due_us)
        slot_reap(slot, now_us, ending);
    return slot->state == SLOT_DOWN && now_us >= slot->due_us && !slot->pool->quitting;
}

uint64_t slot_due_us(const struct slot *slot)
{
    if (slot->state == SLOT_IDLE)
        return UINT64_MAX;
    if (slot->state != SLOT_BUSY)
        return slot->due_us;
    if (slot->run.preparing)
        return UINT64_MAX; /* its limit begins when it is sent */
    return slot->run.kill_us < slot->run.limit_us ? slot->run.kill_us : slot->run.limit_us;
}

int slot_send(struct slot *slot, const struct text *frame)
{
    int descriptors[FRAME_MAX_DESCRIPTORS];
    size_t count = run_descriptors(&slot->run, descriptors);
    if (link_send(&slot->link, frame, descriptors, count) == 0)
        return 0;
    slot_lose(slot); /* half a frame may be out: nothing more can be said */
    return -1;
}

void slot_ask_cancel(struct slot *slot, const char *error)
{
    struct text frame = {0};
    if (slot->run.cancelled)
        return;
    slot->run.cancelled = true;
    slot->run.cancel_error = error;
    slot->run.kill_us = clock_now_us() + CANCEL_GRACE_US;
    if (slot->run.preparing)
        return; /* its starter looks */
    struct frame_builder builder = frame_begin(&frame, FRAME_CANCEL, slot->run.attempt);
    frame_end(&builder, NULL, 0);
    if (link_send(&slot->link, &frame, NULL, 0) < 0)
        slot->run.kill_us = 0;
    text_finish(&frame);
}

void slot_quit(struct slot *slot, struct ending *ending)
{
    const struct run *run = &slot->run;
    if (run->job && !run->preparing)
        slot_end(slot, run->cancelled ? JOB_CANCELLED : JOB_FAILED,
                 run->cancelled ? run->cancel_error : "vgpufs was stopped while it ran", ending);
    if (slot->state == SLOT_DOWN)
        slot->due_us = UINT64_MAX;
    else if (slot->state != SLOT_DYING)
        slot_lose(slot);
}
