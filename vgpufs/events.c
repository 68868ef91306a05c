#include "events.h"

#include "clock.h"
#include "common/log.h"
#include "job.h"
#include "pool.h"
#include "server.h"
#include "vm.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

/* The lines of this second: the second in the upper half, how many were wanted in the lower. One
 * number, since the pools share no lock. */
static _Atomic uint64_t window;

/* window_open: may one more line be written now? */
static bool window_open(struct server *server)
{
    if (!atomic_load_explicit(&server->log_jobs, memory_order_relaxed))
        return false;
    uint64_t second = (clock_now_us() / 1000000) << 32, next;
    uint64_t last = atomic_load_explicit(&window, memory_order_relaxed);
    do {
        next = last >> 32 == second >> 32 ? last + 1 : second | 1;
    } while (!atomic_compare_exchange_weak_explicit(&window, &last, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    if ((uint32_t)next == 1 && (uint32_t)last > EVENTS_PER_SECOND)
        log_info("%u more lines about jobs were left out", (uint32_t)last - EVENTS_PER_SECOND);
    return (uint32_t)next <= EVENTS_PER_SECOND;
}

static void job_line(struct server *server, const char *event, const struct job *job)
{
    if (window_open(server))
        log_info("[%s] Pool %s: vm=%u, prio=%u, cmd=%s, job=%" PRIu64, event, job->pool->name,
                 job->vm->id, job->queue.priority, job->workload->name, job->number);
}

void events_enqueued(struct server *server, const struct job *job)
{
    job_line(server, "ENQUEUE", job);
}

void events_processing(struct server *server, const struct job *job)
{
    job_line(server, "PROCESS", job);
}

void events_responded(struct server *server, const struct job *job)
{
    if (window_open(server))
        log_info("[RESPONSE] Sent to vm%u: job=%" PRIu64 ", status=%s, run_us=%" PRIu64,
                 job->vm->id, job->number, job_state_name(job_state(job)),
                 job->started_us ? job->end->ended_us - job->started_us : 0);
}

void events_rejected(struct server *server, unsigned vm, const char *line, const char *text)
{
    if (!window_open(server))
        return;
    struct text escaped = {0};
    text_printf(&escaped, "[REJECT] vm%u: \"", vm);
    text_escape(&escaped, line, strlen(line), 200);
    text_puts(&escaped, "\": ");
    text_escape(&escaped, text, strlen(text), 600);
    log_info("%s", escaped.failed ? "[REJECT]" : escaped.data);
    text_finish(&escaped);
}
