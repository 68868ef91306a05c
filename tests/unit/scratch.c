#include "scratch.h"

#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h> /* after the headers that it needs */

static char directory[200];

const char *scratch_make(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof(directory), "%.150s/vgpufs-unit-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(directory));
    return directory;
}

const char *scratch_path(const char *name)
{
    static char paths[4][512];
    static unsigned last;
    char *path = paths[last = (last + 1) % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *ftw)
{
    (void)stat, (void)type, (void)ftw;
    return remove(path);
}

void scratch_remove(void)
{
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int scratch_enter(void **state)
{
    (void)state;
    scratch_make();
    return 0;
}

int scratch_leave(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

void scratch_disk_full(int full)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = full ? 0 : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}
