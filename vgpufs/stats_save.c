/* The counters go on in the daemon that takes over, and what limits are judged by. */
#include "stats.h"

#include "handover.h"
#include "pool.h"
#include "server.h"
#include "vm.h"

#include <string.h>

/* What struct handover_counts is about. All of them are numbers of 64 bits and nothing else. */
enum kind {
    KIND_VM,
    KIND_POOL,
    KIND_POOL_WAIT,
    KIND_POOL_RUN,
    KIND_VM_CRASHES, /* in a row */
    KIND_VM_SHARE,   /* of a pool's device: struct pool_share */
};

static void save(struct handover *handover, enum kind kind, unsigned vm, const char *pool,
                 const void *numbers, size_t size)
{
    struct handover_counts counts = {
        .kind = kind, .vm = vm, .pool = {pool, strlen(pool)}, .numbers = {numbers, size}};
    handover_add(handover, &handover->counts, &counts, sizeof(counts));
}

void stats_save(struct server *server, struct handover *handover)
{
    for (size_t i = 0; i < server->pool_count; i++) {
        const struct pool *pool = &server->pools[i];
        save(handover, KIND_POOL, 0, pool->name, &pool->counters, sizeof(pool->counters));
        save(handover, KIND_POOL_WAIT, 0, pool->name, &pool->wait, sizeof(pool->wait));
        save(handover, KIND_POOL_RUN, 0, pool->name, &pool->run, sizeof(pool->run));
    }
    for (struct vm *vm = atomic_load(&server->vms); vm; vm = atomic_load(&vm->next)) {
        save(handover, KIND_VM, vm->id, "", &vm->counters, sizeof(vm->counters));
        if (vm->crashes_in_row)
            save(handover, KIND_VM_CRASHES, vm->id, "", &vm->crashes_in_row,
                 sizeof(vm->crashes_in_row));
        for (size_t i = 0; i < server->pool_count; i++) {
            const struct pool_share *share = vm->tenants[i]->share;
            if (share)
                save(handover, KIND_VM_SHARE, vm->id, server->pools[i].name, share, sizeof(*share));
        }
    }
}

/* add does nothing if there are more or fewer of them than this version has. */
static void add(void *to, size_t size, const struct handover_bytes *numbers)
{
    if (numbers->size != size)
        return;
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t sum, more;
        memcpy(&sum, (char *)to + at, sizeof(sum));
        memcpy(&more, numbers->data + at, sizeof(more));
        sum += more;
        memcpy((char *)to + at, &sum, sizeof(sum));
    }
}

static struct pool *pool_of(struct server *server, const struct handover_counts *counts)
{
    for (size_t i = 0; i < server->pool_count; i++)
        if (strlen(server->pools[i].name) == counts->pool.size &&
            memcmp(server->pools[i].name, counts->pool.data, counts->pool.size) == 0)
            return &server->pools[i];
    return NULL;
}

/* restore_pool: one that is gone from the configuration takes its counters with it. */
static void restore_pool(struct server *server, const struct handover_counts *counts)
{
    struct pool *pool = pool_of(server, counts);
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    if (counts->kind == KIND_POOL)
        add(&pool->counters, sizeof(pool->counters), &counts->numbers);
    else if (counts->kind == KIND_POOL_WAIT)
        add(&pool->wait, sizeof(pool->wait), &counts->numbers);
    else if (counts->kind == KIND_POOL_RUN)
        add(&pool->run, sizeof(pool->run), &counts->numbers);
    pthread_mutex_unlock(&pool->lock);
}

static void restore_vm(struct server *server, const struct handover_counts *counts)
{
    struct vm *vm = server_find_vm(server, (unsigned)counts->vm);
    if (!vm)
        return;
    pthread_mutex_lock(&vm->lock);
    if (counts->kind == KIND_VM)
        add(&vm->counters, sizeof(vm->counters), &counts->numbers);
    else
        add(&vm->crashes_in_row, sizeof(vm->crashes_in_row), &counts->numbers);
    pthread_mutex_unlock(&vm->lock);
}

static void restore_share(struct server *server, const struct handover_counts *counts)
{
    struct vm *vm = server_find_vm(server, (unsigned)counts->vm);
    const struct pool *pool = pool_of(server, counts);
    struct pool_share share;
    if (!vm || !pool || counts->numbers.size != sizeof(share))
        return;
    memcpy(&share, counts->numbers.data, sizeof(share));
    pool_tenant_used(vm->tenants[pool->index], &share);
}

void stats_restore(struct server *server, const struct handover *handover)
{
    static void (*const restore[])(struct server *, const struct handover_counts *) = {
        [KIND_VM] = restore_vm,          [KIND_POOL] = restore_pool,
        [KIND_POOL_WAIT] = restore_pool, [KIND_POOL_RUN] = restore_pool,
        [KIND_VM_CRASHES] = restore_vm,  [KIND_VM_SHARE] = restore_share,
    };
    const struct handover_counts *counts = handover->counts.items;
    for (size_t i = 0; i < handover->counts.count; i++)
        if (counts[i].kind < sizeof(restore) / sizeof(restore[0])) /* or it is a later version's */
            restore[counts[i].kind](server, &counts[i]);
}
