#include "check.h"

#include "common/number.h"
#include "nfs_exports.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1024u * 1024)

struct check {
    const char *name;
    const struct config *config;
    const struct check_machine *machine;
    FILE *out;
    unsigned findings, errors;
};

/* --- findings --- */

static void finding(struct check *check, const char *level, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
static void finding(struct check *check, const char *level, const char *format, va_list args)
{
    struct text line = {0};
    text_vprintf(&line, format, args);
    fprintf(check->out, "%-8s %s: %s\n", level, check->name, line.failed ? "" : line.data);
    text_finish(&line);
    check->findings++;
}

/* What does not work. */
static void fail(struct check *check, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void fail(struct check *check, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(check, "error", format, args);
    va_end(args);
    check->errors++;
}

/* What may be meant so. */
static void warn(struct check *check, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void warn(struct check *check, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(check, "warning", format, args);
    va_end(args);
}

/* --- the machine's files --- */

/* file_read returns the content, the caller's to free; NULL with errno. */
static char *file_read(const struct check *check, const char *path)
{
    struct text full = {0}, content = {0};
    text_printf(&full, "%s%s", check->machine->root, path);
    int fd = full.failed ? -1 : open(full.data, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t size = fd < 0 ? -1 : 1;
    while (size > 0 && content.size < FILE_MAX && text_reserve(&content, 4096)) {
        size = read(fd, content.data + content.size, 4096);
        content.size += size > 0 ? (size_t)size : 0;
    }
    int error = errno;
    if (fd >= 0)
        close(fd);
    text_finish(&full);
    char *taken = size < 0 ? NULL : text_take(&content, NULL);
    text_finish(&content);
    errno = error;
    return taken;
}

/* number_read reads a file of /proc that is a number; -1 with errno, EINVAL if it is none. */
static int number_read(const struct check *check, const char *path, uint64_t *number)
{
    char *content = file_read(check, path);
    if (!content)
        return -1;
    content[strcspn(content, "\n")] = '\0';
    int result = number_parse(content, 0, UINT64_MAX, number);
    free(content);
    if (result < 0)
        errno = EINVAL;
    return result;
}

/* sysctl_must_be_zero says nothing of one that this kernel does not have. */
static void sysctl_must_be_zero(struct check *check, const char *name, const char *why)
{
    char path[128];
    uint64_t value;
    snprintf(path, sizeof(path), "/proc/sys/%s", name);
    for (char *dot = path + strlen("/proc/sys/"); *dot; dot++)
        *dot = *dot == '.' ? '/' : *dot;
    if (number_read(check, path, &value) < 0) {
        if (errno != ENOENT)
            warn(check, "%s: %s: run this as root", path, strerror(errno));
    } else if (value != 0) {
        fail(check, "%s is %llu, %s: run 'sysctl -w %s=0', and install config/vgpufs.sysctl", name,
             (unsigned long long)value, why, name);
    }
}

/* --- the checks --- */

static void check_state_dir(struct check *check)
{
    const char *path = check->config->state_dir;
    struct stat buffer;
    if (stat(path, &buffer) < 0) {
        /* The daemon makes it, where it may. */
        char *parent = strdup(path);
        char *slash = parent ? strrchr(parent, '/') : NULL;
        if (slash)
            slash[slash == parent] = '\0';
        if (errno != ENOENT || !slash || access(parent, W_OK | X_OK) < 0)
            fail(check,
                 "%s: %s: run 'install -d -m 0700 %s' as root, and give it to the user who "
                 "runs vgpufs",
                 path, strerror(errno), path);
        free(parent);
    } else if (!S_ISDIR(buffer.st_mode)) {
        fail(check, "%s is no folder: name another state_dir", path);
    } else if (access(path, R_OK | W_OK | X_OK) < 0) {
        fail(check, "%s: %s: run 'chown %lu %s' as root", path, strerror(errno),
             (unsigned long)geteuid(), path);
    }
}

static void check_fuse(struct check *check)
{
    struct text path = {0};
    struct stat buffer;
    const char *held = check->machine->mount_socket;
    text_printf(&path, "%s%s", check->machine->root, held ? held : "/dev/fuse");
    if (path.failed)
        fail(check, "no memory: end other programs and try again");
    else if (held && (stat(path.data, &buffer) < 0 || !S_ISSOCK(buffer.st_mode)))
        fail(check, "vgpufs-mount does not listen on %s: run 'systemctl start vgpufs-mount'", held);
    else if (!held && access(path.data, F_OK) < 0)
        fail(check, "there is no /dev/fuse: run 'modprobe fuse' as root");
    else if (!held && access(path.data, R_OK | W_OK) < 0)
        fail(check, "/dev/fuse: %s: run 'chmod 0666 /dev/fuse' as root", strerror(errno));
    text_finish(&path);
}

static void check_fuse_timeouts(struct check *check)
{
    static const char why[] = "so that a long wait for a result ends the mount";
    sysctl_must_be_zero(check, "fs.fuse.default_request_timeout", why);
    sysctl_must_be_zero(check, "fs.fuse.max_request_timeout", why);
}

/* cuda_line returns what `vgpu-executor --list` says of the backend cuda: a device, or why not. */
static const char *cuda_line(char *list)
{
    char *line = strstr(list, "\n  cuda");
    if (!line)
        return NULL;
    line += strlen("\n  cuda");
    line += strspn(line, " ");
    line[strcspn(line, "\n")] = '\0';
    return line;
}

static void check_pool(struct check *check, const struct config_pool *pool, const struct user *user)
{
    struct text list = {0};
    if (check->machine->list(pool->executor, user, &list) < 0) {
        fail(check, "pool %s: '%s --list': %s: see 'executor' of [pool %s]", pool->name,
             pool->executor, list.data ? list.data : "no memory", pool->name);
    } else if (strcmp(pool->backend, "cpu") != 0) {
        const char *cuda = list.data ? cuda_line(list.data) : NULL;
        bool has_device = cuda && *cuda >= '0' && *cuda <= '9';
        if (!has_device && strcmp(pool->backend, "cuda") == 0)
            fail(check, "pool %s has no CUDA device: %s", pool->name, cuda ? cuda : "none listed");
        else if (!has_device)
            warn(check, "pool %s computes on the CPU, as backend = cpu would say: %s", pool->name,
                 cuda ? cuda : "no CUDA device is listed");
    }
    text_finish(&list);
}

/* check_home: nothing needs it but what comes with a device or with ssh. */
static void check_home(struct check *check, const struct user *user)
{
    struct stat home;
    if (stat(user->home, &home) < 0 || !S_ISDIR(home.st_mode) || home.st_uid != user->uid)
        warn(
            check,
            "%s has no folder of its own at %s: CUDA compiles kernels anew at each start, and ssh "
            "finds no key: run 'install -d -m 0700 -o %s /var/lib/%s && usermod -d /var/lib/%s %s' "
            "as root",
            user->name, user->home, user->name, user->name, user->name, user->name);
}

static void check_executors(struct check *check)
{
    struct text error = {0};
    struct user user;
    int wanted = user_wanted(check->config->executor_user, &user, &error);
    if (wanted < 0)
        fail(check, "%s", error.failed ? "no memory" : error.data);
    else if (wanted && !check->machine->is_root)
        warn(check, "executors are to run as %s; here they were tried as you: run this as root",
             user.name);
    else if (wanted)
        check_home(check, &user);
    for (size_t i = 0; i < check->config->pool_count; i++)
        check_pool(check, &check->config->pools[i],
                   wanted > 0 && check->machine->is_root ? &user : NULL);
    user_finish(&user);
    text_finish(&error);
}

static void check_leases(struct check *check)
{
    sysctl_must_be_zero(check, "fs.leases-enable",
                        "so that guests (NFSv4) may see an old result for ever");
}

/* guest_count is how many VMs reach the tree by NFS. */
static size_t guest_count(const struct config *config)
{
    size_t count = 0;
    for (size_t i = 0; i < config->vm_count; i++)
        count += config->vms[i].address != NULL;
    return count;
}

static void check_nfsd_threads(struct check *check)
{
    uint64_t threads = 0, wanted = check->config->nfs_threads;
    uint64_t places = wanted > 1 ? wanted / 2 : 1;
    size_t guests = guest_count(check->config);
    if (number_read(check, "/proc/fs/nfsd/threads", &threads) < 0 && errno != ENOENT)
        warn(check, "/proc/fs/nfsd/threads: %s: run this as root", strerror(errno));
    else if (threads == 0)
        fail(check, "the NFS server does not run: run 'systemctl enable --now nfs-server'");
    else if (threads != wanted)
        fail(check,
             "the NFS server has %llu threads, and threads of [nfs] is %llu: run 'rpc.nfsd %llu', "
             "and write threads=%llu below [nfsd] in /etc/nfs.conf",
             (unsigned long long)threads, (unsigned long long)wanted, (unsigned long long)wanted,
             (unsigned long long)wanted);
    else if (guests > places)
        warn(check,
             "%zu guests, and no more than %llu of them can wait for jobs at once: the others see "
             "results some seconds late: set threads = %zu in [nfs], and threads=%zu below [nfsd] "
             "in /etc/nfs.conf",
             guests, (unsigned long long)places, 2 * guests, 2 * guests);
}

/* has_word: is the word in the list, between commas? */
static bool has_word(const char *list, const char *word, size_t size)
{
    for (const char *end; *list; list = end + (*end == ',')) {
        end = list + strcspn(list, ",");
        if ((size_t)(end - list) == size && memcmp(list, word, size) == 0)
            return true;
    }
    return false;
}

/*
 * export_find returns the options that exportfs uses for a client, cut out of `etab` (the caller's
 * to free), or NULL. A line is PATH, a tab, CLIENT(OPTIONS): nfs-utils' support/export/xtab.c.
 */
static char *export_find(const char *etab, const char *path, const char *client)
{
    struct text start = {0};
    char *options = NULL;
    text_printf(&start, "%s\t%s(", path, client);
    for (const char *line = etab; !start.failed && *line && !options;) {
        if (strncasecmp(line, start.data, start.size) == 0)
            options = strndup(line + start.size, strcspn(line + start.size, ")\n"));
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    text_finish(&start);
    return options;
}

/* check_export compares each of the options that --exports would write with those in force. */
static void check_export(struct check *check, const struct config_vm *vm, const char *etab)
{
    static const char mend[] = "run 'mkdir -p /etc/exports.d && vgpufs --exports > "
                               "/etc/exports.d/vgpufs.exports && exportfs -ra'";
    struct text path = {0}, wanted = {0};
    nfs_exports_path(check->config, &path);
    nfs_exports_options(check->config, vm, &wanted);
    char *options = path.failed || wanted.failed ? NULL : export_find(etab, path.data, vm->address);
    if (!options)
        fail(check, "%s is not exported to vm%u (%s): %s", check->config->mountpoint, vm->id,
             vm->address, mend);
    for (const char *word = options ? wanted.data : ""; *word;) {
        size_t size = strcspn(word, ",");
        if (!has_word(options, word, size))
            fail(check, "the export to vm%u (%s) lacks %.*s: %s", vm->id, vm->address, (int)size,
                 word, mend);
        word += size + (word[size] == ',');
    }
    free(options);
    text_finish(&path);
    text_finish(&wanted);
}

static void check_exports(struct check *check)
{
    char *etab = file_read(check, "/var/lib/nfs/etab");
    if (!etab && errno != ENOENT) {
        warn(check, "/var/lib/nfs/etab: %s: run this as root", strerror(errno));
        return;
    }
    for (size_t i = 0; i < check->config->vm_count; i++)
        if (check->config->vms[i].address)
            check_export(check, &check->config->vms[i], etab ? etab : "");
    free(etab);
}

/* is_one_machine: not a network, nor one of the patterns of exports(5). */
static bool is_one_machine(const char *address)
{
    return address && !strpbrk(address, "/*?[@");
}

static void check_guests(struct check *check)
{
    const struct config *config = check->config;
    const char **addresses = calloc(config->vm_count, sizeof(*addresses));
    bool *answers = calloc(config->vm_count, sizeof(*answers));
    if (!addresses || !answers) {
        fail(check, "no memory: end other programs and try again");
        goto out;
    }
    for (size_t i = 0; i < config->vm_count; i++)
        addresses[i] = is_one_machine(config->vms[i].address) ? config->vms[i].address : NULL;
    check->machine->reach(addresses, answers, config->vm_count);
    for (size_t i = 0; i < config->vm_count; i++)
        if (addresses[i] && !answers[i])
            warn(check, "vm%u (%s) does not answer: is it running? 'ping -c 1 %s'",
                 config->vms[i].id, addresses[i], addresses[i]);
out:
    free(addresses);
    free(answers);
}

static const struct {
    const char *name;
    bool for_nfs; /* only where a VM has an address */
    void (*run)(struct check *check);
} checks[] = {
    {"state_dir", false, check_state_dir},
    {"fuse", false, check_fuse},
    {"fuse timeouts", false, check_fuse_timeouts},
    {"executors", false, check_executors},
    {"leases", true, check_leases},
    {"NFS threads", true, check_nfsd_threads},
    {"exports", true, check_exports},
    {"guests", true, check_guests},
};

const struct check_machine check_real_machine = {
    .root = "",
    .list = check_list,
    .reach = check_reach,
};

unsigned check_run(const struct config *config, const struct check_machine *machine, FILE *out)
{
    struct check check = {.config = config, .machine = machine, .out = out};
    bool nfs = guest_count(config) > 0;
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (checks[i].for_nfs && !nfs)
            continue;
        check.name = checks[i].name;
        check.findings = 0;
        checks[i].run(&check);
        if (check.findings == 0)
            fprintf(out, "%-8s %s\n", "ok", check.name);
    }
    return check.errors;
}
