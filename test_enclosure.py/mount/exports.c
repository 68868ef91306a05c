#include "exports.h"

#include "common/log.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

/* In exportfs(8): "Flush everything out of the kernel's export table". */
void exports_flush(void)
{
    char program[] = "exportfs", flush[] = "-f";
    char *words[] = {program, flush, NULL};
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    int error = posix_spawnp(&pid, program, NULL, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    if (error && error != ENOENT) /* no NFS server here */
        log_warning("cannot start 'exportfs -f': %s: run it by hand", strerror(error));
}

void exports_reap(void)
{
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0)
        if (status != 0)
            log_warning("'exportfs -f' failed: guests may get EIO until it is run by hand");
}
