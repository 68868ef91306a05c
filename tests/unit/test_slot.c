/* slot: what an executor that floods may take of its pool's thread at a time. */
#include "slot.h"

#include "common/log.h"
#include "pool_internal.h"
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

/* Above the largest that Linux gives out: killing its group hurts nobody. */
#define NO_PROCESS 0x3fffffff
/* More than one turn may take, by far. */
#define MOST_IN_A_TURN 64

static struct server server;
static struct pool pool;
static struct slot slot;

static int setup(void **unused)
{
    (void)unused;
    log_init("test-slot", LOG_LEVEL_ERROR);
    pool.server = &server;
    pool.name = "A";
    pool.epoll = -1;
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.slots_changed, NULL);
    slot_init(&slot, &pool, 0);
    slot.pid = NO_PROCESS;
    slot.state = SLOT_IDLE;
    slot.due_us = UINT64_MAX;
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    link_close(&slot.link);
    pthread_cond_destroy(&pool.slots_changed);
    pthread_mutex_destroy(&pool.lock);
    return 0;
}

/* packets_left counts what nobody has read yet. */
static unsigned packets_left(int connection)
{
    static char packet[4096];
    unsigned count = 0;
    while (recv(connection, packet, sizeof(packet), MSG_DONTWAIT) > 0)
        count++;
    return count;
}

/* flood sends late words about an earlier attempt, as many as there is room for, each of which has
 * to be read by itself: packets are not run together. */
static unsigned flood(int connection)
{
    struct text frame = {0};
    unsigned count = 0;
    struct frame_builder builder = frame_begin(&frame, FRAME_OUTPUT, 1);
    frame_end(&builder, "late", 4);
    assert_false(frame.failed);
    while (send(connection, frame.data, frame.size, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        count++;
    assert_true(errno == EAGAIN || errno == EWOULDBLOCK);
    text_finish(&frame);
    return count;
}

static void test_a_flood_is_read_in_turns(void **unused)
{
    (void)unused;
    int frames[2];
    struct ending ending = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, frames), 0);
    link_open(&slot.link, frames[0], -1);
    unsigned sent = flood(frames[1]);
    assert_true(sent > 2 * MOST_IN_A_TURN);
    slot_read(&slot, &ending);
    unsigned left = packets_left(frames[0]);
    assert_true(left < sent && left >= sent - MOST_IN_A_TURN);
    /* In more turns all of it is. */
    sent = flood(frames[1]);
    for (unsigned turns = 0; turns < sent; turns++)
        slot_read(&slot, &ending);
    assert_int_equal(packets_left(frames[0]), 0);
    assert_int_equal(slot.state, SLOT_IDLE);
    assert_null(ending.run.job);
    close(frames[1]);
}

static void test_last_words_are_read_in_part(void **unused)
{
    (void)unused;
    int frames[2], errors[2], left;
    static char words[4096];
    struct ending ending = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, frames), 0);
    assert_int_equal(pipe2(errors, O_CLOEXEC | O_NONBLOCK), 0);
    int size = fcntl(errors[1], F_SETPIPE_SZ, 1 << 20), kept = dup(errors[0]);
    assert_true(size >= 2 * MOST_IN_A_TURN * (int)sizeof(words) && kept >= 0);
    memset(words, '\n', sizeof(words));
    memcpy(words, "last words\n", 11);
    for (int written = 0; written < size; written += (int)sizeof(words))
        assert_int_equal(write(errors[1], words, sizeof(words)), sizeof(words));
    link_open(&slot.link, frames[0], errors[0]);
    slot_quit(&slot, &ending);
    assert_int_equal(slot.state, SLOT_DYING);
    assert_string_equal(slot.link.last_error, "last words");
    assert_int_equal(ioctl(kept, FIONREAD, &left), 0);
    assert_true(left < size && left >= size - MOST_IN_A_TURN * (int)sizeof(words));
    close(kept);
    close(errors[1]);
    close(frames[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_flood_is_read_in_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_words_are_read_in_part, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
