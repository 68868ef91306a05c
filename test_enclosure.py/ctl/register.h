/*
 * The register page: what the vGPU stub of a VM shows in its BAR0, as a file
 * that stock QEMU's ivshmem can map.
 */
#ifndef VGPUFS_CTL_REGISTER_H
#define VGPUFS_CTL_REGISTER_H

#include "common/text.h"
#include "config.h"

#define REGISTER_PAGE_SIZE 4096

/*
 * register_page_fill makes the page of the VM `id`: its fixed pool, else the first one that it may
 * claim; its fixed priority, else medium or the highest that it may claim. 0, or -1 and *error.
 */
int register_page_fill(unsigned char page[REGISTER_PAGE_SIZE], const struct config *config,
                       unsigned id, struct text *error);

/*
 * register_page_write puts the page in place of `path` in one step, with mode 0600. 0, or -1 and
 * *error; then `path` is as it was.
 */
int register_page_write(const unsigned char page[REGISTER_PAGE_SIZE], const char *path,
                        struct text *error);

#endif
