#include "stats.h"
#include "stats_snapshot.h"

#include "clock.h"
#include "common/log.h"
#include "server.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void take_slot(const struct slot *slot, struct slot_stats *stats)
{
    bool greeted = slot->state == SLOT_IDLE || slot->state == SLOT_BUSY;
    strcpy(stats->name, slot->name);
    stats->state = slot->failing ? "failing" : slot_state_name(slot->state);
    stats->up = greeted;
    stats->reading = slot->reading;
    strcpy(stats->backend, greeted ? slot->backend : "-");
    strcpy(stats->device, greeted ? slot->device : "");
    strcpy(stats->host, greeted ? slot->host : "-");
    strcpy(stats->pid, greeted ? slot->reported_pid : "-");
}

/* pool_state: one slot that serves is enough to run. */
static const char *pool_state(const struct pool *pool)
{
    unsigned failing = 0;
    for (unsigned i = 0; i < pool->slot_count; i++)
        failing += pool->slots[i].failing;
    return pool->held                    ? "held"
           : pool->stopping              ? "stopping"
           : failing == pool->slot_count ? "failing"
                                         : "running";
}

static int take_pool(struct pool *pool, struct pool_stats *stats)
{
    stats->slots = calloc(pool->slot_count, sizeof(*stats->slots));
    if (!stats->slots)
        return -1;
    pthread_mutex_lock(&pool->lock);
    stats->name = pool->name;
    stats->state = pool_state(pool);
    stats->order = pool->queue.order;
    for (unsigned level = 0; level < QUEUE_PRIORITIES; level++)
        stats->queued[level] = pool->queue.levels[level].count;
    stats->running = pool->running;
    const struct queue_item *oldest = queue_oldest(&pool->queue);
    if (oldest)
        stats->oldest_wait_ms = (clock_now_us() - oldest->queued_us) / 1000;
    stats->counters = pool->counters;
    stats->wait = pool->wait;
    stats->run = pool->run;
    stats->slot_count = pool->slot_count;
    for (unsigned i = 0; i < pool->slot_count; i++)
        take_slot(&pool->slots[i], &stats->slots[i]);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

static void take_vm(struct vm *vm, struct vm_stats *stats)
{
    struct data_usage usage;
    data_usage(&vm->data, &usage);
    pthread_mutex_lock(&vm->lock);
    *stats = (struct vm_stats){
        .id = vm->id,
        .priority = vm->identity.priority,
        .pool = vm->server->pools[vm->identity.pool].name,
        .held = atomic_load(&vm->held),
        .queued = atomic_load(&vm->queued),
        .running = atomic_load(&vm->running),
        .counters = vm->counters,
        .data_bytes = usage.used_bytes,
        .data_quota_bytes = usage.limits.quota_bytes,
    };
    pthread_mutex_unlock(&vm->lock);
}

static size_t count_vms(struct server *server)
{
    size_t count = 0;
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next))
        count++;
    return count;
}

struct stats_snapshot *stats_snapshot_take(struct server *server)
{
    struct stats_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    size_t most = count_vms(server);
    if (!snapshot)
        return NULL;
    snapshot->pools = calloc(server->pool_count, sizeof(*snapshot->pools));
    snapshot->vms = calloc(most ? most : 1, sizeof(*snapshot->vms));
    if (!snapshot->pools || !snapshot->vms)
        goto failed;
    for (size_t i = 0; i < server->pool_count; i++, snapshot->pool_count++)
        if (take_pool(&server->pools[i], &snapshot->pools[i]) < 0)
            goto failed;
    for (struct vm *vm = atomic_load(&server->vms); vm && snapshot->vm_count < most;
         vm = atomic_load(&vm->next)) {
        struct vm_stats *stats = &snapshot->vms[snapshot->vm_count++];
        take_vm(vm, stats);
        snapshot->submitted += stats->counters.submitted;
        snapshot->done += stats->counters.done;
        snapshot->failed += stats->counters.failed;
    }
    snapshot->state = atomic_load(&server->stopping)   ? "stopping"
                      : atomic_load(&server->draining) ? "draining"
                                                       : "running";
    snapshot->uptime_s = (clock_now_us() - server->started_us) / 1000000;
    return snapshot;
failed:
    stats_snapshot_free(snapshot);
    return NULL;
}

void stats_snapshot_free(struct stats_snapshot *snapshot)
{
    if (!snapshot)
        return;
    for (size_t i = 0; i < snapshot->pool_count; i++)
        free(snapshot->pools[i].slots);
    free(snapshot->pools);
    free(snapshot->vms);
    free(snapshot);
}

static uint64_t pool_queued(const struct pool_stats *pool)
{
    return pool->queued[0] + pool->queued[1] + pool->queued[2];
}

/* " key=value" for a row of a table. */
struct field {
    const char *key;
    uint64_t value;
};

static void render_fields(struct text *text, const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        text_printf(text, " %s=%" PRIu64, fields[i].key, fields[i].value);
}

#define RENDER_FIELDS(text, ...)                                                                   \
    render_fields(text, (const struct field[]){__VA_ARGS__},                                       \
                  sizeof((const struct field[]){__VA_ARGS__}) / sizeof(struct field))

