/*
 * The executor's end of the connection to the daemon: frames and descriptors in,
 * frames out. vgpufs-executor(7) is the specification.
 *
 * A struct channel belongs to one thread. It owns its two descriptors, and those
 * that arrived until somebody takes them.
 */
#ifndef VGPUFS_EXECUTOR_CHANNEL_H
#define VGPUFS_EXECUTOR_CHANNEL_H

#include "common/frame.h"

struct channel {
    int in, out;
    bool in_is_socket;
    struct frame_reader reader;
    int descriptors[FRAME_MAX_DESCRIPTORS]; /* received, not taken yet; in order */
    size_t descriptor_count;
    bool over;         /* nothing more will come */
    const char *error; /* why, unless the daemon simply closed its end */
};

/*
 * channel_init takes standard input and output over and puts /dev/null and
 * standard error in their places: a library that prints cannot break a frame.
 * Returns 0, or -1 with errno.
 */
int channel_init(struct channel *channel);
void channel_finish(struct channel *channel);

/*
 * channel_receive: 1 and *frame, whose pointers are valid until the next call; 0 if
 * none came within `timeout_ms` (-1: wait for ever) or a signal interrupted; -1 if
 * channel->over.
 */
int channel_receive(struct channel *channel, struct frame *frame, int timeout_ms);

/* channel_send writes the frames and clears the text. Returns 0, or -1 and channel->over. */
int channel_send(struct channel *channel, struct text *frames);

/* channel_take_descriptors hands over what has arrived: returns how many. */
size_t channel_take_descriptors(struct channel *channel, int descriptors[FRAME_MAX_DESCRIPTORS]);

#endif
