#include "stub.h"

#include "tool.h"

#include <ctype.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANY_ID UINT32_MAX

/* linux/pci_regs.h: the command register of the configuration space. */
#define PCI_COMMAND_OFFSET 4
#define PCI_COMMAND_MEMORY 0x2

#define MAX_CANDIDATES 64

/* The kinds of device that may be a stub; a kind is looked at only if no earlier one is there. */
static const struct stub_kind {
    uint32_t vendor, device, class; /* class without its lowest byte, the programming interface */
    int bar;
    bool without_driver; /* others make such devices too; one with a driver is theirs */
    bool shared;         /* and valid registers are needed to tell that it is a stub at all */
} stub_kinds[] = {
    {0x1af4, 0x1111, ANY_ID, 0, false, false},
    {ANY_ID, ANY_ID, 0x1200, 0, true, false}, /* "processing accelerator" */
    {0x1af4, 0x1110, ANY_ID, 2, true, true},  /* QEMU's ivshmem: its memory is BAR2 */
};
#define STUB_KINDS (sizeof(stub_kinds) / sizeof(stub_kinds[0]))

enum { REGISTER_POOL, REGISTER_PRIORITY, REGISTER_VM_ID, REGISTERS };

static const struct stub_register {
    const char *name;
    unsigned offset;
    uint32_t min, max;
    const char *range;
} stub_registers[REGISTERS] = {
    [REGISTER_POOL] = {"pool", 0x008, 'A', 'Z', "one of 'A' to 'Z' (0x41 to 0x5a)"},
    [REGISTER_PRIORITY] = {"priority", 0x00c, 0, 2, "0 (low), 1 (medium) or 2 (high)"},
    [REGISTER_VM_ID] = {"vm_id", 0x010, 1, TOOL_MAX_VM_ID, "1 to 65535"},
};
#define REGISTERS_END  0x14 /* the byte behind the last register */
#define REGISTERS_SIZE 4096 /* of which at most this much is mapped */

struct candidate {
    char device[STUB_DEVICE_SIZE];
    unsigned bar;
};

static int device_path(char *path, size_t size, const struct stub_query *query, const char *device,
                       const char *file)
{
    return tool_path(path, size, "%s/bus/pci/devices/%s/%s", query->sysfs, device, file);
}

/* device_has tells if sysfs shows that file (or link) for the device. */
static bool device_has(const struct stub_query *query, const char *device, const char *file)
{
    char path[PATH_MAX];
    struct stat status;
    return device_path(path, sizeof(path), query, device, file) == 0 && lstat(path, &status) == 0;
}

/* device_number reads a file such as `vendor`, "0x1af4\n"; ANY_ID if there is none. */
static uint32_t device_number(const struct stub_query *query, const char *device, const char *file)
{
    char path[PATH_MAX], content[32], *end;
    if (device_path(path, sizeof(path), query, device, file) != 0 ||
        tool_read_file(path, content, sizeof(content)) <= 0)
        return ANY_ID;
    unsigned long value = strtoul(content, &end, 16);
    return end == content || (*end && *end != '\n') || value >= ANY_ID ? ANY_ID : (uint32_t)value;
}

/* device_kind returns the index of the first kind that the device is of, or STUB_KINDS. */
static size_t device_kind(const struct stub_query *query, const char *device)
{
    uint32_t vendor = device_number(query, device, "vendor");
    uint32_t id = device_number(query, device, "device");
    uint32_t class = device_number(query, device, "class") >> 8;
    for (size_t i = 0; i < STUB_KINDS; i++) {
        const struct stub_kind *kind = &stub_kinds[i];
        if ((kind->vendor == ANY_ID || kind->vendor == vendor) &&
            (kind->device == ANY_ID || kind->device == id) &&
            (kind->class == ANY_ID || kind->class == class))
            return i;
    }
    return STUB_KINDS;
}

/* device_name_is_valid keeps '/' and the like out of paths: hexadecimal digits, ':' and '.'. */
static bool device_name_is_valid(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < STUB_DEVICE_SIZE && isxdigit((unsigned char)name[0]) &&
           strspn(name, "0123456789abcdefABCDEF:.") == length;
}

