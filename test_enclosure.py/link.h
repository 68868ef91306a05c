/*
 * Frames to and from one executor process, and the lines that it writes to
 * standard error. Not thread-safe: the pool's lock guards it.
 */
#ifndef VGPUFS_LINK_H
#define VGPUFS_LINK_H

#include "common/frame.h"

#include <stdbool.h>

struct link {
    int connection, errors; /* -1: closed */
    struct frame_reader reader;
    struct text error_line;    /* unfinished */
    char last_error[256];      /* the last whole line, escaped; "" if there was none */
    unsigned error_lines_left; /* how many more are logged before the next job */
};

void link_init(struct link *link);
void link_open(struct link *link, int connection, int errors);
void link_close(struct link *link);

/*
 * link_send sends whole frames with `count` descriptors. -1 if the executor is gone or does not
 * read: it never has more than one job to read, so a full socket is its fault.
 */
int link_send(struct link *link, const struct text *frames, const int *descriptors, size_t count);

/* link_receive reads what there is: 1 something, 0 nothing now, -1 the end. */
int link_receive(struct link *link);

/* link_read_errors logs what the executor has written to standard error; `name` begins the lines.
 * -1 at the end. */
int link_read_errors(struct link *link, const char *name);

#endif
