#include "user.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* More than NGROUPS_MAX of Linux no process can have. */
#define MOST_GROUPS 65536

static int groups_find(struct user *user)
{
    int count = 16;
    while (count <= MOST_GROUPS) {
        int room = count;
        gid_t *groups = realloc(user->groups, (size_t)room * sizeof(*groups));
        if (!groups)
            return -1;
        user->groups = groups;
        if (getgrouplist(user->name, user->gid, groups, &count) >= 0) {
            user->group_count = (size_t)count;
            return 0;
        }
        if (count <= room)
            count = room * 2;
    }
    errno = E2BIG;
    return -1;
}

int user_find(const char *name, struct user *user, struct text *error)
{
    *user = (struct user){0};
    errno = 0;
    const struct passwd *entry = getpwnam(name);
    if (!entry) {
        text_printf(error,
                    "executor_user = '%s': %s: make it, as systemd-sysusers(8) does with "
                    "vgpufs' file, or name another",
                    name, errno ? strerror(errno) : "there is no such user");
        return -1;
    }
    user->uid = entry->pw_uid;
    user->gid = entry->pw_gid;
    user->name = strdup(name);
    user->home = strdup(entry->pw_dir);
    user->shell = strdup(entry->pw_shell);
    if (user->name && user->home && user->shell && groups_find(user) == 0)
        return 0;
    text_printf(error, "executor_user = '%s': its groups: %s", name, strerror(errno));
    user_finish(user);
    return -1;
}

int user_wanted(const char *name, struct user *user, struct text *error)
{
    *user = (struct user){0};
    if (!name)
        return 0;
    if (user_find(name, user, error) < 0)
        return -1;
    if (user->uid == geteuid())
        return 0;
    if (user->uid != 0)
        return 1;
    text_printf(error, "executor_user = '%s': executors must not be root: name another user", name);
    return -1;
}

void user_finish(struct user *user)
{
    free(user->groups);
    free(user->name);
    free(user->home);
    free(user->shell);
    *user = (struct user){0};
}

int capabilities_drop(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    /* The ambient ones go with the permitted: capabilities(7). */
    return (int)syscall(SYS_capset, &header, none);
}

int user_borrow(const struct user *user)
{
    if (setgroups(user->group_count, user->groups) < 0 ||
        setresgid((gid_t)-1, user->gid, (gid_t)-1) < 0 ||
        setresuid((uid_t)-1, user->uid, (uid_t)-1) < 0)
        return -1;
    return capabilities_drop();
}

int user_give_back(void)
{
    return setresuid((uid_t)-1, getuid(), (uid_t)-1) < 0 ||
                   setresgid((gid_t)-1, getgid(), (gid_t)-1) < 0
               ? -1
               : 0;
}

int user_become(const struct user *user)
{
    uid_t before, effective, saved;
    if (getresuid(&before, &effective, &saved) < 0 ||
        setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0)
        return -1;
    /* Rather no executor than one that can go back. */
    if (before != user->uid && setresuid((uid_t)-1, before, (uid_t)-1) == 0) {
        errno = EPERM;
        return -1;
    }
    return 0;
}

int user_environment(const struct user *user)
{
    const struct {
        const char *name, *value;
    } variables[] = {{"HOME", user->home},
                     {"USER", user->name},
                     {"LOGNAME", user->name},
                     {"SHELL", user->shell}};
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        if (setenv(variables[i].name, variables[i].value, 1) < 0)
            return -1;
    return 0;
}
