#include "folder.h"
#include "fuzz.h"

#include "common/log.h"
#include "nfs_wait.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

/* clear_at removes what is in a folder, and in those that are in it. The file that keeps room
 * stays, as it would over a restart: to make its blocks again takes longer than all else. */
static void clear_at(int at, const char *name, const char *keep)
{
    int file = openat(at, name, O_RDONLY | O_DIRECTORY);
    DIR *directory = file < 0 ? NULL : fdopendir(file);
    if (!directory)
        return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (keep && strcmp(entry->d_name, keep) == 0))
            continue;
        if (unlinkat(dirfd(directory), entry->d_name, 0) == 0)
            continue;
        clear_at(dirfd(directory), entry->d_name, NULL);
        unlinkat(dirfd(directory), entry->d_name, AT_REMOVEDIR);
    }
    closedir(directory);
}

void folder_clear(void)
{
    clear_at(AT_FDCWD, folder, "reserve");
}

static void folder_remove(void)
{
    clear_at(AT_FDCWD, folder, NULL);
    rmdir(folder);
}

const char *folder_make(void)
{
    strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/vgpufs-fuzz-XXXXXX"
                                                 : "/tmp/vgpufs-fuzz-XXXXXX");
    CHECK(mkdtemp(folder));
    atexit(folder_remove);
    log_set_level(LOG_LEVEL_ERROR);
    return folder;
}

struct config *daemon_config(const char *lines)
{
    struct text error = {0};
    char content[1024];
    snprintf(content, sizeof(content),
             "[vgpufs]\nmountpoint = /mnt/vgpu\nstate_dir = %s\nlog_jobs = no\n%s", folder,
             lines ? lines : "");
    struct config *config = config_parse(content, "/etc/vgpufs.conf", true, &error);
    if (!config)
        fuzz_failed(__FILE__, __LINE__, error.data);
    return config;
}

void daemon_begin(struct server *server, const struct config *config)
{
    struct text error = {0};
    if (server_restore(server, config, &error) < 0)
        fuzz_failed(__FILE__, __LINE__, error.data);
    server->nfs = nfs_wait_create(server);
    CHECK(server->nfs);
    nfs_wait_stop(server->nfs); /* its thread */
}

void daemon_end(struct server *server)
{
    server_stop(server, -1);
}
