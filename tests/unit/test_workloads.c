/* workloads: the real vgpu-executor, spoken to as the daemon does. */
#include "common/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <fcntl.h>
#include <math.h>
#include <poll.h>
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

#include <cmocka.h> /* after the headers that it needs */

#define ANSWER_MS 20000

static const char *executor_path;

struct peer {
    pid_t pid;
    int in, out; /* of the daemon's side; the same for a socket */
    int log;     /* the executor's standard error */
    struct frame_reader reader;
    uint64_t attempt;
    size_t reads;
    int descriptors[FRAME_MAX_DESCRIPTORS];
    size_t descriptor_count;
    struct text job;
    struct frame_builder builder;
    /* of the last answer */
    char status[32], error[600], output[4096];
    size_t output_size, progress_count;
    double progress;
    /* what to answer RESERVE; NULL: yes */
    const char *reserve_error;
    uint64_t reserved;
    int truncate_at_reserve; /* -1: nothing */
};

static int make_file(const void *bytes, size_t size)
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
static struct peer peer_start(const char *argument, bool pipes)
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

static void peer_send_bytes(struct peer *peer, const void *bytes, size_t size)
{
    assert_int_equal(write(peer->out, bytes, size), (ssize_t)size);
}

static void peer_send(struct peer *peer, const struct text *text, const int *files, size_t count)
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

static void peer_send_frame(struct peer *peer, enum frame_type type, uint64_t attempt,
                            const char *key, const char *value)
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
static bool peer_next(struct peer *peer, struct frame *frame)
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

static void peer_hello(struct peer *peer, const char *protocol, bool descriptor)
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

static struct peer peer_greeted(void)
{
    struct peer peer = peer_start(NULL, false);
    struct frame frame;
    peer_hello(&peer, "1", true);
    assert_true(peer_next(&peer, &frame));
    assert_int_equal(frame.type, FRAME_HELLO);
    return peer;
}

/* peer_exit_status waits for the end, which must come by itself. */
static int peer_exit_status(struct peer *peer)
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

static void peer_close(struct peer *peer)
{
    close(peer->in);
    if (peer->out != peer->in)
        close(peer->out);
    peer->in = peer->out = -1;
}

static void peer_finish(struct peer *peer, int expected)
{
    if (peer->in >= 0)
        peer_close(peer);
    assert_int_equal(peer_exit_status(peer), expected);
    close(peer->log);
    frame_reader_finish(&peer->reader);
    text_finish(&peer->job);
}

static void assert_log_has(const struct peer *peer, const char *words)
{
    char text[2048];
    ssize_t size = pread(peer->log, text, sizeof(text) - 1, 0);
    assert_true(size >= 0);
    text[size] = '\0';
    if (!strstr(text, words))
        fail_msg("\"%s\" is not in the log: %s", words, text);
}

static void job_begin(struct peer *peer, const char *command)
{
    text_clear(&peer->job);
    peer->attempt++;
    peer->descriptor_count = 0;
    peer->builder = frame_begin(&peer->job, FRAME_JOB, peer->attempt);
    frame_field(&peer->builder, "command", "%s", command);
    frame_field(&peer->builder, "vm", "%d", 3);
    frame_field(&peer->builder, "job", "%d", 17);
}

static void job_argument(struct peer *peer, const char *name, const char *value)
{
    char key[80];
    snprintf(key, sizeof(key), "arg.%s", name);
    frame_field(&peer->builder, key, "%s", value);
}

static void job_file(struct peer *peer, const char *name, int file)
{
    char key[80];
    job_argument(peer, name, "x.bin");
    snprintf(key, sizeof(key), "file.%s", name);
    frame_field(&peer->builder, key, "%zu", peer->descriptor_count);
    peer->descriptors[peer->descriptor_count++] = file;
}

static void job_send(struct peer *peer)
{
    frame_end(&peer->builder, NULL, 0);
    peer->output_size = peer->progress_count = peer->reads = 0;
    peer->reserved = 0;
    peer_send(peer, &peer->job, peer->descriptors, peer->descriptor_count);
}

