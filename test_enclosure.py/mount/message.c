#include "message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for the descriptors of one packet, aligned as cmsg(3) wants it. */
union control {
    char bytes[CMSG_SPACE(MESSAGE_DESCRIPTORS * sizeof(int))];
    struct cmsghdr align;
};

int message_send(int socket, const int descriptors[MESSAGE_DESCRIPTORS], const char *format, ...)
{
    char text[MESSAGE_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (size < 0 || (size_t)size >= sizeof(text)) {
        errno = EMSGSIZE;
        return -1;
    }
    union control control = {0};
    struct iovec part = {text, (size_t)size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    size_t count = 0;
    while (descriptors && count < MESSAGE_DESCRIPTORS && descriptors[count] >= 0)
        count++;
    if (count > 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), descriptors, count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

static void take_descriptors(struct message *message, struct msghdr *header)
{
    size_t taken = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            if (taken < MESSAGE_DESCRIPTORS)
                message->descriptors[taken++] = descriptor;
            else
                close(descriptor);
        }
    }
}

int message_receive(int socket, struct message *message, int flags)
{
    union control control;
    struct iovec part = {message->text, sizeof(message->text) - 1};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof(control.bytes)};
    for (size_t i = 0; i < MESSAGE_DESCRIPTORS; i++)
        message->descriptors[i] = -1;
    message->text[0] = '\0';
    ssize_t size;
    do
        size = recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        return errno == ECONNRESET ? 0 : -1;
    take_descriptors(message, &header);
    message->text[size] = '\0';
    bool whole = !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    /* The end of the peer looks like a packet without anything, which nobody sends. */
    if (size == 0 && whole && message->descriptors[0] < 0)
        return 0;
    if (whole && size > 0 && strlen(message->text) == (size_t)size)
        return 1;
    message_close(message);
    errno = EPROTO;
    return -1;
}

void message_close(struct message *message)
{
    for (size_t i = 0; i < MESSAGE_DESCRIPTORS; i++) {
        if (message->descriptors[i] >= 0)
            close(message->descriptors[i]);
        message->descriptors[i] = -1;
    }
}

const char *message_argument(const struct message *message, const char *word)
{
    size_t size = strlen(word);
    if (strncmp(message->text, word, size) != 0)
        return NULL;
    if (message->text[size] == '\0')
        return "";
    return message->text[size] == ' ' ? message->text + size + 1 : NULL;
}
