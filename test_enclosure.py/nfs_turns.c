#include "nfs_turns.h"

#include <errno.h>
#include <stddef.h>

static uint64_t places(const struct nfs_turns *turns)
{
    return turns->threads > 1 ? turns->threads / 2 : 1;
}

/* share_of is what each of so many VMs may have. */
static uint64_t share_of(const struct nfs_turns *turns, uint64_t vms)
{
    uint64_t share = places(turns) / vms;
    if (share > turns->per_vm)
        share = turns->per_vm;
    return share ? share : 1;
}

/* greedy_turn is the oldest turn of the VM that has most, if that is more than its share. */
static struct nfs_turn *greedy_turn(const struct nfs_turns *turns, uint64_t share)
{
    struct nfs_turn *found = NULL;
    for (struct nfs_turn *turn = turns->first; turn; turn = turn->next)
        if (turn->deadline_us && turn->waiting->count > share &&
            (!found || turn->waiting->count > found->waiting->count))
            found = turn;
    return found;
}

int nfs_turns_enter(struct nfs_turns *turns, struct nfs_turn *turn, struct nfs_waiting *waiting)
{
    uint64_t share = share_of(turns, turns->vms + (waiting->count == 0));
    if (waiting->count >= share)
        return EAGAIN;
    if (turns->count >= places(turns)) {
        struct nfs_turn *greedy = greedy_turn(turns, share);
        if (greedy)
            greedy->deadline_us = 0;
        return EAGAIN;
    }
    turn->waiting = waiting;
    turn->next = NULL;
    turn->previous = turns->last;
    *(turns->last ? &turns->last->next : &turns->first) = turn;
    turns->last = turn;
    turns->vms += waiting->count == 0;
    waiting->count++;
    turns->count++;
    return 0;
}

void nfs_turns_leave(struct nfs_turns *turns, struct nfs_turn *turn)
{
    if (!turn->waiting)
        return;
    *(turn->next ? &turn->next->previous : &turns->last) = turn->previous;
    *(turn->previous ? &turn->previous->next : &turns->first) = turn->next;
    turn->waiting->count--;
    turns->vms -= turn->waiting->count == 0;
    turns->count--;
    turn->waiting = NULL;
}

struct nfs_turn *nfs_turns_next(const struct nfs_turns *turns)
{
    struct nfs_turn *found = turns->first;
    for (struct nfs_turn *turn = turns->first; turn; turn = turn->next)
        if (turn->deadline_us < found->deadline_us)
            found = turn;
    return found;
}