static void answer_reserve(struct peer *peer, const struct frame *frame)
{
    assert_string_equal(frame_get(frame, "param"), "out");
    peer->reserved = strtoull(frame_get(frame, "bytes"), NULL, 10);
    if (peer->truncate_at_reserve >= 0)
        assert_int_equal(ftruncate(peer->truncate_at_reserve, 4), 0);
    peer_send_frame(peer, FRAME_RESERVED, peer->attempt, "error", peer->reserve_error);
}

/* job_result collects the frames of a job up to its last, and returns its status. */
static const char *job_result(struct peer *peer)
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
            peer->output[peer->output_size] = '\0';
            return peer->status;
        }
    }
    fail_msg("the executor ended in the middle of a job");
    return NULL;
}

/* job_run sends the job that was begun and asserts its status and what the error says. */
static void job_run(struct peer *peer, const char *status, const char *error)
{
    job_send(peer);
    const char *found = job_result(peer);
    if (strcmp(found, status) != 0 || !strstr(peer->error, error))
        fail_msg("%s (%s) instead of %s (%s)", found, peer->error, status, error);
    assert_true(strcmp(status, "failed") == 0 || peer->error[0] == '\0');
}

static double output_number(const struct peer *peer, const char *key)
{
    const char *at = strstr(peer->output, key);
    assert_non_null(at);
    return strtod(at + strlen(key), NULL);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void test_hello(void **state)
{
    (void)state;
    for (int descriptor = 0; descriptor < 2; descriptor++) {
        struct peer peer = peer_start("--backend=cpu", false);
        struct frame frame;
        peer_hello(&peer, "1", descriptor);
        assert_true(peer_next(&peer, &frame));
        assert_int_equal(frame.type, FRAME_HELLO);
        assert_string_equal(frame_get(&frame, "protocol"), "1");
        assert_string_equal(frame_get(&frame, "version"), VGPUFS_VERSION);
        assert_string_equal(frame_get(&frame, "backend"), "cpu");
        assert_true(strlen(frame_get(&frame, "device")) > 0);
        assert_true(strlen(frame_get(&frame, "host")) > 0);
        assert_int_equal(atoi(frame_get(&frame, "pid")), peer.pid);
        assert_string_equal(frame_get(&frame, "descriptors"), descriptor ? "yes" : "no");
        assert_string_equal(frame_get(&frame, "workloads"),
                            "NOP,SLEEP,DEVICE_INFO,VECTOR_ADD,MATRIX_MUL");
        peer_finish(&peer, 0);
    }
}

static void assert_refuses(const char *argument, const char *protocol, const char *words)
{
    struct peer peer = peer_start(argument, false);
    struct frame frame;
    peer_hello(&peer, protocol, true);
    assert_true(peer_next(&peer, &frame));
    assert_int_equal(frame.type, FRAME_REFUSE);
    assert_non_null(strstr(frame_get(&frame, "error"), words));
    assert_false(peer_next(&peer, &frame));
    peer_finish(&peer, 1);
}

static void test_refuse(void **state)
{
    (void)state;
    assert_refuses("--backend=bogus", "1", "no backend bogus");
    assert_refuses("--device=3", "1", "no device 3");
    assert_refuses("--backend=auto", "2", "the daemon 2");
    assert_refuses("--backend=auto", "x", "no hello");
}

static void test_nop(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    for (int i = 0; i < 100; i++) {
        job_begin(&peer, "NOP");
        job_run(&peer, "done", "");
        assert_int_equal(peer.output_size, 0);
        assert_int_equal(peer.reads, 1);
    }
    /* Output and end of a small job come in one piece. */
    job_begin(&peer, "DEVICE_INFO");
    job_run(&peer, "done", "");
    assert_int_equal(peer.reads, 1);
    assert_non_null(strstr(peer.output, "backend=cpu\n"));
    assert_non_null(strstr(peer.output, "OpenBLAS"));
    assert_true(output_number(&peer, "cores=") >= 1);
    assert_true(output_number(&peer, "memory_bytes=") > 1e6);
    peer_finish(&peer, 0);
}

static void test_max_result(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    static const struct {
        const char *limit;
        size_t expected;
    } cases[] = {{"0", 1}, {"5", 6}, {"11", 12}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_begin(&peer, "DEVICE_INFO");
        frame_field(&peer.builder, "max_result", "%s", cases[i].limit);
        job_run(&peer, "done", "");
        assert_int_equal(peer.output_size, cases[i].expected);
        assert_memory_equal(peer.output, "backend=cpu\n", cases[i].expected);
    }
    job_begin(&peer, "NOP");
    frame_field(&peer.builder, "max_result", "%s", "many");
    job_run(&peer, "failed", "max_result=many");
    peer_finish(&peer, 0);
}

static void test_bad_jobs(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    job_begin(&peer, "BOGUS");
    job_run(&peer, "failed", "unknown command BOGUS");
    job_begin(&peer, "NOP");
    job_argument(&peer, "n", "1");
    job_run(&peer, "failed", "NOP has no parameter n=");
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "86400001");
    job_run(&peer, "failed", "from 0 to 86400000");
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "1");
    job_argument(&peer, "ms", "1");
    job_run(&peer, "failed", "given twice");
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "dtype", "f16");
    job_run(&peer, "failed", "f32|f64");
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "a", "../etc/passwd");
    job_run(&peer, "failed", "plain name");
    job_begin(&peer, "MATRIX_MUL");
    job_argument(&peer, "m", "65536");
    job_argument(&peer, "n", "65536");
    job_run(&peer, "failed", "MiB");
    /* And it goes on. */
    job_begin(&peer, "NOP");
    job_run(&peer, "done", "");
    peer_finish(&peer, 0);
}

