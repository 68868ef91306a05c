#include "holder_client.h"

#include "mount/message.h"

#include "common/log.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_S 10

static int connection = -1;

static int holder_connect(const char *socket_path, struct text *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof(address.sun_path)) {
        text_printf(error, "%s: too long for a socket: name another with --mount-socket",
                    socket_path);
        return -1;
    }
    strcpy(address.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    text_printf(error, "%s: %s: is vgpufs-mount running? 'systemctl status vgpufs-mount'",
                socket_path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* answer_read takes the descriptor out of the answer; -1 and *error. */
static int answer_read(struct message *message, const char *mountpoint, struct text *error)
{
    const char *path = message_argument(message, MESSAGE_MOUNT);
    const char *why = message_argument(message, MESSAGE_REFUSED);
    int fd = message->descriptors[0];
    if (why)
        text_printf(error, "vgpufs-mount refuses: %s", why);
    else if (!path || fd < 0)
        text_puts(error, "vgpufs-mount is of another version: restart both");
    else if (strcmp(path, mountpoint) != 0)
        text_printf(error,
                    "vgpufs-mount has mounted %s, but mountpoint is %s: change one of them, then "
                    "restart both",
                    path, mountpoint);
    if (error->size)
        return -1;
    message->descriptors[0] = -1;
    return fd;
}

int holder_take(const char *socket_path, const char *mountpoint, struct text *error)
{
    struct message message;
    struct timeval patience = {.tv_sec = ANSWER_S};
    int fd = -1;
    connection = holder_connect(socket_path, error);
    if (connection < 0)
        return -1;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    /* It may have refused, and closed, before this: then its reason is there to be read. */
    int received = message_send(connection, NULL, MESSAGE_HELLO " %d", MOUNT_PROTOCOL);
    if (received == 0 || errno == EPIPE)
        received = message_receive(connection, &message, 0);
    if (received > 0) {
        fd = answer_read(&message, mountpoint, error);
        message_close(&message);
    } else {
        text_printf(error, "%s: no answer from vgpufs-mount: %s: restart it", socket_path,
                    received == 0 ? "it has closed the connection" : strerror(errno));
    }
    if (fd < 0) {
        close(connection);
        connection = -1;
    }
    return fd;
}

void holder_leave(void)
{
    if (connection < 0)
        return;
    /* It may have ended before; then there is nothing to leave. */
    if (message_send(connection, NULL, MESSAGE_LEAVE) < 0 && errno != EPIPE)
        log_warning("cannot take leave of vgpufs-mount: %s", strerror(errno));
    close(connection);
    connection = -1;
}