static int is_device_entry(const struct dirent *entry)
{
    return device_name_is_valid(entry->d_name);
}

/* lockdown_explain tells the kernel's lockdown mode apart from other reasons for EPERM. */
static const char *lockdown_explain(const struct stub_query *query)
{
    char path[PATH_MAX], content[128];
    if (tool_path(path, sizeof(path), "%s/kernel/security/lockdown", query->sysfs) == 0 &&
        tool_read_file(path, content, sizeof(content)) > 0 && !strstr(content, "[none]"))
        return "the kernel is locked down, as with Secure Boot";
    return "the kernel or a container forbids it";
}

static void explain_map_error(const struct stub_query *query, const char *resource, int error,
                              char *message, size_t size)
{
    const char *advice = "check that it is a memory BAR of at least 4096 bytes and that no driver "
                         "holds it";
    if (error == EACCES)
        advice = "run as root";
    if (error != EPERM) {
        snprintf(message, size, "cannot map %s: %s: %s", resource, strerror(error), advice);
        return;
    }
    snprintf(message, size,
             "cannot map %s: %s: %s: let the host fix pool and priority in [vm N] of "
             "vgpufs.conf, then this tool is not needed, or turn Secure Boot off for this VM",
             resource, strerror(error), lockdown_explain(query));
}

static void registers_load(const volatile uint32_t *page, uint32_t values[REGISTERS])
{
    for (size_t i = 0; i < REGISTERS; i++)
        values[i] = le32toh(page[stub_registers[i].offset / sizeof(uint32_t)]);
}

/* A device that does not decode memory answers every load with ones (PCI's master abort). */
static bool registers_absent(const uint32_t values[REGISTERS])
{
    for (size_t i = 0; i < REGISTERS; i++)
        if (values[i] == UINT32_MAX)
            return true;
    return false;
}

/* enable_by_sysfs has the kernel power the device up and turn its decoding on. */
static int enable_by_sysfs(const struct stub_query *query, const char *device)
{
    char path[PATH_MAX];
    if (device_path(path, sizeof(path), query, device, "enable") != 0)
        return -1;
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    ssize_t written = write(file, "1", 1);
    return close(file) == 0 && written == 1 ? 0 : -1;
}

/* enable_by_config sets the memory bit of the command register, and nothing else. */
static int enable_by_config(const struct stub_query *query, const char *device)
{
    char path[PATH_MAX];
    uint8_t command[2];
    if (device_path(path, sizeof(path), query, device, "config") != 0)
        return -1;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return -1;
    bool done = pread(file, command, sizeof(command), PCI_COMMAND_OFFSET) == sizeof(command);
    command[0] |= PCI_COMMAND_MEMORY;
    done = done && pwrite(file, command, sizeof(command), PCI_COMMAND_OFFSET) == sizeof(command);
    return close(file) == 0 && done ? 0 : -1;
}

/*
 * registers_wake turns memory decoding on, the gentler way first, and loads again. The device may
 * need some ms to leave a power state: D3hot to D0 takes 10 ms (PCI Power Management 1.2, 5.6.1).
 */
static void registers_wake(const struct stub_query *query, const char *device,
                           const volatile uint32_t *page, uint32_t values[REGISTERS])
{
    static int (*const ways[])(const struct stub_query *, const char *) = {enable_by_sysfs,
                                                                           enable_by_config};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (ways[i](query, device) != 0)
            continue;
        for (int attempt = 0; attempt < 10; attempt++) {
            registers_load(page, values);
            if (!registers_absent(values))
                return;
            tool_sleep_ms(10);
        }
    }
}

