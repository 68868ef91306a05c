#include "nvml.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* From the "NVML API Reference Guide"; every call returns 0 if it worked. */
#define NVML_LIBRARY         "libnvidia-ml.so.1"
#define NVML_TEMPERATURE_GPU 0

typedef struct nvmlDevice_st *nvmlDevice_t;

struct nvml_utilization {
    unsigned gpu, memory;
};

struct nvml_memory {
    unsigned long long total, free, used;
};

static struct {
    int (*init)(void);
    int (*find)(const char *uuid, nvmlDevice_t *device);
    int (*temperature)(nvmlDevice_t device, int sensor, unsigned *celsius);
    int (*utilization)(nvmlDevice_t device, struct nvml_utilization *utilization);
    int (*memory)(nvmlDevice_t device, struct nvml_memory *memory);
} nvml;

static const struct {
    const char *name;
    size_t offset;
} calls[] = {
    {"nvmlInit_v2", offsetof(__typeof__(nvml), init)},
    {"nvmlDeviceGetHandleByUUID", offsetof(__typeof__(nvml), find)},
    {"nvmlDeviceGetTemperature", offsetof(__typeof__(nvml), temperature)},
    {"nvmlDeviceGetUtilizationRates", offsetof(__typeof__(nvml), utilization)},
    {"nvmlDeviceGetMemoryInfo", offsetof(__typeof__(nvml), memory)},
};

static bool load(void)
{
    static bool tried, usable;
    if (tried)
        return usable;
    tried = true;
    void *library = dlopen(NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        void *address = dlsym(library, calls[i].name);
        memcpy((char *)&nvml + calls[i].offset, &address, sizeof(address));
    }
    usable = nvml.init && nvml.find && nvml.init() == 0;
    return usable;
}

struct nvml_reading nvml_read(const char *uuid)
{
    struct nvml_reading reading = {-1, -1, -1};
    nvmlDevice_t device;
    unsigned celsius;
    struct nvml_utilization utilization;
    struct nvml_memory memory;
    if (!load() || nvml.find(uuid, &device) != 0)
        return reading;
    if (nvml.temperature && nvml.temperature(device, NVML_TEMPERATURE_GPU, &celsius) == 0)
        reading.temperature_c = celsius;
    if (nvml.utilization && nvml.utilization(device, &utilization) == 0)
        reading.utilisation_percent = utilization.gpu;
    if (nvml.memory && nvml.memory(device, &memory) == 0)
        reading.memory_used_bytes = (int64_t)memory.used;
    return reading;
}
