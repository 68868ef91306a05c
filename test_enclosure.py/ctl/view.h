/*
 * What vgpuctl shows: a snapshot as tables, and the daemon's bytes made safe
 * for a terminal.
 *
 * Widths are in terminal columns; a width of 0 is as wide as it takes.
 */
#ifndef VGPUFS_CTL_VIEW_H
#define VGPUFS_CTL_VIEW_H

#include "common/text.h"
#include "ctl/snapshot.h"

struct view {
    const struct snapshot *now;
    const struct snapshot *before; /* NULL: no rates are shown */
    unsigned width;
};

/* view_render appends the state, then the tables of pools, slots and active VMs. */
void view_render(const struct view *view, struct text *out);

/* view_queue_line appends one line of MOUNT/queue in columns; the heading is a line like any other.
 */
#define VIEW_QUEUE_HEADING "POOL PRIO VM JOB TAG STATE TIME COMMAND"
void view_queue_line(const char *line, size_t size, struct text *out);

/*
 * view_text appends at most `width` columns of `bytes`: what a terminal would take as a command,
 * and what does not print, becomes '?'; a last '+' stands for what was cut off. Returns the
 * columns.
 */
unsigned view_text(struct text *out, const char *bytes, size_t size, unsigned width);

#endif
