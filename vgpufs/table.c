#include "table.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
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
                           .count = table->count,
                           .changes = table->changes};
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
    table->changes++;
    return 0;
}

void table_remove(struct table *table, struct table_entry *entry)
{
    struct table_entry **link = table_bucket(table, entry->hash);
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    table->count--;
    table->changes++;
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

/*
 * SipHash-2-4 (Aumasson, Bernstein 2012). With a hash like FNV a secret start does not help:
 * whether two names collide depends on eight bits of it, so that names could be prepared for each.
 */

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = ROTATE(v[1], 13) ^ v[0];
    v[3] = ROTATE(v[3], 16) ^ v[2];
    v[0] = ROTATE(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = ROTATE(v[1], 17) ^ v[2];
    v[3] = ROTATE(v[3], 21) ^ v[0];
    v[2] = ROTATE(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

/* little_endian takes up to 8 bytes. */
static uint64_t little_endian(const unsigned char *bytes, size_t count)
{
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

uint64_t table_hash_keyed(const uint64_t key[2], const void *bytes, size_t size)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    const unsigned char *at = bytes;
    for (size_t left = size; left >= 8; left -= 8, at += 8)
        sip_word(v, little_endian(at, 8));
    sip_word(v, little_endian(at, size % 8) | (uint64_t)size << 56);
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t string_key[2];

static void string_key_make(void)
{
    if (getrandom(string_key, sizeof(string_key), GRND_NONBLOCK) == (ssize_t)sizeof(string_key))
        return;
    string_key[0] = (uint64_t)(uintptr_t)&string_key; /* early boot: ASLR has to do */
    string_key[1] = (uint64_t)(uintptr_t)__builtin_frame_address(0);
}

uint64_t table_hash_string(const char *string)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, string_key_make);
    return table_hash_keyed(string_key, string, strlen(string));
}
