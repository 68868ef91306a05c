/*
 * The daemon's side of a real vgpu-executor, for tests: starts one, speaks frames with it, and
 * keeps the answer to the last job. Every failure fails the test. Not thread-safe.
 */
#ifndef VGPUFS_TEST_PEER_H
#define VGPUFS_TEST_PEER_H

#include "common/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <sys/types.h>

#include <cmocka.h> /* after the headers that it needs */

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
    char status[32], error[600], output[65536];
    size_t output_size, progress_count;
    double progress;
    /* what to answer RESERVE; NULL: yes */
    const char *reserve_error;
    uint64_t reserved;
    bool any_reserve;        /* not only of out= */
    int truncate_at_reserve; /* -1: nothing */
};

int make_file(const void *bytes, size_t size);

/*
 * peer_main takes the path of the executor from the command line of the test; it returns false, and
 * has said why, if there is none.
 */
bool peer_main(int argc, char **argv);
/* peer_start starts an executor on a socket pair, or on two pipes as ssh(1) would. */
struct peer peer_start(const char *argument, bool pipes);
/* peer_greeted: on a socket pair, the hellos exchanged. */
struct peer peer_greeted(void);
/* peer_on_one_processor: the same, and the executor may use no other. */
struct peer peer_on_one_processor(void);
void peer_send_bytes(struct peer *peer, const void *bytes, size_t size);
void peer_send(struct peer *peer, const struct text *text, const int *files, size_t count);
void peer_send_frame(struct peer *peer, enum frame_type type, uint64_t attempt, const char *key,
                     const char *value);
void peer_hello(struct peer *peer, const char *protocol, bool descriptor);
/* peer_next: true and *frame, false at the end. */
bool peer_next(struct peer *peer, struct frame *frame);
void peer_close(struct peer *peer);
/* peer_exit_status waits for the end, which must come by itself. */
int peer_exit_status(struct peer *peer);
void peer_finish(struct peer *peer, int expected);
void assert_log_has(const struct peer *peer, const char *words);

/* A job: begun, given arguments and files, then sent. */
void job_begin(struct peer *peer, const char *command);
void job_argument(struct peer *peer, const char *name, const char *value);
void job_file(struct peer *peer, const char *name, int file);
void job_send(struct peer *peer);
/* job_line begins the job of a line as guests write it, without quotes or files. */
void job_line(struct peer *peer, const char *line);
/* job_result collects the frames of a job up to its last, and returns its status. */
const char *job_result(struct peer *peer);
/* job_run sends the job that was begun and asserts its status and what the error says. */
void job_run(struct peer *peer, const char *status, const char *error);
/* assert_cancels: the job that was begun computes little after it is told to end. */
void assert_cancels(struct peer *peer);
/* assert_lines_cancel: so does each of these jobs of an executor of its own. */
void assert_lines_cancel(const char *const *lines, size_t count);

/* What the last job printed: the number behind the key, as in " sum=". */
double output_number(const struct peer *peer, const char *key);
/* output_digits cuts the times off the output, at whose end they must be, and returns the rest. */
const char *output_digits(struct peer *peer);
void assert_output(struct peer *peer, const char *expected);

double seconds(void);

#endif
