#include "link.h"

#include "common/log.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE      (64u * 1024)
#define MAX_ERROR_LINE 1000
#define MAX_LOG_LINES  20 /* of one executor between two jobs */

void link_init(struct link *link)
{
    *link = (struct link){.connection = -1, .errors = -1};
}

void link_open(struct link *link, int connection, int errors)
{
    link->connection = connection;
    link->errors = errors;
    link->last_error[0] = '\0';
    link->error_lines_left = MAX_LOG_LINES;
}

void link_close(struct link *link)
{
    if (link->connection >= 0)
        close(link->connection);
    if (link->errors >= 0)
        close(link->errors);
    link->connection = link->errors = -1;
    frame_reader_finish(&link->reader);
    text_finish(&link->error_line);
}

int link_send(struct link *link, const struct text *frames, const int *descriptors, size_t count)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FRAME_MAX_DESCRIPTORS)];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {.iov_base = frames->data, .iov_len = frames->size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (link->connection < 0 || frames->failed)
        return -1;
    if (count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    }
    ssize_t sent;
    do {
        sent = sendmsg(link->connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)frames->size ? 0 : -1;
}

int link_receive(struct link *link)
{
    char *space = frame_reader_space(&link->reader, READ_SIZE);
    if (!space)
        return -1;
    ssize_t size;
    do {
        size = recv(link->connection, space, READ_SIZE, MSG_DONTWAIT);
    } while (size < 0 && errno == EINTR);
    if (size > 0)
        frame_reader_fed(&link->reader, (size_t)size);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    return size > 0 ? 1 : -1;
}

static void error_line_end(struct link *link, const char *name)
{
    struct text escaped = {0};
    text_escape(&escaped, link->error_line.data, link->error_line.size,
                sizeof(link->last_error) - 1);
    if (!escaped.failed && escaped.size) {
        memcpy(link->last_error, escaped.data, escaped.size + 1);
        if (link->error_lines_left) {
            link->error_lines_left--;
            log_info("%s: %s", name, link->last_error);
        }
    }
    text_finish(&escaped);
    text_clear(&link->error_line);
}

int link_read_errors(struct link *link, const char *name)
{
    char bytes[4096];
    if (link->errors < 0)
        return -1;
    ssize_t size = read(link->errors, bytes, sizeof(bytes));
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (size <= 0) {
        if (link->error_line.size)
            error_line_end(link, name);
        return -1;
    }
    for (ssize_t i = 0; i < size; i++) {
        if (bytes[i] == '\n')
            error_line_end(link, name);
        else if (link->error_line.size < MAX_ERROR_LINE)
            text_append(&link->error_line, &bytes[i], 1);
    }
    return 1;
}