static void render_pool(const struct pool_stats *pool, struct text *text)
{
    const struct pool_counters *counters = &pool->counters;
    text_printf(text, "pool %s state=%s order=%s", pool->name, pool->state,
                pool->order == ORDER_FAIR ? "fair" : "fifo");
    RENDER_FIELDS(
        text, {"queued", pool_queued(pool)}, {"queued_high", pool->queued[2]},
        {"queued_medium", pool->queued[1]}, {"queued_low", pool->queued[0]},
        {"running", pool->running}, {"oldest_wait_ms", pool->oldest_wait_ms},
        {"done", counters->done}, {"failed", counters->failed}, {"cancelled", counters->cancelled},
        {"timeout", counters->timeout}, {"wait_us_p50", histogram_quantile(&pool->wait, 0.5)},
        {"wait_us_p99", histogram_quantile(&pool->wait, 0.99)},
        {"run_us_p50", histogram_quantile(&pool->run, 0.5)},
        {"run_us_p99", histogram_quantile(&pool->run, 0.99)}, {"device_us", counters->device_us},
        {"executor_restarts", counters->executor_restarts});
    text_puts(text, "\n");
}

/* render_word shows what an executor calls itself: a word as it is, anything else quoted. */
static void render_word(struct text *text, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    if (*word && strspn(word, plain) == strlen(word))
        text_puts(text, word);
    else
        text_quote(text, word);
}

static void render_slot(const struct slot_stats *slot, struct text *text)
{
    text_printf(text, "slot %s state=%s backend=%s device=", slot->name, slot->state,
                slot->backend);
    if (slot->device[0])
        text_quote(text, slot->device);
    else
        text_puts(text, "-");
    text_puts(text, " host=");
    render_word(text, slot->host);
    text_printf(text, " pid=%s", slot->pid);
    for (int i = 0; i < MEASURE_COUNT; i++)
        if (slot->reading.values[i] >= 0)
            text_printf(text, " %s=%" PRId64, slot_measure_key((enum slot_measure)i),
                        slot->reading.values[i]);
    text_puts(text, "\n");
}

static void render_vm(const struct vm_stats *vm, struct text *text)
{
    const struct vm_counters *counters = &vm->counters;
    text_printf(text, "vm %u pool=%s priority=%u", vm->id, vm->pool, vm->priority);
    RENDER_FIELDS(text, {"queued", vm->queued}, {"running", vm->running}, {"done", counters->done},
                  {"failed", counters->failed}, {"cancelled", counters->cancelled},
                  {"timeout", counters->timeout}, {"device_us", counters->device_us},
                  {"crashes", counters->crashes},
                  {"identity_rejected", counters->identity_rejected},
                  {"data_bytes", vm->data_bytes});
    text_printf(text, " held=%s\n", vm->held ? "yes" : "no");
}

void stats_render_text(struct server *server, struct text *text)
{
    struct stats_snapshot *snapshot = stats_snapshot_take(server);
    if (!snapshot) {
        text->failed = true;
        return;
    }
    text_printf(text, "version 1\nvgpufs state=%s", snapshot->state);
    RENDER_FIELDS(text, {"uptime_s", snapshot->uptime_s}, {"submitted", snapshot->submitted},
                  {"done", snapshot->done}, {"failed", snapshot->failed});
    text_puts(text, "\n");
    for (size_t i = 0; i < snapshot->pool_count; i++)
        render_pool(&snapshot->pools[i], text);
    for (size_t i = 0; i < snapshot->pool_count; i++)
        for (size_t j = 0; j < snapshot->pools[i].slot_count; j++)
            render_slot(&snapshot->pools[i].slots[j], text);
    for (size_t i = 0; i < snapshot->vm_count; i++)
        render_vm(&snapshot->vms[i], text);
    stats_snapshot_free(snapshot);
}

void stats_log(struct server *server)
{
    struct stats_snapshot *snapshot = stats_snapshot_take(server);
    for (size_t i = 0; snapshot && i < snapshot->pool_count; i++) {
        const struct pool_stats *pool = &snapshot->pools[i];
        log_info("[STATS] Pool %s: queued=%" PRIu64 " running=%" PRIu64 " done=%" PRIu64
                 " failed=%" PRIu64 " wait_us_p99=%" PRIu64 " run_us_p99=%" PRIu64,
                 pool->name, pool_queued(pool), pool->running, pool->counters.done,
                 pool->counters.failed, histogram_quantile(&pool->wait, 0.99),
                 histogram_quantile(&pool->run, 0.99));
    }
    stats_snapshot_free(snapshot);
}

/* The queue file. */

static void render_queue_line(const struct pool *pool, const struct job *job, const char *state,
                              uint64_t since_us, struct text *text)
{
    text_printf(text, "%s %u vm%u %" PRIu64 " %s %s %" PRIu64 "ms %s\n", pool->name,
                job->queue.priority, job->vm->id, job->number, job_tag(job), state,
                (clock_now_us() - since_us) / 1000, job->workload->name);
}

static const char *queued_state(const struct pool *pool, const struct job *job)
{
    bool held = pool->held || atomic_load(&job->vm->held);
    return held ? "held" : "queued";
}

static void render_pool_queue(struct pool *pool, struct text *text)
{
    pthread_mutex_lock(&pool->lock);
    size_t count = (size_t)queue_count(&pool->queue);
    struct queue_item **items = calloc(count ? count : 1, sizeof(*items));
    for (unsigned i = 0; i < pool->slot_count; i++) {
        const struct job *job = pool->slots[i].run.job;
        if (job)
            render_queue_line(pool, job, "running", job->started_us, text);
    }
    if (items && queue_list(&pool->queue, items, clock_now_us()) == 0) {
        for (size_t i = 0; i < count; i++) {
            const struct job *job = container_of(items[i], struct job, queue);
            render_queue_line(pool, job, queued_state(pool, job), job->queue.queued_us, text);
        }
    } else {
        text->failed = true;
    }
    pthread_mutex_unlock(&pool->lock);
    free(items);
}

void stats_render_queue(struct server *server, struct text *text)
{
    for (size_t i = 0; i < server->pool_count; i++)
        render_pool_queue(&server->pools[i], text);
}
