#include "peer.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 20000

static const char *executor_path;

bool peer_main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "%s: say which vgpu-executor to test\n", argv[0]);
        return false;
    }
    executor_path = argv[1];
    signal(SIGPIPE, SIG_IGN);
    return true;
}

int make_file(const void *bytes, size_t size)
{
    int file = memfd_create("data", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(pwrite(file, bytes, size, 0), (ssize_t)size);
    return file;
}

static void peer_exec(int in, int out, int log, const char *argument)
{
    /* So few that a descriptor which each job leaves behind is soon noticed. */
    const struct rlimit files = {.rlim_cur = 64, .rlim_max = 64};
    setrlimit(RLIMIT_NOFILE, &files);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execl(executor_path, "vgpu-executor", argument, (char *)NULL);
    _exit(127);
}

/* peer_start starts an executor on a socket pair, or on two pipes as ssh(1) would. */
struct peer peer_start(const char *argument, bool pipes)
{
    struct peer peer = {.truncate_at_reserve = -1};
    int down[2], up[2];
    peer.log = make_file("", 0);
    if (pipes) {
        assert_int_equal(pipe2(down, O_CLOEXEC), 0);
        assert_int_equal(pipe2(up, O_CLOEXEC), 0);
        peer.out = down[1];
        peer.in = up[0];
    } else {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        peer.in = peer.out = pair[0];
        down[0] = up[1] = pair[1];
    }
    peer.pid = fork();
    assert_true(peer.pid >= 0);
    if (peer.pid == 0)
        peer_exec(down[0], up[1], peer.log, argument);
    close(down[0]);
    if (pipes)
        close(up[1]);
    return peer;
}

void peer_send_bytes(struct peer *peer, const void *bytes, size_t size)
{
    assert_int_equal(write(peer->out, bytes, size), (ssize_t)size);
}

void peer_send(struct peer *peer, const struct text *text, const int *files, size_t count)
{
    assert_false(text->failed);
    if (count == 0) {
        peer_send_bytes(peer, text->data, text->size);
        return;
    }
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE((FRAME_MAX_DESCRIPTORS + 1) * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = text->data, .iov_len = text->size};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), files, count * sizeof(int));
    assert_int_equal(sendmsg(peer->out, &message, 0), (ssize_t)text->size);
}

void peer_send_frame(struct peer *peer, enum frame_type type, uint64_t attempt, const char *key,
                     const char *value)
{
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, type, attempt);
    if (value)
        frame_field(&builder, key, "%s", value);
    frame_end(&builder, NULL, 0);
    peer_send(peer, &text, NULL, 0);
    text_finish(&text);
}

/* peer_next: true and *frame, false at the end. */
bool peer_next(struct peer *peer, struct frame *frame)
{
    const char *error = NULL;
    for (;;) {
        int found = frame_reader_next(&peer->reader, frame, &error);
        assert_true(found >= 0);
        if (found)
            return true;
        struct pollfd ready = {.fd = peer->in, .events = POLLIN};
        assert_int_equal(poll(&ready, 1, ANSWER_MS), 1);
        char *space = frame_reader_space(&peer->reader, 65536);
        ssize_t size = read(peer->in, space, 65536);
        if (size <= 0)
            return false;
        peer->reads++;
        frame_reader_fed(&peer->reader, (size_t)size);
    }
}

void peer_hello(struct peer *peer, const char *protocol, bool descriptor)
{
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, FRAME_HELLO, 0);
    frame_field(&builder, "protocol", "%s", protocol);
    frame_field(&builder, "pool", "%s", "A");
    frame_field(&builder, "slot", "%d", 0);
    frame_end(&builder, NULL, 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    peer_send(peer, &text, &null, descriptor ? 1 : 0);
    close(null);
    text_finish(&text);
}

struct peer peer_greeted(void)
{
    struct peer peer = peer_start(NULL, false);
    struct frame frame;
    peer_hello(&peer, "1", true);
    assert_true(peer_next(&peer, &frame));
    assert_int_equal(frame.type, FRAME_HELLO);
    return peer;
}

struct peer peer_on_one_processor(void)
{
    cpu_set_t before, one;
    int first = 0;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    struct peer peer = peer_greeted();
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    return peer;
}

