#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* A job's frame is far smaller: one read(2) takes it whole. */
#define READ_SIZE (64 * 1024)

int channel_init(struct channel *channel)
{
    *channel = (struct channel){.in = -1, .out = -1};
    channel->in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    channel->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (channel->in < 0 || channel->out < 0 || null < 0)
        goto error;
    if (dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        goto error;
    close(null);
    int type;
    socklen_t size = sizeof(type);
    channel->in_is_socket = getsockopt(channel->in, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    return 0;
error:
    if (null >= 0)
        close(null);
    channel_finish(channel);
    return -1;
}

void channel_finish(struct channel *channel)
{
    for (size_t i = 0; i < channel->descriptor_count; i++)
        close(channel->descriptors[i]);
    channel->descriptor_count = 0;
    frame_reader_finish(&channel->reader);
    if (channel->in >= 0)
        close(channel->in);
    if (channel->out >= 0)
        close(channel->out);
    channel->in = channel->out = -1;
}

static int channel_end(struct channel *channel, const char *error)
{
    channel->over = true;
    channel->error = error;
    return -1;
}

static void channel_keep_descriptors(struct channel *channel, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (channel->descriptor_count < FRAME_MAX_DESCRIPTORS) {
                channel->descriptors[channel->descriptor_count++] = descriptor;
            } else {
                close(descriptor);
                channel_end(channel, "more descriptors than a message may carry");
            }
        }
    }
    if (message->msg_flags & MSG_CTRUNC)
        channel_end(channel, "descriptors that cannot be received: too many, or too many open");
}

static ssize_t channel_read_socket(struct channel *channel, char *data, bool wait)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FRAME_MAX_DESCRIPTORS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = READ_SIZE};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t size = recvmsg(channel->in, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    if (size >= 0)
        channel_keep_descriptors(channel, &message);
    return size;
}

/* channel_poll: 1 if there is something to read, 0 if not, -1 if channel->over. */
static int channel_poll(struct channel *channel, int timeout_ms)
{
    struct pollfd poll_in = {.fd = channel->in, .events = POLLIN};
    int ready = poll(&poll_in, 1, timeout_ms);
    if (ready < 0)
        return errno == EINTR ? 0 : channel_end(channel, strerror(errno));
    return ready;
}

/* channel_read reads once: 1 if there was something, 0 if not, -1 if channel->over. */
static int channel_read(struct channel *channel, int timeout_ms)
{
    char *data = frame_reader_space(&channel->reader, READ_SIZE);
    if (!data)
        return channel_end(channel, "a frame for which there is no memory");
    /* Without a time limit read(2) itself waits, and a job costs one call less. */
    if (timeout_ms >= 0) {
        int ready = channel_poll(channel, timeout_ms);
        if (ready <= 0)
            return ready;
    }
    ssize_t size = channel->in_is_socket ? channel_read_socket(channel, data, timeout_ms < 0)
                                         : read(channel->in, data, READ_SIZE);
    if (channel->over)
        return -1;
    if (size < 0 && errno == EAGAIN) /* a descriptor that somebody made non-blocking */
        return timeout_ms < 0 && channel_poll(channel, -1) < 0 ? -1 : 0;
    if (size < 0)
        return errno == EINTR ? 0 : channel_end(channel, strerror(errno));
    if (size == 0)
        return channel_end(channel, channel->reader.buffer.size > channel->reader.offset
                                        ? "the end in the middle of a frame"
                                        : NULL);
    frame_reader_fed(&channel->reader, (size_t)size);
    return 1;
}

int channel_receive(struct channel *channel, struct frame *frame, int timeout_ms)
{
    while (!channel->over) {
        const char *error = NULL;
        int found = frame_reader_next(&channel->reader, frame, &error);
        if (found > 0)
            return 1;
        if (found < 0)
            return channel_end(channel, error);
        int got = channel_read(channel, timeout_ms);
        if (got == 0 && timeout_ms >= 0)
            return 0;
    }
    return -1;
}

int channel_send(struct channel *channel, struct text *frames)
{
    if (frames->failed)
        channel_end(channel, "no memory to answer, or a frame too large");
    for (size_t sent = 0; sent < frames->size && !channel->over;) {
        ssize_t size = write(channel->out, frames->data + sent, frames->size - sent);
        if (size >= 0) {
            sent += (size_t)size;
        } else if (errno == EAGAIN) {
            struct pollfd poll_out = {.fd = channel->out, .events = POLLOUT};
            poll(&poll_out, 1, -1);
        } else if (errno == EPIPE || errno == ECONNRESET) {
            channel_end(channel, NULL); /* the daemon is gone: the same as the end of the input */
        } else if (errno != EINTR) {
            channel_end(channel, strerror(errno));
        }
    }
    text_clear(frames);
    return channel->over ? -1 : 0;
}

size_t channel_take_descriptors(struct channel *channel, int descriptors[FRAME_MAX_DESCRIPTORS])
{
    size_t count = channel->descriptor_count;
    memcpy(descriptors, channel->descriptors, count * sizeof(int));
    channel->descriptor_count = 0;
    return count;
}
