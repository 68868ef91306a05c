/* The administrator's ctl file: one table of verbs. Thread-safe. */
#ifndef VGPUFS_ADMIN_H
#define VGPUFS_ADMIN_H

#include "common/text.h"
#include "lines.h"

#include <stddef.h>

struct server;

/* admin_accept does what the lines ask for, in order, if all of them can be done: 0 or an errno. */
int admin_accept(struct server *server, const struct line *batch, size_t count);
/* admin_refuse logs a refusal; returns `error`. */
int admin_refuse(int error, const struct line *line, const char *text);
/* admin_render: the last line that was accepted. */
void admin_render(struct server *server, struct text *text);

#endif
