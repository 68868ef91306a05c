#include "process.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

uint64_t process_start_time(pid_t pid)
{
    char path[32], line[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return 0;
    ssize_t size = read(descriptor, line, sizeof(line) - 1);
    close(descriptor);
    if (size <= 0)
        return 0;
    line[size] = '\0';
    /* Field 2 is the name in parentheses and may hold anything: count from its end. */
    const char *field = strrchr(line, ')');
    if (field && (strncmp(field, ") Z", 3) == 0 || strncmp(field, ") X", 3) == 0))
        return 0; /* dead, and only not waited for yet */
    for (int number = 2; field && number < 22; number++) {
        field = strchr(field, ' ');
        if (field)
            field++;
    }
    return field ? strtoull(field, NULL, 10) : 0;
}

void thread_name(const char *room, const char *which)
{
    char name[16]; /* pthread_setname_np(3) takes no more */
    snprintf(name, sizeof(name), "%s %s", room, which);
    pthread_setname_np(pthread_self(), name);
}

int process_descriptor(pid_t pid)
{
#ifdef SYS_pidfd_open
    return (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec: pidfd_open(2) */
#else
    (void)pid;
    return -1;
#endif
}

void process_kill(int descriptor)
{
#ifdef SYS_pidfd_send_signal
    syscall(SYS_pidfd_send_signal, descriptor, SIGKILL, NULL, 0);
#else
    (void)descriptor;
#endif
}
