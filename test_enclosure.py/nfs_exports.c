#include "nfs_exports.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a of 32 bits; exports(5) takes numbers above 0, and exportfs prints them with a sign. */
unsigned nfs_exports_fsid(const char *mountpoint)
{
    uint32_t hash = 2166136261u;
    for (const char *byte = mountpoint; *byte; byte++)
        hash = (hash ^ (unsigned char)*byte) * 16777619u;
    hash &= INT32_MAX;
    return hash ? hash : 1;
}

void nfs_exports_path(const struct config *config, struct text *out)
{
    for (const char *byte = config->mountpoint; *byte; byte++) {
        unsigned char c = (unsigned char)*byte;
        if (c <= ' ' || c >= 0x7f || strchr("\"#\\", c))
            text_printf(out, "\\%03o", c);
        else
            text_append(out, byte, 1);
    }
}

/*
 * rw,sync,no_subtree_check are defaults of today's exportfs, and said because older ones warn or
 * differ. Each is what guests rely on: an answered write is done; a handle holds in any directory.
 */
void nfs_exports_options(const struct config *config, const struct config_vm *vm, struct text *out)
{
    text_printf(out, "rw,sync,no_subtree_check,fsid=%u,all_squash,anonuid=%lu,anongid=%lu",
                nfs_exports_fsid(config->mountpoint), (unsigned long)vm->uid,
                (unsigned long)vm->uid);
}

static void print_line(const struct config *config, const struct config_vm *vm, FILE *out)
{
    struct text line = {0};
    nfs_exports_path(config, &line);
    text_printf(&line, " %s(", vm->address);
    nfs_exports_options(config, vm, &line);
    fprintf(out, "%s)\n", line.failed ? "" : line.data);
    text_finish(&line);
}

/* print_missing names the VMs without an address as ranges: vm1-2 vm4-10. */
static void print_missing(const struct config *config, FILE *out)
{
    bool first = true;
    for (size_t i = 0, end; i < config->vm_count; i = end) {
        end = i + 1;
        if (config->vms[i].address)
            continue;
        while (end < config->vm_count && !config->vms[end].address &&
               config->vms[end].id == config->vms[end - 1].id + 1)
            end++;
        fprintf(out, first ? "# not exported:" : "");
        first = false;
        fprintf(out, " vm%u", config->vms[i].id);
        if (end - i > 1)
            fprintf(out, "-%u", config->vms[end - 1].id);
    }
    if (!first)
        fprintf(out, ": no address = in their [vm N]\n");
}

/* find_twin returns a VM further up that has the same address, or NULL. */
static const struct config_vm *find_twin(const struct config *config, size_t index)
{
    const char *address = config->vms[index].address;
    for (size_t i = 0; i < index && address; i++)
        if (config->vms[i].address && strcasecmp(config->vms[i].address, address) == 0)
            return &config->vms[i];
    return NULL;
}

int nfs_exports_print(const struct config *config, FILE *out, struct text *error)
{
    size_t count = 0;
    for (size_t i = 0; i < config->vm_count; i++) {
        const struct config_vm *twin = find_twin(config, i);
        count += config->vms[i].address != NULL;
        if (!twin)
            continue;
        text_printf(error, "vm%u and vm%u have the same address %s: give each VM its own", twin->id,
                    config->vms[i].id, twin->address);
        return -1;
    }
    if (count == 0) {
        text_printf(error, "%s: no VM has an address: write 'address = 192.0.2.3' into its [vm N]",
                    config->file);
        return -1;
    }
    for (size_t i = 0; i < config->vm_count; i++)
        if (config->vms[i].address)
            print_line(config, &config->vms[i], out);
    print_missing(config, out);
    return 0;
}