static void test_sleep(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    double start = seconds();
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "350");
    job_run(&peer, "done", "");
    assert_true(seconds() - start >= 0.35);
    assert_true(output_number(&peer, "slept_ms=") >= 350);
    assert_in_range(peer.progress_count, 1, 3);
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "0");
    job_run(&peer, "done", "");
    peer_finish(&peer, 0);
}

/* assert_cancels: the job that was begun ends soon after it is told so. */
static void assert_cancels(struct peer *peer)
{
    job_send(peer);
    usleep(50000);
    double start = seconds();
    peer_send_frame(peer, FRAME_CANCEL, peer->attempt, NULL, NULL);
    assert_string_equal(job_result(peer), "cancelled");
    assert_true(seconds() - start < 5);
}

static void test_cancel(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "86400000");
    assert_cancels(&peer);
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "n", "17179869184");
    assert_cancels(&peer);
    job_begin(&peer, "MATRIX_MUL");
    job_argument(&peer, "m", "4000");
    job_argument(&peer, "n", "4000");
    job_argument(&peer, "k", "30000");
    assert_cancels(&peer);
    job_begin(&peer, "NOP");
    job_run(&peer, "done", "");
    peer_finish(&peer, 0);
}

static void test_late_cancel(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    job_begin(&peer, "NOP");
    job_run(&peer, "done", "");
    /* For the job that has ended, between two jobs and while the next one runs. */
    peer_send_frame(&peer, FRAME_CANCEL, peer.attempt, NULL, NULL);
    peer_send_frame(&peer, FRAME_RESERVED, peer.attempt, NULL, NULL);
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "100");
    job_send(&peer);
    peer_send_frame(&peer, FRAME_CANCEL, peer.attempt - 1, NULL, NULL);
    assert_string_equal(job_result(&peer), "done");
    peer_finish(&peer, 0);
}

static void test_vector_add_made_up(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    /* These digits are a promise: other backends, versions and machines print the same. */
    static const struct {
        const char *n, *seed, *dtype, *output;
    } cases[] = {
        {"1048576", "1", "f32", "n=1048576 dtype=f32 sum=1048693.5883748531 max_abs_error=0\n"},
        {"1048576", "7", "f32", "n=1048576 dtype=f32 sum=1048090.8009347916 max_abs_error=0\n"},
        {"3", "1", "f64", "n=3 dtype=f64 sum=2.3022516339274484 max_abs_error=0\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_begin(&peer, "VECTOR_ADD");
        job_argument(&peer, "n", cases[i].n);
        job_argument(&peer, "seed", cases[i].seed);
        job_argument(&peer, "dtype", cases[i].dtype);
        job_run(&peer, "done", "");
        assert_string_equal(peer.output, cases[i].output);
    }
    peer_finish(&peer, 0);
}

/* add_arrays runs VECTOR_ADD on files, and returns the output file's bytes in `sums`. */
static void add_arrays(struct peer *peer, const char *dtype, const void *a, const void *b,
                       void *sums, size_t bytes)
{
    int files[3] = {make_file(a, bytes), make_file(b, bytes), make_file("", 0)};
    struct stat status;
    job_begin(peer, "VECTOR_ADD");
    job_argument(peer, "dtype", dtype);
    job_file(peer, "b", files[1]);
    job_file(peer, "out", files[2]);
    job_file(peer, "a", files[0]);
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, bytes);
    assert_int_equal(fstat(files[2], &status), 0);
    assert_int_equal(status.st_size, bytes);
    assert_int_equal(pread(files[2], sums, bytes, 0), (ssize_t)bytes);
    for (int i = 0; i < 3; i++)
        close(files[i]);
}

