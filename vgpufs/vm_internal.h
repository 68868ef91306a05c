/*
 * What the files of the VM room (vm*.c) share; nobody else includes it. All of
 * it wants the VM locked unless it says otherwise.
 */
#ifndef VGPUFS_VM_INTERNAL_H
#define VGPUFS_VM_INTERNAL_H

#include "vm.h"

/* A result up to this size stays in memory as long as its job is kept, a larger one until it is in
 * the state: so what ended jobs take is bounded by their number. */
#define VM_SMALL_RESULT 2048
/* What is set aside on the disk for a job, beside its line: its row, a small result, and what the
 * pages of both waste. */
#define VM_JOB_ROOM 4096

/*
 * vm_lock_numbers locks the VM, with at least `count` job numbers reserved. An errno if the state
 * cannot be written, and then it is not locked.
 */
int vm_lock_numbers(struct vm *vm, uint64_t count);
/* vm_numbers_skip: that number is a job's, so none up to it is given to another, whatever the state
 * says. The VM is locked. */
void vm_numbers_skip(struct vm *vm, uint64_t number);

struct job *vm_tag_lookup(struct vm *vm, const char *tag);

/* vm_job_enter puts a numbered job into the tables, which take a reference over. */
int vm_job_enter(struct vm *vm, struct job *job);
/* vm_job_leave takes it out again and drops that reference. */
void vm_job_leave(struct vm *vm, struct job *job);
/* vm_make_room: are there directories for `count` more jobs, with ended ones forgotten if need be?
 */
bool vm_make_room(struct vm *vm, uint64_t count);
/* vm_ended_enter lists an ended job; vm_ended_leave takes it off. */
void vm_ended_enter(struct vm *vm, struct job *job);
void vm_ended_leave(struct vm *vm, struct job *job);
/* vm_retain forgets what retain_jobs and retain_for do not keep. */
void vm_retain(struct vm *vm);

/* vm_newest_set makes a job (a new reference is taken) or nothing the newest entry. */
void vm_newest_set(struct vm *vm, struct job *job);

/* vm_row_release deletes the job's row if nothing speaks of the job any more. */
void vm_row_release(struct vm *vm, struct job *job);
/* vm_newest_clear makes nothing the newest entry, or the rejection (taken over) of a line. */
void vm_newest_clear(struct vm *vm, struct blob *rejection);

/* vm_touch: result, status and their like have changed. */
void vm_touch(struct vm *vm);
/*
 * vm_touch_submit: somebody wrote a line, or a part of one. A guest that finds `submit` as its own
 * write left it need not ask again what it may do with it.
 */
void vm_touch_submit(struct vm *vm);

#endif
