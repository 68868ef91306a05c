#include "register.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* 32 bits each, little endian, as guests read them. */
enum { REGISTER_POOL = 0x008, REGISTER_PRIORITY = 0x00C, REGISTER_VM_ID = 0x010 };

#define PRIORITY_MEDIUM 1

static void put_u32(unsigned char *page, size_t offset, uint32_t value)
{
    for (size_t i = 0; i < 4; i++)
        page[offset + i] = (unsigned char)(value >> (8 * i));
}

/* vm_pool returns the index of the pool that the page names, or -1. */
static int vm_pool(const struct config *config, const struct config_vm *vm)
{
    if (vm->fixed_pool >= 0)
        return vm->fixed_pool;
    for (size_t i = 0; i < config->pool_count && i < CONFIG_MAX_POOLS; i++)
        if (vm->allowed_pools >> i & 1)
            return (int)i;
    return -1;
}

int register_page_fill(unsigned char page[REGISTER_PAGE_SIZE], const struct config *config,
                       unsigned id, struct text *error)
{
    const struct config_vm *vm = config_find_vm(config, id);
    if (!vm) {
        text_printf(error, "%s: there is no VM %u: add it to `vms` or make a section [vm %u]",
                    config->file, id, id);
        return -1;
    }
    int pool = vm_pool(config, vm);
    if (pool < 0 || (size_t)pool >= config->pool_count) {
        text_printf(error, "%s: vm %u may use no pool: set `pool` or `pools` for it", config->file,
                    id);
        return -1;
    }
    const char *name = config->pools[pool].name;
    if (name[0] < 'A' || name[0] > 'Z' || name[1]) {
        text_printf(
            error,
            "%s: pool %s of vm %u: the register holds one capital letter: give the VM a pool "
            "that is named by one, or set the identity with `vgpu-identity` or `identity`",
            config->file, name, id);
        return -1;
    }
    unsigned priority = vm->max_priority < PRIORITY_MEDIUM ? vm->max_priority : PRIORITY_MEDIUM;
    if (vm->fixed_priority >= 0)
        priority = (unsigned)vm->fixed_priority;

    memset(page, 0, REGISTER_PAGE_SIZE);
    put_u32(page, REGISTER_POOL, (unsigned char)name[0]);
    put_u32(page, REGISTER_PRIORITY, priority);
    put_u32(page, REGISTER_VM_ID, id);
    return 0;
}

static int write_all(int descriptor, const unsigned char *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(descriptor, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

/* A rename would put the page in the place of a device or a socket: only a plain file is replaced.
 */
static int path_check(const char *path, struct text *error)
{
    struct stat status;
    if (lstat(path, &status) != 0) {
        if (errno == ENOENT)
            return 0;
        text_printf(error, "%s: %s: name a file that can be made", path, strerror(errno));
        return -1;
    }
    if (S_ISREG(status.st_mode))
        return 0;
    text_printf(error, "%s: not a plain file: name one, or a new one", path);
    return -1;
}

int register_page_write(const unsigned char page[REGISTER_PAGE_SIZE], const char *path,
                        struct text *error)
{
    int descriptor = -1, result = -1;
    struct text temporary = {0};
    if (path_check(path, error) != 0)
        return -1;
    text_printf(&temporary, "%s.XXXXXX", path);
    if (temporary.failed) {
        text_puts(error, "out of memory");
        goto done;
    }
    descriptor = mkostemp(temporary.data, O_CLOEXEC); /* mode 0600 */
    if (descriptor < 0) {
        text_printf(error, "%s: cannot make a file beside it: %s: check the directory", path,
                    strerror(errno));
        goto done;
    }
    if (write_all(descriptor, page, REGISTER_PAGE_SIZE) != 0 || fsync(descriptor) != 0 ||
        rename(temporary.data, path) != 0) {
        text_printf(error, "%s: cannot write: %s: check the disk and the directory", path,
                    strerror(errno));
        unlink(temporary.data);
        goto done;
    }
    result = 0;
done:
    if (descriptor >= 0)
        close(descriptor);
    text_finish(&temporary);
    return result;
}