static void test_vector_add_files(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 63, 64, 65, 32768, 65536, 65537, 200003};
    static float a[200003], b[200003], c[200003];
    static double da[200003], db[200003], dc[200003];
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < 200003; i++) {
        a[i] = (float)sin((double)i) * 1000;
        b[i] = (float)cos((double)i * 3) / 7;
        da[i] = sin((double)i) * 1e10;
        db[i] = cos((double)i * 3) / 7e5;
    }
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        size_t n = sizes[s];
        double sum = 0, dsum = 0, worst = 0;
        add_arrays(&peer, "f32", a, b, c, n * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            assert_true(c[i] == a[i] + b[i]);
            sum += (double)c[i];
            worst = fmax(worst, fabs((double)c[i] - ((double)a[i] + (double)b[i])));
        }
        assert_true(output_number(&peer, "n=") == (double)n);
        assert_true(fabs(output_number(&peer, "sum=") - sum) <= 1e-9 * (1 + fabs(sum)));
        assert_true(output_number(&peer, "max_abs_error=") == worst);
        assert_true(n < 7 || worst > 0);
        add_arrays(&peer, "f64", da, db, dc, n * sizeof(double));
        for (size_t i = 0; i < n; i++) {
            assert_true(dc[i] == da[i] + db[i]);
            dsum += dc[i];
        }
        assert_true(fabs(output_number(&peer, "sum=") - dsum) <= 1e-6 * (1 + fabs(dsum)));
    }
    peer_finish(&peer, 0);
}

static void test_vector_add_special(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    const float a[] = {INFINITY, -INFINITY, INFINITY, NAN, 3e38F, -0.0F, 1e-44F, 0.1F};
    const float b[] = {1, 1, -INFINITY, 1, 3e38F, -0.0F, 1e-45F, 0.2F};
    float c[8];
    add_arrays(&peer, "f32", a, b, c, sizeof(a));
    assert_true(isinf(c[0]) && isinf(c[1]) && isnan(c[2]) && isnan(c[3]) && isinf(c[4]));
    assert_true(c[6] == a[6] + b[6] && c[7] == a[7] + b[7]);
    assert_non_null(strstr(peer.output, "nan"));
    assert_true(output_number(&peer, "max_abs_error=") ==
                fabs((double)c[7] - ((double)a[7] + (double)b[7])));
    peer_finish(&peer, 0);
}

