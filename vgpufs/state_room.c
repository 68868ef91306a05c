/*
 * Room on the disk for what was accepted: a file (state_dir/reserve) of blocks that nobody else
 * can take. It is as large as all that was promised; when the disk turns out full while the
 * database is written, it is cut shorter, and the blocks that this sets free are written instead.
 */
#include "state_internal.h"

#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* For what belongs to no job: the write-ahead log, the log of groups, and pages used in part. */
#define BASE_BYTES UINT64_C(2097152)
/* It grows and shrinks by so much, so that it hardly ever does. */
#define STEP_BYTES UINT64_C(4194304)
/* What is let go of at once when the database needs room, and the least that is taken back. */
#define RELEASE_BYTES  UINT64_C(262144)
#define SMALLEST_BYTES UINT64_C(4096)

/* reserve_resize makes the file `size` bytes long, all of them on the disk. 0 or an errno. */
static int reserve_resize(struct reserve *reserve, uint64_t size)
{
    if (size < reserve->size && ftruncate(reserve->file, (off_t)size) < 0)
        return errno;
    if (size > reserve->size && !reserve->unsupported &&
        fallocate(reserve->file, 0, (off_t)reserve->size, (off_t)(size - reserve->size)) < 0)
        return errno;
    reserve->size = size;
    return 0;
}

/* room_is_there is what is left to ask where blocks cannot be kept. */
static bool room_is_there(const struct reserve *reserve, uint64_t bytes)
{
    struct statvfs stat;
    return fstatvfs(reserve->file, &stat) < 0 || (uint64_t)stat.f_bavail * stat.f_frsize >= bytes;
}

/* reserve_grow makes it at least `needed` bytes, better more. False if the disk has not got them.
 */
static bool reserve_grow(struct reserve *reserve, uint64_t needed)
{
    int error = reserve_resize(reserve, needed + needed / 4 + STEP_BYTES);
    if (error == EOPNOTSUPP) {
        log_warning("the filesystem of state_dir cannot keep room for accepted jobs (fallocate: "
                    "%s): only what is free when they come is looked at",
                    strerror(error));
        reserve->unsupported = true;
        return true;
    }
    if (!error)
        return true;
    /* Whatever part of the attempt was kept is given back. */
    if (ftruncate(reserve->file, (off_t)reserve->size) < 0)
        return false;
    return reserve_resize(reserve, needed) == 0;
}

bool state_reserve(struct state *state, uint64_t bytes)
{
    struct reserve *reserve = &state->reserve;
    bool there = true;
    pthread_mutex_lock(&reserve->lock);
    uint64_t needed = BASE_BYTES + reserve->wanted + bytes;
    if (reserve->file >= 0 && reserve->unsupported)
        there = room_is_there(reserve, needed);
    else if (reserve->file >= 0 && needed > reserve->size)
        there = reserve_grow(reserve, needed);
    if (there)
        reserve->wanted += bytes;
    pthread_mutex_unlock(&reserve->lock);
    return there;
}

void state_unreserve(struct state *state, uint64_t bytes)
{
    struct reserve *reserve = &state->reserve;
    pthread_mutex_lock(&reserve->lock);
    reserve->wanted -= bytes;
    uint64_t needed = BASE_BYTES + reserve->wanted;
    if (reserve->file >= 0 && !reserve->unsupported && reserve->size / 4 > needed + STEP_BYTES)
        reserve_resize(reserve, needed * 2 + STEP_BYTES);
    pthread_mutex_unlock(&reserve->lock);
}

bool reserve_release(struct reserve *reserve)
{
    pthread_mutex_lock(&reserve->lock);
    uint64_t size = reserve->size > RELEASE_BYTES ? reserve->size - RELEASE_BYTES : 0;
    bool released = reserve->file >= 0 && !reserve->unsupported && reserve->size > 0 &&
                    reserve_resize(reserve, size) == 0;
    reserve->released |= released;
    pthread_mutex_unlock(&reserve->lock);
    return released;
}

void reserve_refill(struct reserve *reserve)
{
    pthread_mutex_lock(&reserve->lock);
    uint64_t needed = BASE_BYTES + reserve->wanted;
    for (uint64_t step = needed; reserve->released && step >= SMALLEST_BYTES; step /= 2)
        while (reserve->size < needed) {
            uint64_t size = needed - reserve->size < step ? needed : reserve->size + step;
            if (reserve_resize(reserve, size) == 0)
                continue;
            /* Whatever part of the attempt was kept is given back. */
            if (ftruncate(reserve->file, (off_t)reserve->size) < 0)
                reserve->size = 0;
            break;
        }
    reserve->released = reserve->released && reserve->size < needed;
    pthread_mutex_unlock(&reserve->lock);
}

void reserve_open(struct reserve *reserve, int directory)
{
    struct stat stat;
    reserve->file = openat(directory, "reserve", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (reserve->file < 0) {
        log_warning("state_dir: cannot make the file that keeps room for accepted jobs: %s",
                    strerror(errno));
        return;
    }
    /* What an earlier daemon kept is for the jobs that it left. */
    if (fstat(reserve->file, &stat) < 0 || stat.st_blocks * 512 < stat.st_size || stat.st_size < 0)
        reserve->unsupported = ftruncate(reserve->file, 0) < 0;
    else
        reserve->size = (uint64_t)stat.st_size;
    /* For names and numbers, which nobody asks room for. If it is not there, it is not. */
    if (!reserve->unsupported && reserve->size < BASE_BYTES)
        reserve_grow(reserve, BASE_BYTES);
}

void reserve_close(struct reserve *reserve)
{
    if (reserve->file >= 0)
        close(reserve->file);
}
