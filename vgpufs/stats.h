/*
 * Statistics: one snapshot of all counters -> text, JSON, Prometheus. Takes the
 * same time whatever the length of the queues. Thread-safe.
 */
#ifndef VGPUFS_STATS_H
#define VGPUFS_STATS_H

#include "common/text.h"

struct handover;
struct server;

void stats_render_text(struct server *server, struct text *text);
void stats_render_json(struct server *server, struct text *text);
void stats_render_metrics(struct server *server, struct text *text);
/* stats_render_queue: a line for each running and queued job; its time grows with their number. */
void stats_render_queue(struct server *server, struct text *text);
/* stats_log writes the line of every stats_log_interval. */
void stats_log(struct server *server);

/* stats_save notes all counters for the next daemon, in place: they must not change until the
 * handover is packed. stats_restore adds to its own what was noted. */
void stats_save(struct server *server, struct handover *handover);
void stats_restore(struct server *server, const struct handover *handover);

#endif