static void test_vector_add_out_alone(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    float c[1000];
    int out = make_file("", 0);
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "n", "1000");
    job_file(&peer, "out", out);
    job_run(&peer, "done", "");
    assert_int_equal(pread(out, c, sizeof(c), 0), sizeof(c));
    double sum = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(c[i] >= 0 && c[i] < 2);
        sum += (double)c[i];
    }
    assert_true(output_number(&peer, "sum=") == sum);
    close(out);
    peer_finish(&peer, 0);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const char bytes[24] = {0};
    struct peer peer = peer_greeted();
    int eight = make_file(bytes, 8), twelve = make_file(bytes, 12), odd = make_file(bytes, 7);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), out = make_file("", 0);
    const struct {
        int a, b;
        const char *key, *value, *words;
    } cases[] = {
        {eight, twelve, "n", "2", "8 bytes and b= 12"},
        {odd, odd, "n", "2", "no whole number of f32"},
        {twelve, twelve, "dtype", "f64", "no whole number of f64"},
        {eight, eight, "n", "3", "hold 2 f32 elements"},
        {eight, null, "n", "2", "no regular file"},
        {eight, -1, "n", "2", "go together"},
        {-1, eight, "n", "2", "go together"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        job_begin(&peer, "VECTOR_ADD");
        job_argument(&peer, cases[i].key, cases[i].value);
        if (cases[i].a >= 0)
            job_file(&peer, "a", cases[i].a);
        if (cases[i].b >= 0)
            job_file(&peer, "b", cases[i].b);
        job_run(&peer, "failed", cases[i].words);
    }
    /* A name without a descriptor, and an index that points nowhere. */
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "out", "z.f32");
    job_run(&peer, "failed", "did not reach the executor");
    job_begin(&peer, "VECTOR_ADD");
    job_file(&peer, "a", eight);
    job_argument(&peer, "b", "y.f32");
    frame_field(&peer.builder, "file.b", "%d", 1);
    job_run(&peer, "failed", "no such descriptor");
    /* The output's room is refused: nothing is written. */
    peer.reserve_error = "the VM's data/ is full";
    job_begin(&peer, "VECTOR_ADD");
    job_file(&peer, "out", out);
    job_run(&peer, "failed", "data/ is full");
    assert_int_equal(lseek(out, 0, SEEK_END), 0);
    job_begin(&peer, "MATRIX_MUL");
    job_file(&peer, "out", out);
    job_run(&peer, "failed", "data/ is full");
    assert_int_equal(lseek(out, 0, SEEK_END), 0);
    /* An input that gets shorter while the job runs. */
    peer.reserve_error = NULL;
    peer.truncate_at_reserve = eight;
    job_begin(&peer, "VECTOR_ADD");
    job_file(&peer, "a", eight);
    job_file(&peer, "b", eight);
    job_file(&peer, "out", out);
    job_run(&peer, "failed", "ends at byte 4");
    close(eight);
    close(twelve);
    close(odd);
    close(null);
    close(out);
    peer_finish(&peer, 0);
}

/* A job that is cancelled while it waits for room, whose answer comes late. */
static void test_cancel_in_reserve(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct frame frame;
    int out = make_file("", 0);
    job_begin(&peer, "VECTOR_ADD");
    job_file(&peer, "out", out);
    job_send(&peer);
    assert_true(peer_next(&peer, &frame));
    assert_int_equal(frame.type, FRAME_RESERVE);
    peer_send_frame(&peer, FRAME_CANCEL, peer.attempt, NULL, NULL);
    assert_string_equal(job_result(&peer), "cancelled");
    peer_send_frame(&peer, FRAME_RESERVED, peer.attempt, NULL, NULL);
    job_begin(&peer, "NOP");
    job_run(&peer, "done", "");
    close(out);
    peer_finish(&peer, 0);
}

static void multiply(struct peer *peer, bool f64, int m, int n, int k)
{
    size_t size = f64 ? sizeof(double) : sizeof(float);
    size_t counts[3] = {(size_t)m * (size_t)k, (size_t)k * (size_t)n, (size_t)m * (size_t)n};
    static const char *const names[] = {"a", "b", "out"}, *const dims[] = {"m", "n", "k"};
    const int values[] = {m, n, k};
    double *numbers[3];
    int files[3];
    job_begin(peer, "MATRIX_MUL");
    job_argument(peer, "dtype", f64 ? "f64" : "f32");
    for (int i = 0; i < 3; i++) {
        char digits[16];
        snprintf(digits, sizeof(digits), "%d", values[i]);
        job_argument(peer, dims[i], digits);
        numbers[i] = calloc(counts[i], sizeof(double));
        char *bytes = calloc(counts[i], size);
        for (size_t j = 0; j < counts[i] && i < 2; j++) {
            float number = (float)sin((double)j * (i + 1));
            numbers[i][j] = f64 ? sin((double)j * (i + 1)) : (double)number;
            memcpy(bytes + j * size, f64 ? (void *)&numbers[i][j] : (void *)&number, size);
        }
        files[i] = i < 2 ? make_file(bytes, counts[i] * size) : make_file("", 0);
        free(bytes);
        job_file(peer, names[i], files[i]);
    }
    job_run(peer, "done", "");
    assert_int_equal(peer->reserved, counts[2] * size);
    double sum = 0, worst = 0, limit = (f64 ? 0x1p-53 : 0x1p-24) * (k + 1) * k;
    for (int row = 0; row < m; row++) {
        for (int column = 0; column < n; column++) {
            double expected = 0, found;
            float single;
            for (int t = 0; t < k; t++)
                expected += numbers[0][row * k + t] * numbers[1][t * n + column];
            off_t at = (off_t)size * (row * n + column);
            assert_int_equal(pread(files[2], f64 ? (void *)&found : (void *)&single, size, at),
                             (ssize_t)size);
            if (!f64)
                found = (double)single;
            assert_true(fabs(found - expected) <= limit);
            worst = fmax(worst, fabs(found - expected));
            sum += found;
        }
    }
    double reported = output_number(peer, "max_abs_error=");
    assert_true(f64 || reported <= worst + 1e-12);
    assert_true(f64 || m * n > 256 || fabs(reported - worst) <= 1e-12);
    assert_true(f64 || k < 8 || reported > 0);
    assert_true(fabs(output_number(peer, "checksum=") - sum) <= 1e-9 * (1 + fabs(sum)));
    for (int i = 0; i < 3; i++) {
        free(numbers[i]);
        close(files[i]);
    }
}

