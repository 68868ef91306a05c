#include "caller.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEEP_US 1000000
#define SLOTS   256
/* include/linux/sched.h; proc(5) shows the flags as field 9 of stat. */
#define PF_KTHREAD  0x00200000ul
#define FIELD_FLAGS 9

struct entry {
    pid_t pid; /* 0: empty */
    uint64_t looked_us;
    enum caller caller;
};

struct callers {
    int proc;             /* the folder */
    pthread_mutex_t lock; /* guards all below */
    struct entry entries[SLOTS];
};

struct callers *callers_create(const char *proc)
{
    struct callers *callers = calloc(1, sizeof(*callers));
    if (!callers)
        return NULL;
    callers->proc = open(proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (callers->proc < 0) {
        int error = errno;
        free(callers);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&callers->lock, NULL);
    return callers;
}

void callers_destroy(struct callers *callers)
{
    if (!callers)
        return;
    close(callers->proc);
    pthread_mutex_destroy(&callers->lock);
    free(callers);
}

/* proc_read reads PID/name as a string; -1 if it is not there. */
static int proc_read(const struct callers *callers, pid_t pid, const char *name, char *buffer,
                     size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "%d/%s", pid, name);
    int descriptor = openat(callers->proc, path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    ssize_t got = read(descriptor, buffer, size - 1);
    close(descriptor);
    buffer[got > 0 ? got : 0] = '\0';
    return got > 0 ? 0 : -1;
}

static int flags_read(const struct callers *callers, pid_t pid, unsigned long *flags)
{
    char line[1024];
    if (proc_read(callers, pid, "stat", line, sizeof(line)) < 0)
        return -1;
    /* Field 2 is the name in parentheses and may hold anything: count from its end. */
    const char *field = strrchr(line, ')');
    for (int number = 2; field && number < FIELD_FLAGS; number++) {
        field = strchr(field, ' ');
        if (field)
            field++;
    }
    if (field)
        *flags = strtoul(field, NULL, 10);
    return field ? 0 : -1;
}

/* is_ganesha: the thread's process bears the name, and is root: real, effective and saved uid. */
static bool is_ganesha(const struct callers *callers, pid_t thread)
{
    char text[4096], name[32];
    unsigned real, effective, saved;
    int group;
    if (proc_read(callers, thread, "status", text, sizeof(text)) < 0)
        return false;
    const char *tgid = strstr(text, "\nTgid:"), *uids = strstr(text, "\nUid:");
    if (!tgid || !uids || sscanf(tgid, "\nTgid: %d", &group) != 1 ||
        sscanf(uids, "\nUid: %u %u %u", &real, &effective, &saved) != 3)
        return false;
    if (real || effective || saved || proc_read(callers, group, "comm", name, sizeof(name)) < 0)
        return false;
    return strcmp(name, "ganesha.nfsd\n") == 0;
}

enum caller callers_find(struct callers *callers, pid_t pid, uint64_t now_us)
{
    unsigned long flags = 0;
    if (pid <= 0) /* none, or of another pid namespace */
        return CALLER_LOCAL;
    struct entry *slot = &callers->entries[(unsigned)pid % SLOTS];
    pthread_mutex_lock(&callers->lock);
    struct entry known = *slot;
    pthread_mutex_unlock(&callers->lock);
    if (known.pid == pid && now_us - known.looked_us < KEEP_US)
        return known.caller;
    if (flags_read(callers, pid, &flags) < 0)
        return CALLER_LOCAL;
    struct entry found = {.pid = pid, .looked_us = now_us};
    if (flags & PF_KTHREAD)
        found.caller = CALLER_KERNEL;
    else if (is_ganesha(callers, pid))
        found.caller = CALLER_GANESHA;
    pthread_mutex_lock(&callers->lock);
    *slot = found;
    pthread_mutex_unlock(&callers->lock);
    return found.caller;
}
