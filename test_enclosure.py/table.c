#include "table.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

void table_finish(struct table *table)
{
    free(table->buckets);
    *table = (struct table){0};
}

static struct table_entry **table_bucket(const struct table *table, uint64_t hash)
{
    return &table->buckets[hash & (table->bucket_count - 1)];
}

/* table_grow doubles the buckets. Without memory the chains just become longer. */
static void table_grow(struct table *table)
{
    size_t count = table->bucket_count ? table->bucket_count * 2 : 8;
    struct table larger = {.buckets = calloc(count, sizeof(struct table_entry *)),
                           .bucket_count = count,
                           .count = table->count};
    if (!larger.buckets)
        return;
    for (size_t i = 0; i < table->bucket_count; i++) {
        for (struct table_entry *entry = table->buckets[i], *next; entry; entry = next) {
            next = entry->next;
            struct table_entry **bucket = table_bucket(&larger, entry->hash);
            entry->next = *bucket;
            *bucket = entry;
        }
    }
    free(table->buckets);
    *table = larger;
}

int table_insert(struct table *table, struct table_entry *entry, uint64_t hash)
{
    if (table->count >= table->bucket_count)
        table_grow(table);
    if (!table->bucket_count)
        return -1;
    entry->hash = hash;
    struct table_entry **bucket = table_bucket(table, hash);
    entry->next = *bucket;
    *bucket = entry;
    table->count++;
    return 0;
}

void table_remove(struct table *table, struct table_entry *entry)
{
    struct table_entry **link = table_bucket(table, entry->hash);
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    table->count--;
}

static struct table_entry *chain_find(struct table_entry *entry, uint64_t hash)
{
    while (entry && entry->hash != hash)
        entry = entry->next;
    return entry;
}

struct table_entry *table_find(const struct table *table, uint64_t hash)
{
    return table->count ? chain_find(*table_bucket(table, hash), hash) : NULL;
}

struct table_entry *table_find_next(const struct table_entry *entry)
{
    return chain_find(entry->next, entry->hash);
}

struct table_entry *table_next(const struct table *table, const struct table_entry *entry)
{
    if (entry && entry->next)
        return entry->next;
    size_t i = entry ? (entry->hash & (table->bucket_count - 1)) + 1 : 0;
    for (; i < table->bucket_count; i++)
        if (table->buckets[i])
            return table->buckets[i];
    return NULL;
}

uint64_t table_hash_number(uint64_t number)
{
    /* The finaliser of splitmix64 (Steele, Lea, Flood 2014): consecutive numbers spread. */
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    return number ^ (number >> 31);
}

static uint64_t string_seed;

static void string_seed_make(void)
{
    if (getrandom(&string_seed, sizeof(string_seed), GRND_NONBLOCK) != (ssize_t)sizeof(string_seed))
        string_seed = (uint64_t)(uintptr_t)&string_seed; /* early boot: ASLR has to do */
}

uint64_t table_hash_string(const char *string)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, string_seed_make);
    uint64_t hash = string_seed ^ 0xcbf29ce484222325u; /* FNV-1a */
    for (; *string; string++)
        hash = (hash ^ (unsigned char)*string) * 0x100000001b3u;
    return table_hash_number(hash);
}
