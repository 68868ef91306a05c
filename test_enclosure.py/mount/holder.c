#include "holder.h"

#include "exports.h"
#include "message.h"

#include "common/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- the socket --- */

/* is_answered: does a process listen on the socket? */
static int is_answered(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
                             errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    return result;
}

/* socket_clear removes the socket of a holder that died; -1 and a message if something else lies
 * there. */
static int socket_clear(const struct sockaddr_un *address)
{
    struct stat buffer;
    const char *path = address->sun_path;
    if (lstat(path, &buffer) < 0)
        return 0; /* bind(2) will say what is wrong, if anything is */
    if (!S_ISSOCK(buffer.st_mode)) {
        log_error("%s is no socket: remove it, or name another with --socket", path);
        return -1;
    }
    if (is_answered(address)) {
        log_error("another vgpufs-mount listens on %s: stop it, or name another with --socket",
                  path);
        return -1;
    }
    return unlink(path);
}

static int socket_listen(struct holder *holder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(holder->socket_path) >= sizeof(address.sun_path)) {
        log_error("%s: too long for a socket: name another with --socket", holder->socket_path);
        return -1;
    }
    strcpy(address.sun_path, holder->socket_path);
    if (socket_clear(&address) < 0)
        return -1;
    mode_t mask = umask(0177);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int bound = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (bound == 0)
        holder->listener = fd; /* from here on the path is holder_finish's to remove */
    if (bound == 0 && chown(address.sun_path, holder->user, (gid_t)-1) == 0 &&
        listen(fd, HOLDER_PEERS) == 0)
        return 0;
    log_error("cannot listen on %s: %s: name another with --socket", holder->socket_path,
              strerror(errno));
    if (bound < 0 && fd >= 0)
        close(fd);
    return -1;
}

/* --- the mount --- */

/* mount_anew replaces the mount by one that no daemon has seen. */
static int mount_anew(struct holder *holder)
{
    device_unmount(&holder->device);
    if (holder->state >= 0)
        close(holder->state);
    holder->state = -1;
    if (device_mount(&holder->device) < 0)
        return -1;
    holder->abort_ms = now_ms() + holder->patience_ms;
    exports_flush();
    log_info("%s is mounted", holder->device.mountpoint);
    return 0;
}

static void peer_close(struct holder *holder, struct peer *peer)
{
    close(peer->socket);
    peer->socket = -1;
    if (holder->serving == peer)
        holder->serving = NULL;
}

/* daemon_left: it has told its end, and perhaps what the next one needs to go on. */
static int daemon_left(struct holder *holder, struct peer *peer, int state)
{
    peer_close(holder, peer);
    if (state < 0) {
        log_info("vgpufs has stopped: mounting %s anew", holder->device.mountpoint);
        return mount_anew(holder);
    }
    log_info("vgpufs has stopped: keeping %s for the next one", holder->device.mountpoint);
    holder->state = state;
    holder->abort_ms = now_ms() + holder->patience_ms;
    return 0;
}

/* peer_gone: the process has ended, or closed the socket. Whatever a daemon had read from the
 * device and not answered would wait for ever. */
static int peer_gone(struct holder *holder, struct peer *peer)
{
    bool served = holder->serving == peer;
    pid_t pid = peer->pid;
    peer_close(holder, peer);
    if (!served)
        return 0;
    log_warning("vgpufs (process %d) has died: mounting %s anew", (int)pid,
                holder->device.mountpoint);
    return mount_anew(holder);
}

/* --- messages --- */

static int refuse(struct holder *holder, struct peer *peer, const char *why)
{
    log_warning("process %d is refused: %s", (int)peer->pid, why);
    message_send(peer->socket, NULL, MESSAGE_REFUSED " %s", why);
    /* Closed with something unread, the peer would see ECONNRESET in place of the answer. */
    struct message unread;
    if (message_receive(peer->socket, &unread, MSG_DONTWAIT) > 0)
        message_close(&unread);
    peer_close(holder, peer);
    return 0;
}

/* give hands the mount, and what was left for it, to a daemon. */
static int give(struct holder *holder, struct peer *peer)
{
    if (holder->device.fd < 0 && mount_anew(holder) < 0)
        return -1;
    int descriptors[MESSAGE_DESCRIPTORS] = {holder->device.fd, holder->state};
    if (message_send(peer->socket, descriptors, MESSAGE_MOUNT " %s", holder->device.mountpoint) <
        0) {
        peer_close(holder, peer);
        return 0;
    }
    log_info("vgpufs (process %d) serves %s", (int)peer->pid, holder->device.mountpoint);
    holder->serving = peer;
    holder->abort_ms = 0;
    if (holder->state >= 0)
        close(holder->state);
    holder->state = -1;
    return 0;
}