static void test_matrix_mul(void **state)
{
    (void)state;
    static const int shapes[][3] = {{1, 1, 1},     {2, 3, 4},    {1, 300, 7},    {300, 1, 9},
                                    {17, 33, 129}, {64, 64, 64}, {129, 130, 131}};
    struct peer peer = peer_greeted();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int f64 = 0; f64 < 2; f64++)
            multiply(&peer, f64, shapes[i][0], shapes[i][1], shapes[i][2]);
    peer_finish(&peer, 0);
}

static void test_matrix_mul_made_up(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    /* More than one tile in both directions; the numbers are exact, whatever the order. */
    job_begin(&peer, "MATRIX_MUL");
    job_argument(&peer, "m", "700");
    job_argument(&peer, "n", "600");
    job_argument(&peer, "k", "20000");
    job_run(&peer, "done", "");
    assert_string_equal(
        peer.output, "m=700 n=600 k=20000 dtype=f32 checksum=1845440842.140625 max_abs_error=0\n");
    job_begin(&peer, "MATRIX_MUL");
    job_run(&peer, "done", "");
    assert_string_equal(peer.output,
                        "m=512 n=512 k=512 dtype=f32 checksum=33021488.93963623 max_abs_error=0\n");
    job_begin(&peer, "MATRIX_MUL");
    int file = make_file("1234", 4);
    job_file(&peer, "a", file);
    job_file(&peer, "b", file);
    job_run(&peer, "failed", "a= has 4 bytes; m=512 times k=512 of f32 are 1048576");
    close(file);
    peer_finish(&peer, 0);
}

static void test_end_of_input(void **state)
{
    (void)state;
    struct peer peer = peer_start(NULL, false);
    peer_finish(&peer, 0);
    peer = peer_greeted();
    peer_finish(&peer, 0);
    peer = peer_greeted();
    job_begin(&peer, "SLEEP");
    job_argument(&peer, "ms", "86400000");
    job_send(&peer);
    usleep(20000);
    peer_finish(&peer, 0);
    peer = peer_greeted();
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "n", "17179869184");
    job_send(&peer);
    usleep(20000);
    peer_finish(&peer, 0);
}

static void test_sigint(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    kill(peer.pid, SIGINT);
    job_begin(&peer, "NOP");
    job_run(&peer, "done", "");
    peer_finish(&peer, 0);
}

