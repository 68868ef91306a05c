/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1, for tests: one device, and its part (MIG) number 3,
 * with made-up readings. STANDIN_XID=FILE: its lines "XID PART" are errors that the driver reports,
 * also those that are added later; part 4294967295 is all of the device.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT    __attribute__((visibility("default")))
#define NOT_FOUND 6  /* NVML_ERROR_NOT_FOUND */
#define TIMEOUT   10 /* NVML_ERROR_TIMEOUT */

struct utilization {
    unsigned gpu, memory;
};

struct memory {
    unsigned long long total, free, used;
};

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device);
EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius);
EXPORT int nvmlDeviceGetUtilizationRates(void *device, struct utilization *utilization);
EXPORT int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory);

struct event {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *mig, void **device);
EXPORT int nvmlDeviceGetGpuInstanceId(void *mig, unsigned *id);
EXPORT int nvmlDeviceGetName(void *device, char *name, unsigned size);
EXPORT int nvmlEventSetCreate(void **set);
EXPORT int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set);
EXPORT int nvmlEventSetWait_v2(void *set, struct event *event, unsigned timeout_ms);

static int the_device, the_part, the_set, initialised, registered;

/* Neither has what belongs to the other: a part has no temperature and no events. */
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *mig, void **device)
{
    *device = &the_device;
    return mig == &the_part ? 0 : NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(void *mig, unsigned *id)
{
    *id = 3;
    return mig == &the_part ? 0 : NOT_FOUND;
}

int nvmlDeviceGetName(void *device, char *name, unsigned size)
{
    snprintf(name, size, "vgpufs test stand-in%s", device == &the_part ? " MIG" : "");
    return 0;
}

int nvmlEventSetCreate(void **set)
{
    *set = &the_set;
    return 0;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set)
{
    registered = device == &the_device && set == &the_set && (types & 8);
    return registered ? 0 : NOT_FOUND;
}

int nvmlEventSetWait_v2(void *set, struct event *event, unsigned timeout_ms)
{
    static long offset;
    const char *path = getenv("STANDIN_XID");
    FILE *file = path && registered && set == &the_set ? fopen(path, "r") : NULL;
    int found = 0;
    (void)timeout_ms; /* none is waited for */
    if (!file)
        return TIMEOUT;
    *event = (struct event){.device = &the_device, .type = 8};
    if (fseek(file, offset, SEEK_SET) == 0)
        found = fscanf(file, "%llu %u\n", &event->data, &event->gpu_instance) == 2;
    offset = found ? ftell(file) : offset;
    fclose(file);
    return found ? 0 : TIMEOUT;
}

int nvmlInit_v2(void)
{
    initialised = 1;
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    *device = strncmp(uuid, "MIG-", 4) == 0 ? &the_part : &the_device;
    return initialised && strncmp(uuid + 4, "00112233-", 9) == 0 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius)
{
    *celsius = 41;
    return device == &the_device && sensor == 0 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *utilization)
{
    *utilization = (struct utilization){.gpu = 73, .memory = 5};
    return device == &the_device ? 0 : NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory)
{
    int part = device == &the_part;
    *memory = part ? (struct memory){.total = 100, .free = 70, .used = 30}
                   : (struct memory){.total = 1000, .free = 700, .used = 300};
    return part || device == &the_device ? 0 : NOT_FOUND;
}
