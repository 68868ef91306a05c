/* A pool's tenants: who may run, and how much of the device each has had. */
#include "pool.h"
#include "pool_internal.h"

#include "clock.h"
#include "common/log.h"
#include "vm.h"

#include <stdlib.h>

#define SHARE_CHECK_US UINT64_C(250000)

/* The buckets of the seconds that have passed since the last call are cleared. */
uint64_t *pool_share_bucket(struct pool_tenant *tenant, uint64_t now_us)
{
    struct pool_share *share = tenant->share;
    uint64_t second = now_us / 1000000;
    uint64_t passed = second - share->second;
    for (uint64_t i = 1; i <= passed && i <= POOL_SHARE_SECONDS; i++)
        share->used_us[(share->second + i) % POOL_SHARE_SECONDS] = 0;
    share->second = second;
    return &share->used_us[second % POOL_SHARE_SECONDS];
}

static bool tenant_over_share(struct pool_tenant *tenant, uint64_t now_us)
{
    if (!tenant->share)
        return false;
    pool_share_bucket(tenant, now_us);
    uint64_t used = 0;
    for (size_t i = 0; i < POOL_SHARE_SECONDS; i++)
        used += tenant->share->used_us[i];
    uint64_t window = UINT64_C(1000000) * POOL_SHARE_SECONDS * tenant->pool->slot_count;
    return used * 100 > window * tenant->share_percent;
}

void pool_classify(struct pool_tenant *tenant, uint64_t now_us)
{
    struct pool *pool = tenant->pool;
    uint64_t most = tenant->max_running ? tenant->max_running : pool->slot_count;
    enum queue_class class = QUEUE_RUNNABLE;
    if (tenant->held || tenant->running >= most || tenant->syncing >= POOL_MOST_SYNCING)
        class = QUEUE_BLOCKED;
    else if (tenant_over_share(tenant, now_us))
        class = QUEUE_OVER;
    pool->over_share += (class == QUEUE_OVER) - (tenant->queue.class == QUEUE_OVER);
    queue_set_class(&pool->queue, &tenant->queue, class);
}

void pool_refresh_shares(struct pool *pool, uint64_t now_us)
{
    if (!pool->over_share || now_us - pool->shares_seen_us < SHARE_CHECK_US)
        return;
    pool->shares_seen_us = now_us;
    for (struct pool_tenant *tenant = pool->tenants; tenant; tenant = tenant->next)
        if (tenant->queue.class == QUEUE_OVER)
            pool_classify(tenant, now_us);
}

struct pool_tenant *pool_tenant_create(struct pool *pool, struct vm *vm)
{
    struct pool_tenant *tenant = calloc(1, sizeof(*tenant));
    if (!tenant)
        return NULL;
    tenant->pool = pool;
    tenant->vm = vm;
    tenant->share_percent = 100;
    pthread_mutex_lock(&pool->lock);
    int failed = queue_attach(&pool->queue, &tenant->queue);
    if (!failed) {
        tenant->next = pool->tenants;
        pool->tenants = tenant;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!failed)
        return tenant;
    free(tenant);
    return NULL;
}

void pool_tenant_destroy(struct pool_tenant *tenant)
{
    if (!tenant)
        return;
    struct pool *pool = tenant->pool;
    pthread_mutex_lock(&pool->lock);
    struct pool_tenant **link = &pool->tenants;
    while (*link != tenant)
        link = &(*link)->next;
    *link = tenant->next;
    pthread_mutex_unlock(&pool->lock);
    free(tenant->share);
    free(tenant);
}

void pool_tenant_limit(struct pool_tenant *tenant, uint64_t max_running, unsigned share_percent)
{
    struct pool *pool = tenant->pool;
    uint64_t now = clock_now_us();
    pthread_mutex_lock(&pool->lock);
    tenant->max_running = max_running;
    tenant->share_percent = share_percent;
    if (share_percent < 100 && !tenant->share) {
        tenant->share = calloc(1, sizeof(*tenant->share));
        if (tenant->share)
            tenant->share->second = now / 1000000;
        else
            log_error("no memory for device_share of vm%u: it is not enforced", tenant->vm->id);
    } else if (share_percent == 100) {
        free(tenant->share);
        tenant->share = NULL;
    }
    pool_classify(tenant, now);
    pthread_mutex_unlock(&pool->lock);
}

void pool_tenant_used(struct pool_tenant *tenant, const struct pool_share *before)
{
    struct pool *pool = tenant->pool;
    uint64_t now = clock_now_us(), second = now / 1000000;
    pthread_mutex_lock(&pool->lock);
    if (tenant->share)
        pool_share_bucket(tenant, now);
    for (uint64_t i = 0; tenant->share && i < POOL_SHARE_SECONDS && i <= before->second; i++) {
        uint64_t then = before->second - i, used = before->used_us[then % POOL_SHARE_SECONDS];
        /* Whatever ends in a second is counted there, also if it ran for longer than the window. */
        if (then <= second && second - then < POOL_SHARE_SECONDS && used <= now * pool->slot_count)
            tenant->share->used_us[then % POOL_SHARE_SECONDS] += used;
    }
    pool_classify(tenant, now);
    pthread_mutex_unlock(&pool->lock);
}

void pool_tenant_hold(struct pool_tenant *tenant, bool held)
{
    pthread_mutex_lock(&tenant->pool->lock);
    tenant->held = held;
    pool_classify(tenant, clock_now_us());
    pthread_mutex_unlock(&tenant->pool->lock);
}
