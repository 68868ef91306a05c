/*
 * The snapshot in Prometheus' text exposition format 0.0.4. Names, units and
 * suffixes follow prometheus.io/docs/practices/naming: base units (seconds,
 * bytes), _total for counters.
 */
#include "stats.h"
#include "stats_snapshot.h"

#include <inttypes.h>
#include <string.h>

static void head(struct text *text, const char *name, const char *type, const char *help)
{
    text_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/*
 * label_value: the escape of every vgpufs file is what the format asks for in \" and \\; its \xHH
 * is not known there, so its backslash is escaped once more.
 */
static void label_value(struct text *text, const char *value)
{
    struct text escaped = {0};
    text_escape(&escaped, value, strlen(value), SIZE_MAX);
    for (const char *c = escaped.data; c && *c; c++) {
        bool pair = *c == '\\' && (c[1] == '"' || c[1] == '\\');
        if (*c == '\\' && !pair)
            text_puts(text, "\\");
        text_append(text, c, 1);
        if (pair)
            text_append(text, ++c, 1);
    }
    text_finish(&escaped);
}

/* A metric of pools or of VMs: how it is called, and where in the snapshot it stands. */
struct pool_metric {
    const char *name, *type, *help;
    double (*value)(const struct pool_stats *pool);
};
struct vm_metric {
    const char *name, *type, *help;
    double (*value)(const struct vm_stats *vm);
};

#define POOL_VALUE(function, expression)                                                           \
    static double function(const struct pool_stats *pool)                                          \
    {                                                                                              \
        return (double)(expression);                                                               \
    }
#define VM_VALUE(function, expression)                                                             \
    static double function(const struct vm_stats *vm)                                              \
    {                                                                                              \
        return (double)(expression);                                                               \
    }

POOL_VALUE(pool_running_now, pool->running)
POOL_VALUE(pool_oldest_wait, (double)pool->oldest_wait_ms / 1000)
POOL_VALUE(pool_device, (double)pool->counters.device_us / 1e6)
POOL_VALUE(pool_restarts, pool->counters.executor_restarts)
POOL_VALUE(pool_failing, strcmp(pool->state, "failing") == 0)
VM_VALUE(vm_queued, vm->queued)
VM_VALUE(vm_running, vm->running)
VM_VALUE(vm_submitted, vm->counters.submitted)
VM_VALUE(vm_rejected, vm->counters.rejected)
VM_VALUE(vm_device, (double)vm->counters.device_us / 1e6)
VM_VALUE(vm_crashes, vm->counters.crashes)
VM_VALUE(vm_identity_rejected, vm->counters.identity_rejected)
VM_VALUE(vm_data, vm->data_bytes)
VM_VALUE(vm_quota, vm->data_quota_bytes)

static const struct pool_metric pool_metrics[] = {
    {"vgpufs_pool_running_jobs", "gauge", "Jobs that run now.", pool_running_now},
    {"vgpufs_pool_oldest_wait_seconds", "gauge", "Age of the oldest queued job.", pool_oldest_wait},
    {"vgpufs_pool_device_seconds_total", "counter", "Time in which jobs had a slot.", pool_device},
    {"vgpufs_pool_executor_restarts_total", "counter", "Executors that had to be replaced.",
     pool_restarts},
    {"vgpufs_pool_failing", "gauge", "1 while no executor passes its probe.", pool_failing},
};

static const struct vm_metric vm_metrics[] = {
    {"vgpufs_vm_queued_jobs", "gauge", "Queued jobs of the VM.", vm_queued},
    {"vgpufs_vm_running_jobs", "gauge", "Running jobs of the VM.", vm_running},
    {"vgpufs_vm_submitted_jobs_total", "counter", "Accepted jobs.", vm_submitted},
    {"vgpufs_vm_rejected_lines_total", "counter", "Refused lines.", vm_rejected},
    {"vgpufs_vm_device_seconds_total", "counter", "Time in which the VM's jobs had a slot.",
     vm_device},
    {"vgpufs_vm_crashes_total", "counter", "Jobs that took their executor with them.", vm_crashes},
    {"vgpufs_vm_identity_rejected_total", "counter", "Claims that were not allowed.",
     vm_identity_rejected},
    {"vgpufs_vm_data_bytes", "gauge", "Bytes in data/.", vm_data},
    {"vgpufs_vm_data_quota_bytes", "gauge", "Most bytes in data/.", vm_quota},
};

static void render_queued(const struct stats_snapshot *snapshot, struct text *text)
{
    static const char *const names[] = {"low", "medium", "high"};
    head(text, "vgpufs_pool_queued_jobs", "gauge", "Queued jobs by priority.");
    for (size_t i = 0; i < snapshot->pool_count; i++)
        for (size_t level = 0; level < QUEUE_PRIORITIES; level++)
            text_printf(text, "vgpufs_pool_queued_jobs{pool=\"%s\",priority=\"%s\"} %" PRIu64 "\n",
                        snapshot->pools[i].name, names[level], snapshot->pools[i].queued[level]);
}

static void render_ended_line(struct text *text, const char *metric, const char *label,
                              const uint64_t counts[4])
{
    static const char *const states[] = {"done", "failed", "cancelled", "timeout"};
    for (size_t i = 0; i < 4; i++)
        text_printf(text, "%s{%s,state=\"%s\"} %" PRIu64 "\n", metric, label, states[i], counts[i]);
}

static void render_ended(const struct stats_snapshot *snapshot, struct text *text)
{
    char label[64];
    head(text, "vgpufs_pool_jobs_total", "counter", "Ended jobs of the pool by how they ended.");
    for (size_t i = 0; i < snapshot->pool_count; i++) {
        const struct pool_counters *c = &snapshot->pools[i].counters;
        snprintf(label, sizeof(label), "pool=\"%s\"", snapshot->pools[i].name);
        render_ended_line(text, "vgpufs_pool_jobs_total", label,
                          (uint64_t[]){c->done, c->failed, c->cancelled, c->timeout});
    }
    head(text, "vgpufs_vm_jobs_total", "counter", "Ended jobs of the VM by how they ended.");
    for (size_t i = 0; i < snapshot->vm_count; i++) {
        const struct vm_counters *c = &snapshot->vms[i].counters;
        snprintf(label, sizeof(label), "vm=\"%u\"", snapshot->vms[i].id);
        render_ended_line(text, "vgpufs_vm_jobs_total", label,
                          (uint64_t[]){c->done, c->failed, c->cancelled, c->timeout});
    }
}

/* Buckets at powers of four, 16 us to 268 s: where the histogram's own buckets end, so exact. */
#define FIRST_BITS 4
#define LAST_BITS  28

static void render_histogram(const struct stats_snapshot *snapshot, struct text *text,
                             const char *name, const char *help,
                             const struct histogram *(*of)(const struct pool_stats *pool))
{
    head(text, name, "histogram", help);
    for (size_t i = 0; i < snapshot->pool_count; i++) {
        const char *pool = snapshot->pools[i].name;
        const struct histogram *histogram = of(&snapshot->pools[i]);
        for (unsigned bits = FIRST_BITS; bits <= LAST_BITS; bits += 2)
            text_printf(text, "%s_bucket{pool=\"%s\",le=\"%g\"} %" PRIu64 "\n", name, pool,
                        (double)(UINT64_C(1) << bits) / 1e6, histogram_below(histogram, bits));
        text_printf(text, "%s_bucket{pool=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, pool,
                    histogram->count);
        text_printf(text, "%s_sum{pool=\"%s\"} %.6f\n", name, pool,
                    (double)histogram->sum_us / 1e6);
        text_printf(text, "%s_count{pool=\"%s\"} %" PRIu64 "\n", name, pool, histogram->count);
    }
}

static const struct histogram *wait_of(const struct pool_stats *pool)
{
    return &pool->wait;
}

static const struct histogram *run_of(const struct pool_stats *pool)
{
    return &pool->run;
}

static void render_slots(const struct stats_snapshot *snapshot, struct text *text)
{
    head(text, "vgpufs_slot_up", "gauge", "1 while the slot has an executor that answered.");
    for (size_t i = 0; i < snapshot->pool_count; i++)
        for (size_t j = 0; j < snapshot->pools[i].slot_count; j++) {
            const struct slot_stats *slot = &snapshot->pools[i].slots[j];
            text_printf(text, "vgpufs_slot_up{pool=\"%s\",slot=\"%zu\",backend=\"%s\",device=\"",
                        snapshot->pools[i].name, j, slot->backend);
            label_value(text, slot->device);
            text_printf(text, "\"} %d\n", slot->up);
        }
}

/* In Prometheus' base units: the value is that of the slot times `scale`. */
static const struct measure_metric {
    enum slot_measure measure;
    const char *name, *type, *help;
    double scale;
} measure_metrics[] = {
    {MEASURE_TEMPERATURE, "vgpufs_slot_temperature_celsius", "gauge", "The device's temperature.",
     1},
    {MEASURE_UTILISATION, "vgpufs_slot_utilisation_ratio", "gauge",
     "How much of the time the device computed.", 0.01},
    {MEASURE_MEMORY_USED, "vgpufs_slot_memory_used_bytes", "gauge", "Device memory in use.", 1},
    {MEASURE_MEMORY, "vgpufs_slot_memory_bytes", "gauge", "Device memory in all.", 1},
    {MEASURE_XID_EVENTS, "vgpufs_slot_xid_events_total", "counter",
     "Errors of the device that its driver has reported.", 1},
};

/* render_measure leaves a metric out that no slot has. */
static void render_measure(const struct stats_snapshot *snapshot, struct text *text,
                           const struct measure_metric *metric)
{
    bool begun = false;
    for (size_t i = 0; i < snapshot->pool_count; i++)
        for (size_t j = 0; j < snapshot->pools[i].slot_count; j++) {
            int64_t value = snapshot->pools[i].slots[j].reading.values[metric->measure];
            if (value < 0)
                continue;
            if (!begun)
                head(text, metric->name, metric->type, metric->help);
            begun = true;
            text_printf(text, "%s{pool=\"%s\",slot=\"%zu\"} %.15g\n", metric->name,
                        snapshot->pools[i].name, j, (double)value * metric->scale);
        }
}

static void render_tables(const struct stats_snapshot *snapshot, struct text *text)
{
    for (size_t m = 0; m < sizeof(pool_metrics) / sizeof(pool_metrics[0]); m++) {
        const struct pool_metric *metric = &pool_metrics[m];
        head(text, metric->name, metric->type, metric->help);
        for (size_t i = 0; i < snapshot->pool_count; i++)
            text_printf(text, "%s{pool=\"%s\"} %.15g\n", metric->name, snapshot->pools[i].name,
                        metric->value(&snapshot->pools[i]));
    }
    for (size_t m = 0; m < sizeof(vm_metrics) / sizeof(vm_metrics[0]); m++) {
        const struct vm_metric *metric = &vm_metrics[m];
        head(text, metric->name, metric->type, metric->help);
        for (size_t i = 0; i < snapshot->vm_count; i++)
            text_printf(text, "%s{vm=\"%u\"} %.15g\n", metric->name, snapshot->vms[i].id,
                        metric->value(&snapshot->vms[i]));
    }
}

void stats_render_metrics(struct server *server, struct text *text)
{
    struct stats_snapshot *snapshot = stats_snapshot_take(server);
    if (!snapshot) {
        text->failed = true;
        return;
    }
    head(text, "vgpufs_info", "gauge", "Version of the daemon.");
    text_puts(text, "vgpufs_info{version=\"" VGPUFS_VERSION "\"} 1\n");
    head(text, "vgpufs_uptime_seconds", "gauge", "Time since the daemon's start.");
    text_printf(text, "vgpufs_uptime_seconds %" PRIu64 "\n", snapshot->uptime_s);
    render_queued(snapshot, text);
    render_ended(snapshot, text);
    render_tables(snapshot, text);
    render_histogram(snapshot, text, "vgpufs_pool_wait_seconds",
                     "Time that jobs waited before they ran.", wait_of);
    render_histogram(snapshot, text, "vgpufs_pool_run_seconds", "Time that jobs ran.", run_of);
    render_slots(snapshot, text);
    for (size_t i = 0; i < sizeof(measure_metrics) / sizeof(measure_metrics[0]); i++)
        render_measure(snapshot, text, &measure_metrics[i]);
    stats_snapshot_free(snapshot);
}