/* registers_read: 0 and the values, or -1 and the message. */
static int registers_read(const struct stub_query *query, const struct candidate *candidate,
                          uint32_t values[REGISTERS], char *message, size_t size)
{
    char file_name[16], path[PATH_MAX];
    struct stat status;
    snprintf(file_name, sizeof(file_name), "resource%u", candidate->bar);
    if (device_path(path, sizeof(path), query, candidate->device, file_name) != 0) {
        snprintf(message, size, "the path of %s is too long: give a shorter --sysfs", file_name);
        return -1;
    }
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0) {
        explain_map_error(query, path, errno, message, size);
        if (file >= 0)
            close(file);
        return -1;
    }
    if (status.st_size < REGISTERS_END) {
        snprintf(message, size,
                 "%s has %lld bytes, too few for the registers: choose another "
                 "--device or --bar",
                 path, (long long)status.st_size);
        close(file);
        return -1;
    }
    size_t length = status.st_size < REGISTERS_SIZE ? (size_t)status.st_size : REGISTERS_SIZE;
    void *page = mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0);
    int error = errno;
    close(file);
    if (page == MAP_FAILED) {
        explain_map_error(query, path, error, message, size);
        return -1;
    }
    registers_load(page, values);
    if (registers_absent(values))
        registers_wake(query, candidate->device, page, values);
    munmap(page, length);
    return 0;
}

static int registers_check(const struct candidate *candidate, const uint32_t values[REGISTERS],
                           char *message, size_t size)
{
    for (size_t i = 0; i < REGISTERS; i++) {
        const struct stub_register *rule = &stub_registers[i];
        if (values[i] >= rule->min && values[i] <= rule->max)
            continue;
        const char *advice = "correct the device's definition on the host";
        if (values[i] == UINT32_MAX)
            advice = "its memory decoding could not be turned on: run as root, without lockdown, "
                     "or choose another --bar";
        snprintf(message, size, "%s BAR%u: register %s (offset 0x%03x) is 0x%08x, not %s: %s",
                 candidate->device, candidate->bar, rule->name, rule->offset, values[i],
                 rule->range, advice);
        return -1;
    }
    return 0;
}

static int candidate_read(const struct stub_query *query, const struct candidate *candidate,
                          struct stub *stub, char *message, size_t size)
{
    uint32_t values[REGISTERS];
    if (registers_read(query, candidate, values, message, size) != 0 ||
        registers_check(candidate, values, message, size) != 0)
        return -1;
    *stub = (struct stub){.bar = candidate->bar,
                          .pool = (char)values[REGISTER_POOL],
                          .priority = values[REGISTER_PRIORITY],
                          .vm_id = values[REGISTER_VM_ID]};
    memcpy(stub->device, candidate->device, sizeof(stub->device));
    return 0;
}

/*
 * candidate_of_kind: the device may be a stub of that kind. Reading a strange device's registers
 * can disturb its driver, so one that has a driver is left alone unless it must be a stub.
 */
static bool candidate_of_kind(const struct stub_query *query, const char *device, size_t kind,
                              struct candidate *candidate)
{
    char resource[16];
    int bar = query->bar >= 0 ? query->bar : stub_kinds[kind].bar;
    snprintf(resource, sizeof(resource), "resource%d", bar);
    if (!device_has(query, device, resource) ||
        (stub_kinds[kind].without_driver && device_has(query, device, "driver")))
        return false;
    candidate->bar = (unsigned)bar;
    memcpy(candidate->device, device, strlen(device) + 1); /* device_name_is_valid bounds it */
    return true;
}

/*
 * candidates_collect fills `found` with the devices of the first kind of which there is any, by
 * address. Returns their number (one more than MAX_CANDIDATES if there are too many), or -1.
 */
static int candidates_collect(const struct stub_query *query, struct candidate *found, size_t *kind)
{
    char path[PATH_MAX];
    struct dirent **entries;
    if (tool_path(path, sizeof(path), "%s/bus/pci/devices", query->sysfs) != 0)
        return -1;
    int entry_count = scandir(path, &entries, is_device_entry, alphasort);
    if (entry_count < 0)
        return -1;
    int count = 0;
    *kind = STUB_KINDS;
    for (int i = 0; i < entry_count; i++) {
        const char *device = entries[i]->d_name;
        struct candidate candidate;
        size_t kind_here = device_kind(query, device);
        if (kind_here < STUB_KINDS && kind_here <= *kind &&
            candidate_of_kind(query, device, kind_here, &candidate)) {
            if (kind_here < *kind)
                count = 0;
            *kind = kind_here;
            if (count < MAX_CANDIDATES)
                found[count] = candidate;
            count += count <= MAX_CANDIDATES;
        }
        free(entries[i]);
    }
    free(entries);
    return count;
}

