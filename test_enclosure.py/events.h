/*
 * The log's lines about jobs: [ENQUEUE], [PROCESS], [RESPONSE]. At most
 * EVENTS_PER_SECOND of them in a second, then a count, so that no guest can fill
 * the host's disk with them. Thread-safe.
 */
#ifndef VGPUFS_EVENTS_H
#define VGPUFS_EVENTS_H

#include <stdbool.h>

#define EVENTS_PER_SECOND 100

struct job;
struct server;

void events_enqueued(struct server *server, const struct job *job);
void events_processing(struct server *server, const struct job *job);
void events_responded(struct server *server, const struct job *job);
/* events_rejected: `line` and `text` come from a guest and are escaped. */
void events_rejected(struct server *server, unsigned vm, const char *line, const char *text);

#endif