/* peer_exit_status waits for the end, which must come by itself. */
int peer_exit_status(struct peer *peer)
{
    int status;
    for (int waited = 0; waited < ANSWER_MS; waited += 5) {
        if (waitpid(peer->pid, &status, WNOHANG) == peer->pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        usleep(5000);
    }
    kill(peer->pid, SIGKILL);
    waitpid(peer->pid, &status, 0);
    return -1000;
}

void peer_close(struct peer *peer)
{
    close(peer->in);
    if (peer->out != peer->in)
        close(peer->out);
    peer->in = peer->out = -1;
}

void peer_finish(struct peer *peer, int expected)
{
    if (peer->in >= 0)
        peer_close(peer);
    assert_int_equal(peer_exit_status(peer), expected);
    close(peer->log);
    frame_reader_finish(&peer->reader);
    text_finish(&peer->job);
}

void assert_log_has(const struct peer *peer, const char *words)
{
    char text[2048];
    ssize_t size = pread(peer->log, text, sizeof(text) - 1, 0);
    assert_true(size >= 0);
    text[size] = '\0';
    if (!strstr(text, words))
        fail_msg("\"%s\" is not in the log: %s", words, text);
}

void job_begin(struct peer *peer, const char *command)
{
    text_clear(&peer->job);
    peer->attempt++;
    peer->descriptor_count = 0;
    peer->builder = frame_begin(&peer->job, FRAME_JOB, peer->attempt);
    frame_field(&peer->builder, "command", "%s", command);
    frame_field(&peer->builder, "vm", "%d", 3);
    frame_field(&peer->builder, "job", "%d", 17);
}

void job_argument(struct peer *peer, const char *name, const char *value)
{
    char key[80];
    snprintf(key, sizeof(key), "arg.%s", name);
    frame_field(&peer->builder, key, "%s", value);
}

void job_file(struct peer *peer, const char *name, int file)
{
    char key[80];
    job_argument(peer, name, "x.bin");
    snprintf(key, sizeof(key), "file.%s", name);
    frame_field(&peer->builder, key, "%zu", peer->descriptor_count);
    peer->descriptors[peer->descriptor_count++] = file;
}

void job_line(struct peer *peer, const char *line)
{
    char words[1024], *rest;
    snprintf(words, sizeof(words), "%s", line);
    job_begin(peer, strtok_r(words, " ", &rest));
    for (char *word; (word = strtok_r(NULL, " ", &rest));) {
        char *value = strchr(word, '=');
        assert_non_null(value);
        *value = '\0';
        job_argument(peer, word, value + 1);
    }
}

void job_send(struct peer *peer)
{
    frame_end(&peer->builder, NULL, 0);
    peer->output_size = peer->progress_count = peer->reads = 0;
    peer->reserved = 0;
    peer_send(peer, &peer->job, peer->descriptors, peer->descriptor_count);
}

static void answer_reserve(struct peer *peer, const struct frame *frame)
{
    if (!peer->any_reserve)
        assert_string_equal(frame_get(frame, "param"), "out");
    peer->reserved = strtoull(frame_get(frame, "bytes"), NULL, 10);
    if (peer->truncate_at_reserve >= 0)
        assert_int_equal(ftruncate(peer->truncate_at_reserve, 4), 0);
    peer_send_frame(peer, FRAME_RESERVED, peer->attempt, "error", peer->reserve_error);
}

/* job_result collects the frames of a job up to its last, and returns its status. */
const char *job_result(struct peer *peer)
{
    struct frame frame;
    while (peer_next(peer, &frame)) {
        assert_int_equal(frame.attempt, peer->attempt);
        if (frame.type == FRAME_RESERVE) {
            answer_reserve(peer, &frame);
        } else if (frame.type == FRAME_PROGRESS) {
            double progress = strtod(frame_get(&frame, "value"), NULL);
            assert_true(progress >= (peer->progress_count++ ? peer->progress : 0));
            assert_true(progress <= 1);
            peer->progress = progress;
        } else if (frame.type == FRAME_OUTPUT) {
            assert_true(peer->output_size + frame.payload_size < sizeof(peer->output));
            memcpy(peer->output + peer->output_size, frame.payload, frame.payload_size);
            peer->output_size += frame.payload_size;
        } else {
            assert_int_equal(frame.type, FRAME_DONE);
            const char *error = frame_get(&frame, "error");
            snprintf(peer->status, sizeof(peer->status), "%s", frame_get(&frame, "status"));
            snprintf(peer->error, sizeof(peer->error), "%s", error ? error : "");
            assert_non_null(frame_get(&frame, "device_us"));
            assert_non_null(frame_get(&frame, "compute_us"));
            assert_non_null(frame_get(&frame, "copy_us"));
            assert_non_null(frame_get(&frame, "verify_us"));
            peer->output[peer->output_size] = '\0';
            return peer->status;
        }
    }
    fail_msg("the executor ended in the middle of a job");
    return NULL;
}

/* job_run sends the job that was begun and asserts its status and what the error says. */
void job_run(struct peer *peer, const char *status, const char *error)
{
    job_send(peer);
    const char *found = job_result(peer);
    if (strcmp(found, status) != 0 || !strstr(peer->error, error))
        fail_msg("%s (%s) instead of %s (%s)", found, peer->error, status, error);
    assert_true(strcmp(status, "failed") == 0 || peer->error[0] == '\0');
}

double output_number(const struct peer *peer, const char *key)
{
    const char *at = strstr(peer->output, key);
    assert_non_null(at);
    return strtod(at + strlen(key), NULL);
}

const char *output_digits(struct peer *peer)
{
    char end[4];
    unsigned long long compute_us, copy_us, verify_us;
    char *times = strstr(peer->output, " compute_us=");
    assert_non_null(times);
    /* The newline, and nothing behind it. */
    assert_int_equal(sscanf(times, " compute_us=%llu copy_us=%llu verify_us=%llu%1[\n]%1c",
                            &compute_us, &copy_us, &verify_us, end, end + 2),
                     4);
    *times = '\0';
    return peer->output;
}

void assert_output(struct peer *peer, const char *expected)
{
    assert_string_equal(output_digits(peer), expected);
}

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* computed_seconds: of processors, by the peer. What else the machine does makes no difference. */
static double computed_seconds(const struct peer *peer)
{
    clockid_t clock;
    struct timespec used;
    assert_int_equal(clock_getcpuclockid(peer->pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &used), 0);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

/* assert_cancels: the job that was begun computes little after it is told to end. */
void assert_cancels(struct peer *peer)
{
    job_send(peer);
    usleep(50000);
    double start = computed_seconds(peer);
    peer_send_frame(peer, FRAME_CANCEL, peer->attempt, NULL, NULL);
    assert_string_equal(job_result(peer), "cancelled");
    assert_true(computed_seconds(peer) - start < 5);
}

void assert_lines_cancel(const char *const *lines, size_t count)
{
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < count; i++) {
        job_line(&peer, lines[i]);
        assert_cancels(&peer);
    }
    peer_finish(&peer, 0);
}
