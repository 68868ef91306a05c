/*
 * The command line of a slot's executor: the pool's, with the options that say which device and how
 * it is used. Reads what does not change while the pool lives, and slot->backend, which belongs to
 * the pool's thread.
 */
#ifndef VGPUFS_SLOT_COMMAND_H
#define VGPUFS_SLOT_COMMAND_H

struct slot;

/* slot_command returns NULL-terminated words for slot_command_free, or NULL without memory. */
char **slot_command(const struct slot *slot);
/* slot_command_free accepts NULL. */
void slot_command_free(const struct slot *slot, char **words);

#endif