static void test_garbage(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    struct frame frame;
    peer_send_bytes(&peer, "GET / HTTP/1.0\r\nHost: example.org\r\n\r\n", 37);
    assert_false(peer_next(&peer, &frame));
    assert_int_equal(peer_exit_status(&peer), 1);
    assert_log_has(&peer, "vgpu-executor: ");
    assert_log_has(&peer, "bytes that are no frame");
    close(peer.log);
    peer_close(&peer);
    frame_reader_finish(&peer.reader);

    peer = peer_start(NULL, false);
    peer_send_bytes(&peer, "GET / HTTP/1.0\r\nHost: example.org\r\n\r\n", 37);
    assert_false(peer_next(&peer, &frame));
    assert_log_has(&peer, "bytes that are no frame");
    peer_finish(&peer, 1);

    /* The end in the middle of a frame, a second hello, a second job. */
    peer = peer_greeted();
    peer_send_bytes(&peer, "VGPU\2", 5);
    peer_finish(&peer, 1);
    peer = peer_greeted();
    peer_hello(&peer, "1", false);
    assert_false(peer_next(&peer, &frame));
    assert_log_has(&peer, "a second hello");
    peer_finish(&peer, 1);
    peer = peer_greeted();
    job_begin(&peer, "SLEEP");
    job_send(&peer);
    job_begin(&peer, "NOP");
    job_send(&peer);
    while (peer_next(&peer, &frame))
        assert_int_not_equal(frame.attempt, peer.attempt);
    assert_log_has(&peer, "a second job");
    peer_finish(&peer, 1);
}

/* As through ssh(1): two pipes, no descriptors. */
static void test_pipes(void **state)
{
    (void)state;
    struct peer peer = peer_start(NULL, true);
    struct frame frame;
    peer_hello(&peer, "1", false);
    assert_true(peer_next(&peer, &frame));
    assert_string_equal(frame_get(&frame, "descriptors"), "no");
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "n", "8");
    job_run(&peer, "done", "");
    job_begin(&peer, "VECTOR_ADD");
    job_argument(&peer, "out", "z.f32");
    job_run(&peer, "failed", "need an executor on the daemon's machine");
    job_begin(&peer, "SLEEP");
    assert_cancels(&peer);
    peer_finish(&peer, 0);
}

/* More descriptors than a message, or the executor, may hold. */
static void test_too_many_descriptors(void **state)
{
    (void)state;
    for (size_t count = FRAME_MAX_DESCRIPTORS; count <= FRAME_MAX_DESCRIPTORS + 1; count++) {
        struct peer peer = peer_greeted();
        struct frame frame;
        struct text text = {0};
        struct frame_builder builder = frame_begin(&text, FRAME_CANCEL, 1);
        int files[FRAME_MAX_DESCRIPTORS + 1];
        frame_end(&builder, NULL, 0);
        for (size_t i = 0; i < count; i++)
            files[i] = peer.log;
        peer_send(&peer, &text, files, count);
        if (count == FRAME_MAX_DESCRIPTORS) {
            job_begin(&peer, "NOP"); /* so that the executor has taken the first message */
            job_run(&peer, "done", "");
            peer_send(&peer, &text, files, count);
            peer_send(&peer, &text, files, count);
        }
        assert_false(peer_next(&peer, &frame));
        assert_log_has(&peer, "descriptors");
        text_finish(&text);
        peer_finish(&peer, 1);
    }
}

/* No descriptor that came with a job outlives it. */
static void test_descriptors_are_closed(void **state)
{
    (void)state;
    struct peer peer = peer_greeted();
    for (int i = 0; i < 300; i++) {
        float number = 1;
        int file = make_file(&number, sizeof(number));
        job_begin(&peer, i % 2 ? "VECTOR_ADD" : "NOP");
        job_file(&peer, "a", file);
        job_file(&peer, "b", file);
        job_run(&peer, i % 2 ? "done" : "failed", "");
        close(file);
    }
    peer_finish(&peer, 0);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "test-workloads: say which vgpu-executor to test\n");
        return EXIT_FAILURE;
    }
    executor_path = argv[1];
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_refuse),
        cmocka_unit_test(test_nop),
        cmocka_unit_test(test_max_result),
        cmocka_unit_test(test_bad_jobs),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_late_cancel),
        cmocka_unit_test(test_vector_add_made_up),
        cmocka_unit_test(test_vector_add_files),
        cmocka_unit_test(test_vector_add_special),
        cmocka_unit_test(test_vector_add_out_alone),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_cancel_in_reserve),
        cmocka_unit_test(test_matrix_mul),
        cmocka_unit_test(test_matrix_mul_made_up),
        cmocka_unit_test(test_end_of_input),
        cmocka_unit_test(test_sigint),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_pipes),
        cmocka_unit_test(test_too_many_descriptors),
        cmocka_unit_test(test_descriptors_are_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
