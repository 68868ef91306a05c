/* The snapshot as JSON: the same names as in the text, written by jansson. */
#include "stats.h"
#include "stats_snapshot.h"

#include <jansson.h>
#include <string.h>

static void set_number(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* set_string escapes what is no valid UTF-8, which JSON could not hold. */
static void set_string(json_t *object, const char *key, const char *value)
{
    struct text text = {0};
    text_escape(&text, value, strlen(value), SIZE_MAX);
    json_t *string = json_string(value);
    if (!string && !text.failed && text.data)
        string = json_string(text.data);
    json_object_set_new(object, key, string ? string : json_null());
    text_finish(&text);
}

static void set_string_or_null(json_t *object, const char *key, const char *value)
{
    if (!*value || strcmp(value, "-") == 0)
        json_object_set_new(object, key, json_null());
    else
        set_string(object, key, value);
}

static json_t *quantiles_json(const struct histogram *histogram)
{
    json_t *object = json_object();
    set_number(object, "count", histogram->count);
    set_number(object, "sum", histogram->sum_us);
    set_number(object, "p50", histogram_quantile(histogram, 0.5));
    set_number(object, "p90", histogram_quantile(histogram, 0.9));
    set_number(object, "p99", histogram_quantile(histogram, 0.99));
    set_number(object, "p999", histogram_quantile(histogram, 0.999));
    return object;
}

static json_t *slot_json(const struct slot_stats *slot)
{
    json_t *object = json_object();
    set_string(object, "name", slot->name);
    set_string(object, "state", slot->state);
    set_string_or_null(object, "backend", slot->backend);
    set_string_or_null(object, "device", slot->device);
    set_string_or_null(object, "host", slot->host);
    set_string_or_null(object, "pid", slot->pid);
    for (int i = 0; i < MEASURE_COUNT; i++)
        if (slot->reading.values[i] >= 0)
            set_number(object, slot_measure_key((enum slot_measure)i),
                       (uint64_t)slot->reading.values[i]);
    return object;
}

static json_t *pool_json(const struct pool_stats *pool)
{
    json_t *object = json_object(), *slots = json_array();
    const struct pool_counters *counters = &pool->counters;
    set_string(object, "name", pool->name);
    set_string(object, "state", pool->state);
    set_string(object, "order", pool->order == ORDER_FAIR ? "fair" : "fifo");
    set_number(object, "queued", pool->queued[0] + pool->queued[1] + pool->queued[2]);
    set_number(object, "queued_high", pool->queued[2]);
    set_number(object, "queued_medium", pool->queued[1]);
    set_number(object, "queued_low", pool->queued[0]);
    set_number(object, "running", pool->running);
    set_number(object, "oldest_wait_ms", pool->oldest_wait_ms);
    set_number(object, "done", counters->done);
    set_number(object, "failed", counters->failed);
    set_number(object, "cancelled", counters->cancelled);
    set_number(object, "timeout", counters->timeout);
    json_object_set_new(object, "wait_us", quantiles_json(&pool->wait));
    json_object_set_new(object, "run_us", quantiles_json(&pool->run));
    set_number(object, "device_us", counters->device_us);
    set_number(object, "executor_restarts", counters->executor_restarts);
    for (size_t i = 0; i < pool->slot_count; i++)
        json_array_append_new(slots, slot_json(&pool->slots[i]));
    json_object_set_new(object, "slots", slots);
    return object;
}

static json_t *vm_json(const struct vm_stats *vm)
{
    json_t *object = json_object();
    const struct vm_counters *counters = &vm->counters;
    set_number(object, "id", vm->id);
    set_string(object, "pool", vm->pool);
    set_number(object, "priority", vm->priority);
    set_number(object, "queued", vm->queued);
    set_number(object, "running", vm->running);
    set_number(object, "submitted", counters->submitted);
    set_number(object, "rejected", counters->rejected);
    set_number(object, "done", counters->done);
    set_number(object, "failed", counters->failed);
    set_number(object, "cancelled", counters->cancelled);
    set_number(object, "timeout", counters->timeout);
    set_number(object, "device_us", counters->device_us);
    set_number(object, "crashes", counters->crashes);
    set_number(object, "identity_rejected", counters->identity_rejected);
    set_number(object, "data_bytes", vm->data_bytes);
    set_number(object, "data_quota_bytes", vm->data_quota_bytes);
    json_object_set_new(object, "held", json_boolean(vm->held));
    return object;
}

static int append_chunk(const char *bytes, size_t size, void *text)
{
    text_append(text, bytes, size);
    return 0;
}

void stats_render_json(struct server *server, struct text *text)
{
    struct stats_snapshot *snapshot = stats_snapshot_take(server);
    json_t *root = json_object(), *pools = json_array(), *vms = json_array();
    if (!snapshot || !root || !pools || !vms) {
        text->failed = true;
        goto done;
    }
    set_number(root, "version", 1);
    set_string(root, "state", snapshot->state);
    set_number(root, "uptime_s", snapshot->uptime_s);
    set_number(root, "submitted", snapshot->submitted);
    set_number(root, "done", snapshot->done);
    set_number(root, "failed", snapshot->failed);
    for (size_t i = 0; i < snapshot->pool_count; i++)
        json_array_append_new(pools, pool_json(&snapshot->pools[i]));
    for (size_t i = 0; i < snapshot->vm_count; i++)
        json_array_append_new(vms, vm_json(&snapshot->vms[i]));
    json_object_set(root, "pools", pools);
    json_object_set(root, "vms", vms);
    if (json_dump_callback(root, append_chunk, text, JSON_INDENT(2)) < 0)
        text->failed = true;
    text_puts(text, "\n");
done:
    json_decref(vms);
    json_decref(pools);
    json_decref(root);
    stats_snapshot_free(snapshot);
}
