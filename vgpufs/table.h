/*
 * An intrusive hash table: what is stored embeds a struct table_entry (16
 * bytes), so that a million queued jobs cost no further allocation. Chained,
 * doubles when full. Not thread-safe: the owner's lock guards it.
 */
#ifndef VGPUFS_TABLE_H
#define VGPUFS_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_entry {
    struct table_entry *next;
    uint64_t hash;
};

/* All zero is a valid empty table. */
struct table {
    struct table_entry **buckets;
    size_t bucket_count, count;
    uint64_t changes; /* how often something was put in or taken out */
};

void table_finish(struct table *table);
/* table_insert returns -1 only if there is no memory for a first set of buckets. */
int table_insert(struct table *table, struct table_entry *entry, uint64_t hash);
void table_remove(struct table *table, struct table_entry *entry);
/* table_find returns the first entry of that hash, table_find_next the next one; or NULL. The
 * caller compares the keys. */
struct table_entry *table_find(const struct table *table, uint64_t hash);
struct table_entry *table_find_next(const struct table_entry *entry);
/* table_next walks all entries in no order: start with NULL; the table must not change meanwhile.
 */
struct table_entry *table_next(const struct table *table, const struct table_entry *entry);

uint64_t table_hash_number(uint64_t number);
/* With a key that each process makes for itself, so that a guest cannot prepare names that collide.
 */
uint64_t table_hash_string(const char *string);
uint64_t table_hash_keyed(const uint64_t key[2], const void *bytes, size_t size);

#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#endif
