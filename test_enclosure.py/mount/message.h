/*
 * What vgpufs and vgpufs-mount say to each other: see vgpufs-mount(8), PROTOCOL. One message is one
 * packet of a SOCK_SEQPACKET socket: a line of text without its newline, and descriptors.
 *
 * Stateless; a socket belongs to one thread at a time.
 */
#ifndef VGPUFS_MOUNT_MESSAGE_H
#define VGPUFS_MOUNT_MESSAGE_H

#define MOUNT_PROTOCOL      1
#define MOUNT_SOCKET        "/run/vgpufs/mount.sock"
#define MESSAGE_TEXT_MAX    4352 /* bytes: a word and a path of PATH_MAX, NUL included */
#define MESSAGE_DESCRIPTORS 2
#define MESSAGE_HELLO       "hello"
#define MESSAGE_MOUNT       "mount"
#define MESSAGE_LEAVE       "leave"
#define MESSAGE_REFUSED     "refused"

struct message {
    char text[MESSAGE_TEXT_MAX];
    int descriptors[MESSAGE_DESCRIPTORS]; /* the receiver's to close; -1: none */
};

/*
 * message_send sends the text with the first descriptors that are not -1, and never waits: a peer
 * that does not read has no claim to more than fits. 0, or -1 with errno.
 */
int message_send(int socket, const int descriptors[MESSAGE_DESCRIPTORS], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/*
 * message_receive waits for one, or with `flags` MSG_DONTWAIT does not. 1; 0 when the peer is gone;
 * -1 with errno, EPROTO for what no message is.
 */
int message_receive(int socket, struct message *message, int flags);
/* message_close closes what is left in it. */
void message_close(struct message *message);
/* message_argument returns what stands behind that word and a blank, "" where nothing does; NULL if
 * the text begins with another word. */
const char *message_argument(const struct message *message, const char *word);

#endif
