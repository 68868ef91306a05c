/*
 * What the files of the pool room (pool*.c) share; nobody else includes it. The
 * pool is locked unless it says otherwise.
 */
#ifndef VGPUFS_POOL_INTERNAL_H
#define VGPUFS_POOL_INTERNAL_H

#include "pool.h"

/* pool_classify tells the queue whether the tenant's jobs may run. */
void pool_classify(struct pool_tenant *tenant, uint64_t now_us);
/* pool_refresh_shares looks, not too often, whether tenants have come back below their share. */
void pool_refresh_shares(struct pool *pool, uint64_t now_us);
/* pool_share_bucket is where the tenant's device time of the present second is counted. */
uint64_t *pool_share_bucket(struct pool_tenant *tenant, uint64_t now_us);

/* pool_arm_timer makes the timer fire at `due_us` if it would fire later. */
void pool_arm_timer(struct pool *pool, uint64_t due_us);

/* pool_start_one starts the next job; false if there is none or no slot. Not locked. */
bool pool_start_one(struct pool *pool);
/* pool_put_back returns the slot's job to the queue; what it had prepared goes into *abandoned. */
void pool_put_back(struct pool *pool, struct slot *slot, struct run *abandoned);
/* pool_release gives back what a running job had taken. */
void pool_release(struct pool *pool, const struct job *job);
/* So many of a tenant's jobs may be done while their outputs are not on disk: each has its files
 * open. With more, none is started. */
#define POOL_MOST_SYNCING 16

/* pool_tell does the rest of a job's end; now, or when its outputs are on disk. The pool is not
 * locked. */
void pool_tell(struct pool *pool, struct ending *ending);
/* pool_unqueue takes a queued job out; the caller gets the queue's reference and the right to end
 * it. */
void pool_unqueue(struct pool *pool, struct job *job);
/* pool_end_queued ends a job that never ran. The pool is not locked. */
void pool_end_queued(struct pool *pool, struct job *job, enum job_state state, const char *error);

#endif
