/* The cpu backend: the machine's own processors, as one device. Always there. */
#include "executor/backend.h"

#include <string.h>
#include <sys/utsname.h>

static char cpu_name[128];

/* cpu_find_name reads "model name" from /proc/cpuinfo, which not every architecture has. */
static void cpu_find_name(void)
{
    struct utsname system;
    snprintf(cpu_name, sizeof(cpu_name), "%s", uname(&system) == 0 ? system.machine : "cpu");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof(line), file)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value)
            continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = '\0';
        if (*value)
            snprintf(cpu_name, sizeof(cpu_name), "%.*s", (int)sizeof(cpu_name) - 1, value);
        break;
    }
    fclose(file);
}

static int cpu_open(const struct backend_options *options, char *error, size_t size)
{
    const char *device = options->device;
    if (device && strcmp(device, "0") != 0) {
        snprintf(error, size, "the cpu backend has no device %s: it has device 0 alone", device);
        return -1;
    }
    cpu_find_name();
    return 0;
}

static void cpu_close(void)
{
    cpu_name[0] = '\0';
}

static const char *cpu_device_name(void)
{
    if (!cpu_name[0])
        cpu_find_name(); /* another backend asks, for a workload that it leaves to this one */
    return cpu_name;
}

static enum job_status cpu_run(const struct workload *workload, struct job *job)
{
    return workload->cpu(job);
}

static const char *cpu_broken(void)
{
    return NULL;
}

static void cpu_list(FILE *out)
{
    cpu_find_name();
    fprintf(out, "  cpu 0  %s\n", cpu_name);
}

const struct backend backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .device_name = cpu_device_name,
    .run = cpu_run,
    .broken = cpu_broken,
    .list = cpu_list,
};
