#include "slot_reading.h"

#include "common/log.h"
#include "common/number.h"

#include <inttypes.h>

/* An executor cannot count more at a time than that; nobody's counter overflows. */
#define MOST_EVENTS 1000000

static const struct {
    const char *key;
    uint64_t max;
} measures[] = {
    [MEASURE_TEMPERATURE] = {"temperature_c", 1000},
    [MEASURE_UTILISATION] = {"utilisation_percent", 100},
    [MEASURE_MEMORY_USED] = {"memory_used_bytes", INT64_MAX},
    [MEASURE_MEMORY] = {"memory_bytes", INT64_MAX},
    [MEASURE_XID_EVENTS] = {"xid_events", MOST_EVENTS},
    [MEASURE_LAST_XID] = {"last_xid", UINT32_MAX},
};

const char *slot_measure_key(enum slot_measure measure)
{
    return measures[measure].key;
}

void slot_reading_init(struct slot_reading *reading)
{
    for (int i = 0; i < MEASURE_COUNT; i++)
        reading->values[i] = -1;
}

static int64_t take(const struct frame *frame, enum slot_measure measure)
{
    const char *text = frame_get(frame, measures[measure].key);
    uint64_t value;
    return text && number_parse(text, 0, measures[measure].max, &value) == 0 ? (int64_t)value : -1;
}

void slot_reading_take(struct slot_reading *reading, const struct frame *frame, const char *name)
{
    int64_t *events = &reading->values[MEASURE_XID_EVENTS];
    int64_t *last = &reading->values[MEASURE_LAST_XID];
    for (int i = MEASURE_TEMPERATURE; i < MEASURE_XID_EVENTS; i++)
        reading->values[i] = take(frame, (enum slot_measure)i);
    int64_t more = take(frame, MEASURE_XID_EVENTS), xid = take(frame, MEASURE_LAST_XID);
    if (more < 0)
        return;
    *events = (*events < 0 ? 0 : *events) + more;
    if (more > 0)
        *last = xid;
    if (more > 0)
        log_warning("executor %s: the driver reports %" PRId64 " errors of the device, the last is "
                    "XID %" PRId64,
                    name, more, xid);
}

void slot_reading_lose(struct slot_reading *reading)
{
    for (int i = MEASURE_TEMPERATURE; i < MEASURE_XID_EVENTS; i++)
        reading->values[i] = -1;
}