/* candidates_judge reads them all and takes the one that is valid. */
static enum stub_result candidates_judge(const struct stub_query *query,
                                         const struct candidate *candidates, int count, bool shared,
                                         struct stub *stub, char *message, size_t size)
{
    char list[256] = "", first[STUB_MESSAGE_SIZE] = "", current[STUB_MESSAGE_SIZE];
    size_t listed = 0;
    int valid = 0;
    for (int i = 0; i < count; i++) {
        struct stub candidate;
        if (listed + STUB_DEVICE_SIZE + 1 < sizeof(list))
            listed +=
                (size_t)snprintf(list + listed, sizeof(list) - listed, " %s", candidates[i].device);
        if (candidate_read(query, &candidates[i], &candidate, current, sizeof(current)) == 0) {
            *stub = candidate;
            valid++;
        } else if (!first[0]) {
            memcpy(first, current, sizeof(first));
        }
    }
    if (valid == 1)
        return STUB_FOUND;
    if (valid > 1)
        snprintf(message, size,
                 "more than one vGPU stub has valid registers, of%s: choose one "
                 "with --device",
                 list);
    else if (shared)
        snprintf(message, size, "no vGPU stub; ivshmem is there, but %s", first);
    else if (count == 1)
        snprintf(message, size, "%s", first);
    else
        snprintf(message, size,
                 "no vGPU stub has valid registers, of%s: choose one with --device; "
                 "the first: %s",
                 list, first);
    return valid == 0 && shared ? STUB_NONE : STUB_ERROR;
}

static enum stub_result stub_search(const struct stub_query *query, struct stub *stub,
                                    char *message, size_t size)
{
    struct candidate candidates[MAX_CANDIDATES];
    size_t kind;
    int count = candidates_collect(query, candidates, &kind);
    if (count < 0 && errno != ENOENT) {
        snprintf(message, size, "cannot list %s/bus/pci/devices: %s: is sysfs mounted there?",
                 query->sysfs, strerror(errno));
        return STUB_ERROR;
    }
    if (count <= 0) {
        snprintf(message, size, "no vGPU stub (PCI 1af4:1111 or class 1200) in %s/bus/pci/devices",
                 query->sysfs);
        return STUB_NONE;
    }
    if (count > MAX_CANDIDATES) {
        snprintf(message, size,
                 "more than %d devices may be the vGPU stub: choose one with "
                 "--device",
                 MAX_CANDIDATES);
        return STUB_ERROR;
    }
    return candidates_judge(query, candidates, count, stub_kinds[kind].shared, stub, message, size);
}

/* stub_named reads the device that the caller names, whatever its ids are. */
static enum stub_result stub_named(const struct stub_query *query, struct stub *stub, char *message,
                                   size_t size)
{
    struct candidate candidate;
    if (!device_name_is_valid(query->device)) {
        snprintf(message, size, "%s is no PCI address: write it as 0000:00:06.0", query->device);
        return STUB_ERROR;
    }
    /* lspci(8) leaves the domain out where there is only one. */
    const char *colon = strchr(query->device, ':');
    bool short_form = colon && !strchr(colon + 1, ':');
    int length = snprintf(candidate.device, sizeof(candidate.device), "%s%s",
                          short_form ? "0000:" : "", query->device);
    if (length >= (int)sizeof(candidate.device) || !device_has(query, candidate.device, "")) {
        snprintf(message, size, "no PCI device %s in %s/bus/pci/devices: see lspci -D",
                 query->device, query->sysfs);
        return length >= (int)sizeof(candidate.device) ? STUB_ERROR : STUB_NONE;
    }
    size_t kind = device_kind(query, candidate.device);
    candidate.bar = query->bar >= 0     ? (unsigned)query->bar
                    : kind < STUB_KINDS ? (unsigned)stub_kinds[kind].bar
                                        : 0;
    return candidate_read(query, &candidate, stub, message, size) == 0 ? STUB_FOUND : STUB_ERROR;
}

enum stub_result stub_find(const struct stub_query *query, struct stub *stub, char *message,
                           size_t size)
{
    return query->device ? stub_named(query, stub, message, size)
                         : stub_search(query, stub, message, size);
}
