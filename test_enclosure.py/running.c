#include "running.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Twice what 16 pools of the most slots run; who is ending counts too. */
#define PLACES 8192

struct running {
    _Atomic uint64_t *places; /* PLACES, mapped: a job's key, or 0 */
    uint64_t earlier[PLACES]; /* what was found there */
    size_t earlier_count;
};

static uint64_t job_key(unsigned vm, uint64_t number)
{
    return (uint64_t)vm << 40 | number;
}

/* file_open returns a file of the full size whose room is really there: a page of a mapped file
 * that the disk has no room for is SIGBUS. */
static int file_open(const char *state_dir)
{
    struct text path = {0};
    static const char zeros[4096];
    text_printf(&path, "%s/running", state_dir);
    int file = path.failed ? -1 : open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    text_finish(&path);
    off_t size = file < 0 ? 0 : lseek(file, 0, SEEK_END), whole = PLACES * sizeof(uint64_t);
    for (; file >= 0 && size < whole; size += (off_t)sizeof(zeros) - size % (off_t)sizeof(zeros)) {
        size_t part = sizeof(zeros) - (size_t)(size % (off_t)sizeof(zeros));
        if (pwrite(file, zeros, part, size) == (ssize_t)part)
            continue;
        int error = errno;
        close(file);
        errno = error;
        return -1;
    }
    return file;
}

struct running *running_open(const char *state_dir, struct text *error)
{
    struct running *running = calloc(1, sizeof(*running));
    int file = running ? file_open(state_dir) : -1;
    void *mapped = file < 0 ? MAP_FAILED
                            : mmap(NULL, PLACES * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                                   MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        text_printf(error, "cannot use %s/running: %s: is there room, and may it be written?",
                    state_dir, strerror(errno));
    if (file >= 0)
        close(file);
    if (mapped == MAP_FAILED) {
        free(running);
        return NULL;
    }
    running->places = mapped;
    for (size_t i = 0; i < PLACES; i++) {
        uint64_t key = atomic_load_explicit(&running->places[i], memory_order_relaxed);
        if (key)
            running->earlier[running->earlier_count++] = key;
    }
    return running;
}

void running_close(struct running *running)
{
    if (!running)
        return;
    munmap((void *)(uintptr_t)running->places, PLACES * sizeof(uint64_t));
    free(running);
}

bool running_was(const struct running *running, unsigned vm, uint64_t number)
{
    for (size_t i = 0; i < running->earlier_count; i++)
        if (running->earlier[i] == job_key(vm, number))
            return true;
    return false;
}

void running_forget(struct running *running)
{
    running->earlier_count = 0;
    for (size_t i = 0; i < PLACES; i++)
        atomic_store_explicit(&running->places[i], 0, memory_order_relaxed);
}

unsigned running_note(struct running *running, unsigned vm, uint64_t number)
{
    for (unsigned i = 0; i < PLACES; i++) {
        uint64_t none = 0;
        if (atomic_load_explicit(&running->places[i], memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&running->places[i], &none, job_key(vm, number)))
            return i + 1;
    }
    return 0;
}

void running_clear(struct running *running, unsigned place)
{
    if (place)
        atomic_store(&running->places[place - 1], 0);
}
