#include "nvml.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* From the "NVML API Reference Guide"; every call returns 0 if it worked. */
#define NVML_LIBRARY             "libnvidia-ml.so.1"
#define NVML_TEMPERATURE_GPU     0
#define NVML_EVENT_XID           UINT64_C(8)
#define NVML_GPU_INSTANCE_ID_ANY UINT32_MAX
/* More than that many events in one reading are for the next. */
#define MOST_EVENTS 64

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;

struct nvml_utilization {
    unsigned gpu, memory;
};

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_event {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

static struct {
    int (*init)(void);
    int (*find)(const char *uuid, nvmlDevice_t *device);
    int (*parent)(nvmlDevice_t mig, nvmlDevice_t *device);
    int (*instance)(nvmlDevice_t mig, unsigned *id);
    int (*name)(nvmlDevice_t device, char *name, unsigned size);
    int (*temperature)(nvmlDevice_t device, int sensor, unsigned *celsius);
    int (*utilization)(nvmlDevice_t device, struct nvml_utilization *utilization);
    int (*memory)(nvmlDevice_t device, struct nvml_memory *memory);
    int (*make_events)(nvmlEventSet_t *set);
    int (*register_events)(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set);
    int (*wait_event)(nvmlEventSet_t set, struct nvml_event *event, unsigned timeout_ms);
} nvml;

static const struct {
    const char *name;
    size_t offset;
} calls[] = {
    {"nvmlInit_v2", offsetof(__typeof__(nvml), init)},
    {"nvmlDeviceGetHandleByUUID", offsetof(__typeof__(nvml), find)},
    {"nvmlDeviceGetDeviceHandleFromMigDeviceHandle", offsetof(__typeof__(nvml), parent)},
    {"nvmlDeviceGetGpuInstanceId", offsetof(__typeof__(nvml), instance)},
    {"nvmlDeviceGetName", offsetof(__typeof__(nvml), name)},
    {"nvmlDeviceGetTemperature", offsetof(__typeof__(nvml), temperature)},
    {"nvmlDeviceGetUtilizationRates", offsetof(__typeof__(nvml), utilization)},
    {"nvmlDeviceGetMemoryInfo", offsetof(__typeof__(nvml), memory)},
    {"nvmlEventSetCreate", offsetof(__typeof__(nvml), make_events)},
    {"nvmlDeviceRegisterEvents", offsetof(__typeof__(nvml), register_events)},
    {"nvmlEventSetWait_v2", offsetof(__typeof__(nvml), wait_event)},
};

/* The device of this process. A part of one (MIG) has memory of its own; its temperature and its
 * errors are the whole device's. */
static struct {
    nvmlDevice_t part, whole;
    unsigned instance; /* of the part */
    nvmlEventSet_t events;
    bool has_events;
    int64_t xid_events, last_xid;
} state = {.instance = NVML_GPU_INSTANCE_ID_ANY, .last_xid = -1};

static bool load_library(void)
{
    void *library = dlopen(NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        void *address = dlsym(library, calls[i].name);
        memcpy((char *)&nvml + calls[i].offset, &address, sizeof(address));
    }
    return nvml.init && nvml.find && nvml.init() == 0;
}

static bool find_device(const char *uuid)
{
    if (nvml.find(uuid, &state.part) != 0)
        return false;
    if (!nvml.parent || nvml.parent(state.part, &state.whole) != 0)
        state.whole = state.part;
    else if (!nvml.instance || nvml.instance(state.part, &state.instance) != 0)
        state.instance = NVML_GPU_INSTANCE_ID_ANY;
    state.has_events = nvml.make_events && nvml.register_events && nvml.wait_event &&
                       nvml.make_events(&state.events) == 0 &&
                       nvml.register_events(state.whole, NVML_EVENT_XID, state.events) == 0;
    return true;
}

static bool load(const char *uuid)
{
    static bool tried, usable;
    if (!tried)
        usable = load_library() && find_device(uuid);
    tried = true;
    return usable;
}

/* take_events counts those that are there, but for those of other parts of the device. */
static void take_events(void)
{
    struct nvml_event event = {0};
    for (int left = MOST_EVENTS; left && nvml.wait_event(state.events, &event, 0) == 0; left--) {
        bool ours = state.instance == NVML_GPU_INSTANCE_ID_ANY ||
                    event.gpu_instance == NVML_GPU_INSTANCE_ID_ANY ||
                    event.gpu_instance == state.instance;
        if (event.type != NVML_EVENT_XID || !ours)
            continue;
        state.xid_events++;
        state.last_xid = (int64_t)(event.data & INT32_MAX);
    }
}

struct nvml_reading nvml_read(const char *uuid)
{
    struct nvml_reading reading = {"", -1, -1, -1, -1, -1, -1};
    unsigned celsius;
    struct nvml_utilization utilization;
    struct nvml_memory memory;
    if (!load(uuid))
        return reading;
    if (!nvml.name || nvml.name(state.part, reading.name, sizeof(reading.name)) != 0)
        reading.name[0] = '\0';
    if (nvml.temperature && nvml.temperature(state.whole, NVML_TEMPERATURE_GPU, &celsius) == 0)
        reading.temperature_c = celsius;
    if (nvml.utilization && nvml.utilization(state.part, &utilization) == 0)
        reading.utilisation_percent = utilization.gpu;
    if (nvml.memory && nvml.memory(state.part, &memory) == 0) {
        reading.memory_used_bytes = (int64_t)memory.used;
        reading.memory_bytes = (int64_t)memory.total;
    }
    if (state.has_events) {
        take_events();
        reading.xid_events = state.xid_events;
        reading.last_xid = state.last_xid;
    }
    return reading;
}
