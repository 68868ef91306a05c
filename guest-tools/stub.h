/*
 * The vGPU stub: a PCI device of the guest without any function but a page of
 * registers, little endian, 32 bit each, in which the host wrote who this VM
 * is: 0x008 pool (ASCII), 0x00C priority (0..2), 0x010 vm_id.
 *
 * What is read is a claim; the host decides what it is worth. Not thread-safe.
 */
#ifndef VGPUFS_GUEST_STUB_H
#define VGPUFS_GUEST_STUB_H

#include <stddef.h>
#include <stdint.h>

#define STUB_DEFAULT_SYSFS "/sys"
#define STUB_DEVICE_SIZE   32 /* bytes of a PCI address such as 0000:00:06.0, NUL included */
#define STUB_MAX_BAR       5u
#define STUB_MESSAGE_SIZE  1024 /* room for any message of stub_find */

enum stub_result { STUB_FOUND, STUB_NONE, STUB_ERROR };

struct stub_query {
    const char *sysfs;  /* where sysfs is mounted */
    const char *device; /* a PCI address, or NULL: search */
    int bar;            /* 0..STUB_MAX_BAR, or -1: the one that this kind of device uses */
};

struct stub {
    char device[STUB_DEVICE_SIZE];
    unsigned bar;
    char pool;
    uint32_t priority, vm_id;
};

/*
 * stub_find searches the one stub with valid registers, or reads the device that the query names.
 * With STUB_NONE and STUB_ERROR message[size] says what was found and what to do, in one line.
 */
enum stub_result stub_find(const struct stub_query *query, struct stub *stub, char *message,
                           size_t size);

#endif
