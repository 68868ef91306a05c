#include "durable.h"

#include "kill_point.h"
#include "table.h"

#include <stdbool.h>
#include <stdlib.h>

struct durable {
    struct state_waiter waiter;
    fuse_req_t request;
    bool write;
    bool done; /* it has succeeded, whatever becomes of the disk */
    size_t size;
};

static void send_reply(const struct durable *durable, int error)
{
    KILL_POINT("replying");
    if ((error && !durable->done) || !durable->write)
        fuse_reply_err(durable->request, error);
    else
        fuse_reply_write(durable->request, durable->size);
    KILL_POINT("replied");
}

static void durable_done(struct state_waiter *waiter, int error)
{
    struct durable *durable = container_of(waiter, struct durable, waiter);
    send_reply(durable, error);
    free(durable);
}

static void reply_when(struct state *state, state_ticket ticket, const struct durable *wanted)
{
    int error;
    struct durable *durable = malloc(sizeof(*durable));
    if (!durable) { /* this thread waits itself */
        send_reply(wanted, state_wait(state, ticket));
        return;
    }
    *durable = *wanted;
    durable->waiter = (struct state_waiter){
        .ticket = ticket, .stored = wanted->done, .light = true, .done = durable_done};
    if (!state_when(state, &durable->waiter, &error))
        durable_done(&durable->waiter, error);
}

void durable_reply(struct state *state, fuse_req_t request, state_ticket ticket)
{
    reply_when(state, ticket, &(struct durable){.request = request});
}

void durable_reply_write(struct state *state, fuse_req_t request, state_ticket ticket, size_t size)
{
    reply_when(state, ticket, &(struct durable){.request = request, .write = true, .size = size});
}

void durable_reply_later(struct state *state, fuse_req_t request, state_ticket ticket, size_t size)
{
    reply_when(state, ticket,
               &(struct durable){.request = request, .write = true, .done = true, .size = size});
}
