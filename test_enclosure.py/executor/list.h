/* vgpu-executor --list: the devices of this machine and the declared workloads. */
#ifndef VGPUFS_EXECUTOR_LIST_H
#define VGPUFS_EXECUTOR_LIST_H

#include <stdio.h>

/*
 * list_print prints in the format of that name: NULL for a person, "c" for
 * catalogue.h's tables, "mdoc" for the man page. -1 if there is no such format.
 */
int list_print(FILE *out, const char *format);

#endif
