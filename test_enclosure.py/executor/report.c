#include "report.h"

#include "common/frame.h"

#include <inttypes.h>

#define PERIOD_MS 2000

static const struct backend *reader; /* NULL: no readings */
static uint64_t next_ns;

void report_start(const struct backend *backend)
{
    reader = backend->read ? backend : NULL;
    next_ns = 0;
}

static void add(struct frame_builder *builder, const char *key, int64_t value)
{
    if (value >= 0)
        frame_field(builder, key, "%" PRId64, value);
}

void report_append(struct text *frames, bool now)
{
    struct backend_reading reading;
    if (!reader || (!now && job_clock_ns() < next_ns))
        return;
    next_ns = job_clock_ns() + PERIOD_MS * UINT64_C(1000000);
    if (!reader->read(&reading)) {
        reader = NULL; /* what is not there now does not come later */
        return;
    }
    struct frame_builder builder = frame_begin(frames, FRAME_READING, 0);
    add(&builder, "temperature_c", reading.temperature_c);
    add(&builder, "utilisation_percent", reading.utilisation_percent);
    add(&builder, "memory_used_bytes", reading.memory_used_bytes);
    add(&builder, "memory_bytes", reading.memory_bytes);
    add(&builder, "xid_events", reading.new_xid_events);
    add(&builder, "last_xid", reading.last_xid);
    frame_end(&builder, NULL, 0);
}

int report_wait_ms(void)
{
    return reader ? PERIOD_MS : -1;
}
