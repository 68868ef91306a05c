/*
 * One line on a terminal's standard error that tells how a job gets on and is
 * redrawn in place. Not thread-safe.
 */
#ifndef VGPUFS_GUEST_PROGRESS_H
#define VGPUFS_GUEST_PROGRESS_H

#include "job.h"

struct progress {
    bool enabled; /* false: every call does nothing */
    bool drawn;
    const char *name; /* of the job; must stay valid */
    int64_t start_ms;
};

/* progress_init draws nothing unless standard error is a terminal that can clear a line. */
void progress_init(struct progress *progress, const char *name, bool quiet);
void progress_draw(struct progress *progress, const struct job_status *status);
/* progress_clear makes room for other output; the line may be drawn again. */
void progress_clear(struct progress *progress);

#endif