static int hello(struct holder *holder, struct peer *peer, const char *version)
{
    char *end;
    if (strtoul(version, &end, 10) != MOUNT_PROTOCOL || *end != '\0')
        return refuse(holder, peer, "vgpufs is of another version than vgpufs-mount: restart both");
    if (holder->serving)
        return refuse(holder, peer, "another vgpufs has the mount: stop that one");
    return give(holder, peer);
}

static int message_take(struct holder *holder, struct peer *peer, struct message *message)
{
    const char *argument;
    if ((argument = message_argument(message, MESSAGE_HELLO)) && holder->serving != peer)
        return hello(holder, peer, argument);
    if ((argument = message_argument(message, MESSAGE_LEAVE)) && holder->serving == peer) {
        int state = message->descriptors[0];
        message->descriptors[0] = -1;
        return daemon_left(holder, peer, state);
    }
    log_warning("process %d says what it may not say now: closing its connection", (int)peer->pid);
    return peer_gone(holder, peer);
}

static int peer_serve(struct holder *holder, struct peer *peer)
{
    struct message message;
    int result = message_receive(peer->socket, &message, MSG_DONTWAIT);
    if (result < 0 && errno == EAGAIN)
        return 0;
    if (result <= 0)
        return peer_gone(holder, peer);
    result = message_take(holder, peer, &message);
    message_close(&message);
    return result;
}

static int peer_accept(struct holder *holder)
{
    struct ucred credentials;
    socklen_t size = sizeof(credentials);
    int fd = accept4(holder->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return 0; /* it is gone again */
    struct peer *peer = NULL, stranger = {.socket = fd};
    for (size_t i = 0; i < HOLDER_PEERS && !peer; i++)
        if (holder->peers[i].socket < 0)
            peer = &holder->peers[i];
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
        return refuse(holder, &stranger, "the kernel does not say whose process it is");
    stranger.pid = credentials.pid;
    if (credentials.uid != 0 && credentials.uid != holder->user)
        return refuse(holder, &stranger, "it is neither root's nor that of --user");
    if (!peer)
        return refuse(holder, &stranger, "too many connections");
    *peer = stranger;
    return 0;
}

/* --- its life --- */

int holder_start(struct holder *holder)
{
    holder->device.fd = holder->listener = holder->state = -1;
    for (size_t i = 0; i < HOLDER_PEERS; i++)
        holder->peers[i].socket = -1;
    /* Who has the socket is the only one, so the mount can be looked at in peace. */
    if (socket_listen(holder) < 0 || device_clear(&holder->device) < 0)
        return -1;
    return mount_anew(holder);
}

unsigned holder_polls(const struct holder *holder, struct pollfd polls[HOLDER_POLLS])
{
    polls[0] = (struct pollfd){.fd = holder->listener, .events = POLLIN};
    for (size_t i = 0; i < HOLDER_PEERS; i++) /* poll(2) leaves out negative ones */
        polls[i + 1] = (struct pollfd){.fd = holder->peers[i].socket, .events = POLLIN};
    return HOLDER_POLLS;
}

int holder_timeout_ms(const struct holder *holder)
{
    uint64_t now = now_ms();
    if (holder->abort_ms == 0)
        return -1;
    return holder->abort_ms > now ? (int)(holder->abort_ms - now) : 0;
}

int holder_serve(struct holder *holder, const struct pollfd *polls, unsigned count)
{
    for (unsigned i = 1; i < count; i++)
        if (polls[i].revents && holder->peers[i - 1].socket == polls[i].fd &&
            peer_serve(holder, &holder->peers[i - 1]) < 0)
            return -1;
    if (polls[0].revents && peer_accept(holder) < 0)
        return -1;
    if (holder->abort_ms && now_ms() >= holder->abort_ms) {
        device_abort(&holder->device);
        holder->abort_ms = 0;
        log_warning("no vgpufs has come for %s: calls into it fail until one does",
                    holder->device.mountpoint);
    }
    return 0;
}

void holder_finish(struct holder *holder)
{
    for (size_t i = 0; i < HOLDER_PEERS; i++)
        if (holder->peers[i].socket >= 0)
            peer_close(holder, &holder->peers[i]);
    if (holder->state >= 0)
        close(holder->state);
    if (holder->listener < 0)
        return; /* what is mounted there is another holder's */
    device_unmount(&holder->device);
    unlink(holder->socket_path);
    close(holder->listener);
}
