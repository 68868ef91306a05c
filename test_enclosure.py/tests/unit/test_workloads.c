/* workloads: the real vgpu-executor, spoken to as the daemon does. */
#include "peer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
        assert_string_equal(
            frame_get(&frame, "workloads"),
            "NOP,SLEEP,DEVICE_INFO,VECTOR_ADD,MATRIX_MUL,SAXPY,REDUCE,SORT,MONTE_"
            "CARLO_PI,FFT,SANITY,DOT,SCAN,HISTOGRAM,TRANSPOSE,SHA256,CONV2D,BLACK_SCHOLES,NBODY");
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
        {eight, eight, "n", "3", "a= holds 2 f32 elements"},
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
    if (!peer_main(argc, argv))
        return EXIT_FAILURE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_refuse),
        cmocka_unit_test(test_nop),
        cmocka_unit_test(test_max_result),
        cmocka_unit_test(test_bad_jobs),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_late_cancel),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_cancel_in_reserve),
        cmocka_unit_test(test_end_of_input),
        cmocka_unit_test(test_sigint),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_pipes),
        cmocka_unit_test(test_too_many_descriptors),
        cmocka_unit_test(test_descriptors_are_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
