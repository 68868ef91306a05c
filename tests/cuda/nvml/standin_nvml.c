/* A stand-in for NVIDIA's libnvidia-ml.so.1, for tests: one device, with made-up readings. */
#include <string.h>

#define EXPORT    __attribute__((visibility("default")))
#define NOT_FOUND 6 /* NVML_ERROR_NOT_FOUND */

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

static int the_device, initialised;

int nvmlInit_v2(void)
{
    initialised = 1;
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    *device = &the_device;
    return initialised && strncmp(uuid, "GPU-00112233-", 13) == 0 ? 0 : NOT_FOUND;
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
    *memory = (struct memory){.total = 1000, .free = 700, .used = 300};
    return device == &the_device ? 0 : NOT_FOUND;
}
