#include "enclosure.h"

#include "common/log.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Who forks while it is looked for is found at the next look. */
#define MOST_LOOKS 20
/* The kernel looks for something to kill here first when the host's memory ends: proc(5). */
#define OOM_SCORE "500"
#define SLOTS     "executor-"

struct enclosures {
    char mark[64];                  /* NAME=VALUE of all slots: each has /slot behind it */
    char cgroup[4096];              /* of which the slots' are parts; "": none */
    bool has_memory, has_processes; /* the controllers */
    bool required;                  /* nothing else reaches the executors */
};

/* Small files. */

static int file_read(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t part = file < 0 ? -1 : 0;
    while (file >= 0 && used < size - 1 && (part = read(file, text + used, size - 1 - used)) > 0)
        used += (size_t)part;
    if (file >= 0)
        close(file);
    text[used] = '\0';
    return part < 0 && used == 0 ? -1 : (int)used;
}

/* part_write writes into a file of the cgroup, or of a part of it ("": of itself). */
static int part_write(const struct enclosures *enclosures, const char *part, const char *name,
                      const char *value)
{
    char path[sizeof(enclosures->cgroup) + 256];
    snprintf(path, sizeof(path), "%s/%s/%s", enclosures->cgroup, part, name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : write(file, value, strlen(value));
    if (file >= 0)
        close(file);
    return size < 0 ? -1 : 0;
}

/* Marks. */

/* is_marked: does the environment of that process hold the mark, of this slot or (NULL) of any? */
static bool is_marked(const struct enclosures *enclosures, const char *pid, const char *slot)
{
    char path[300], *environment = malloc(1 << 17);
    bool found = false;
    size_t size = strlen(enclosures->mark);
    snprintf(path, sizeof(path), "/proc/%s/environ", pid);
    int length = environment ? file_read(path, environment, 1 << 17) : -1;
    for (const char *word = environment; !found && length > 0 && word < environment + length;
         word += strlen(word) + 1)
        found = strncmp(word, enclosures->mark, size) == 0 && word[size] == '/' &&
                (!slot || strcmp(word + size + 1, slot) == 0);
    free(environment);
    return found;
}

/* marked_kill kills them. Returns how many there were. */
static unsigned marked_kill(const struct enclosures *enclosures, const char *slot)
{
    unsigned killed = 0;
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
        if (pid <= 1 || pid == getpid() || !is_marked(enclosures, entry->d_name, slot))
            continue;
        killed += kill(pid, SIGKILL) == 0;
    }
    if (processes)
        closedir(processes);
    return killed;
}

/* Cgroups. */

int enclosure_find_cgroup(const char *cgroups, const char *mounts, char *path, unsigned size)
{
    const char *own = strncmp(cgroups, "0::", 3) == 0 ? cgroups : strstr(cgroups, "\n0::");
    const char *type = strstr(mounts, " - cgroup2 ");
    if (!own || !type)
        return -1;
    own += *own == '\n' ? 4 : 3;
    while (type > mounts && type[-1] != '\n')
        type--;
    /* proc(5): 36 35 98:0 root mountpoint options ... */
    int start = 0, end = 0;
    sscanf(type, "%*s %*s %*s %*s %n%*s%n", &start, &end);
    int length = (int)strcspn(own, "\n");
    if (end <= start || length == 0 || memchr(type + start, '\\', (size_t)(end - start)))
        return -1;
    if (length == 1)
        length = 0; /* the root of what is mounted there */
    int written = snprintf(path, size, "%.*s%.*s", end - start, type + start, length, own);
    return written < 0 || (unsigned)written >= size ? -1 : 0;
}

/* is_delegated: systemd says so by an attribute, and by giving it to a plain user
 * (systemd.resource- control(5), Delegate=). Cgroups that were not given to us are the service
 * manager's alone. */
static bool is_delegated(const char *cgroup)
{
    static const char *const attributes[] = {"user.delegate", "trusted.delegate"};
    struct stat stat_of;
    char value[4] = "";
    for (size_t i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++)
        if (getxattr(cgroup, attributes[i], value, sizeof(value)) == 1 && value[0] == '1')
            return true;
    return geteuid() != 0 && stat(cgroup, &stat_of) == 0 && stat_of.st_uid == geteuid() &&
           access(cgroup, W_OK) == 0;
}

static bool has_word(const char *text, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += size)
        if ((at == text || at[-1] == ' ') && (at[size] == ' ' || at[size] == '\n' || !at[size]))
            return true;
    return false;
}

/* controller_enable hands a controller on to the parts. It needs a cgroup without processes. */
static bool controller_enable(const struct enclosures *enclosures, const char *name)
{
    char path[sizeof(enclosures->cgroup) + 32], text[512], value[32];
    snprintf(path, sizeof(path), "%s/cgroup.controllers", enclosures->cgroup);
    if (file_read(path, text, sizeof(text)) < 0 || !has_word(text, name))
        return false;
    snprintf(value, sizeof(value), "+%s", name);
    return part_write(enclosures, "", "cgroup.subtree_control", value) == 0;
}

/* part_kill kills what is in a part; kernels before 5.14 have no cgroup.kill. */
static void part_kill(const struct enclosures *enclosures, const char *part)
{
    char path[sizeof(enclosures->cgroup) + 256], text[4096];
    if (part_write(enclosures, part, "cgroup.kill", "1") == 0)
        return;
    snprintf(path, sizeof(path), "%s/%s/cgroup.procs", enclosures->cgroup, part);
    for (int looks = 0; looks < MOST_LOOKS && file_read(path, text, sizeof(text)) > 0; looks++)
        for (char *rest = NULL, *pid = strtok_r(text, "\n", &rest); pid;
             pid = strtok_r(NULL, "\n", &rest))
            if (atoi(pid) > 1)
                kill(atoi(pid), SIGKILL);
}

/* parts_kill empties all that slots of an earlier daemon have left. */
static void parts_kill(const struct enclosures *enclosures)
{
    DIR *parts = opendir(enclosures->cgroup);
    for (struct dirent *entry; parts && (entry = readdir(parts));)
        if (strncmp(entry->d_name, SLOTS, strlen(SLOTS)) == 0)
            part_kill(enclosures, entry->d_name);
    if (parts)
        closedir(parts);
}

static bool daemon_move(const struct enclosures *enclosures, pid_t helper)
{
    char path[sizeof(enclosures->cgroup) + 32], pid[24];
    snprintf(path, sizeof(path), "%s/daemon", enclosures->cgroup);
    snprintf(pid, sizeof(pid), "%d", helper);
    return (mkdir(path, 0755) == 0 || errno == EEXIST) &&
           part_write(enclosures, "daemon", "cgroup.procs", "0") == 0 &&
           (!helper || part_write(enclosures, "daemon", "cgroup.procs", pid) == 0);
}

/* Life. */

struct enclosures *enclosures_create_in(const char *state_dir, const char *cgroup)
{
    struct enclosures *enclosures = calloc(1, sizeof(*enclosures));
    struct stat stat_of = {0};
    if (!enclosures)
        return NULL;
    if (stat(state_dir, &stat_of) < 0)
        log_warning("%s: %s", state_dir, strerror(errno));
    snprintf(enclosures->mark, sizeof(enclosures->mark), "VGPUFS_EXECUTOR=%jx.%jx",
             (uintmax_t)stat_of.st_dev, (uintmax_t)stat_of.st_ino);
    snprintf(enclosures->cgroup, sizeof(enclosures->cgroup), "%s", cgroup);
    if (*cgroup) {
        enclosures->has_memory = controller_enable(enclosures, "memory");
        enclosures->has_processes = controller_enable(enclosures, "pids");
        parts_kill(enclosures);
    }
    enclosure_clear(enclosures, NULL);
    return enclosures;
}

/* cgroup_take finds the cgroup that was delegated to us; "" without one. */
static void cgroup_take(char *path, size_t size, pid_t helper)
{
    char cgroups[4096], *mounts = malloc(1 << 20);
    struct enclosures here = {0};
    if (!mounts || file_read("/proc/self/cgroup", cgroups, sizeof(cgroups)) < 0 ||
        file_read("/proc/self/mountinfo", mounts, 1 << 20) < 0 ||
        enclosure_find_cgroup(cgroups, mounts, here.cgroup, sizeof(here.cgroup)) < 0 ||
        !is_delegated(here.cgroup) || !daemon_move(&here, helper))
        here.cgroup[0] = '\0';
    free(mounts);
    snprintf(path, size, "%s", here.cgroup);
}

struct enclosures *enclosures_create(const char *state_dir, pid_t helper)
{
    char cgroup[4096];
    cgroup_take(cgroup, sizeof(cgroup), helper);
    struct enclosures *enclosures = enclosures_create_in(state_dir, cgroup);
    if (enclosures && *cgroup)
        log_info("executors have cgroups in %s%s%s", cgroup,
                 enclosures->has_memory ? "" : ", without bounds of memory",
                 enclosures->has_processes ? "" : ", without bounds of processes");
    return enclosures;
}

void enclosures_destroy(struct enclosures *enclosures)
{
    free(enclosures);
}

int enclosures_require(struct enclosures *enclosures)
{
    char path[sizeof(enclosures->cgroup) + 32];
    snprintf(path, sizeof(path), "%s/daemon/cgroup.kill", enclosures->cgroup);
    enclosures->required = true;
    return enclosures->cgroup[0] && access(path, W_OK) == 0 ? 0 : -1;
}

/* A slot's. */

static void bound_write(const struct enclosures *enclosures, const char *part, const char *name,
                        uint64_t value)
{
    char text[24] = "max";
    if (value)
        snprintf(text, sizeof(text), "%" PRIu64, value);
    if (part_write(enclosures, part, name, text) < 0)
        log_warning("%s/%s/%s: %s: this bound does not hold", enclosures->cgroup, part, name,
                    strerror(errno));
}

static void part_open(const struct enclosures *enclosures, const char *slot,
                      const struct enclosure_limits *limits, struct enclosure *enclosure)
{
    char part[128], path[sizeof(enclosures->cgroup) + sizeof(part) + 32];
    snprintf(part, sizeof(part), SLOTS "%s", slot);
    snprintf(path, sizeof(path), "%s/%s", enclosures->cgroup, part);
    if (mkdir(path, 0755) < 0 && errno != EEXIST) {
        log_warning("%s: %s: executor %s runs without it", path, strerror(errno), slot);
        return;
    }
    if (enclosures->has_memory) {
        bound_write(enclosures, part, "memory.max", limits->memory_bytes);
        /* Neither is there where the kernel has no swap, or is older. */
        part_write(enclosures, part, "memory.swap.max", limits->memory_bytes ? "0" : "max");
        part_write(enclosures, part, "memory.oom.group", "1");
        enclosure->memory_bytes = 0;
    }
    if (enclosures->has_processes)
        bound_write(enclosures, part, "pids.max", limits->processes);
    strcat(path, "/cgroup.procs");
    enclosure->procs = open(path, O_WRONLY | O_CLOEXEC);
}

void enclosure_open(struct enclosures *enclosures, const char *slot,
                    const struct enclosure_limits *limits, struct enclosure *enclosure)
{
    *enclosure = (struct enclosure){
        .procs = -1, .required = enclosures->required, .memory_bytes = limits->memory_bytes};
    snprintf(enclosure->mark, sizeof(enclosure->mark), "%.63s/%.30s", enclosures->mark, slot);
    if (enclosures->cgroup[0])
        part_open(enclosures, slot, limits, enclosure);
}

void enclosure_close(struct enclosure *enclosure)
{
    if (enclosure->procs >= 0)
        close(enclosure->procs);
    enclosure->procs = -1;
}

int enclosure_take(const struct enclosure *enclosure, pid_t pid)
{
    char text[24];
    if (enclosure->procs >= 0) {
        int size = snprintf(text, sizeof(text), "%d", pid);
        return write(enclosure->procs, text, (size_t)size) < 0 ? -1 : 0;
    }
    errno = ENOENT;
    return enclosure->required ? -1 : 0;
}

void enclosure_enter(uint64_t memory_bytes)
{
    /* What fails here leaves a bound out; the executor is better started than not. */
    ssize_t size = 0;
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0) {
        size = write(score, OOM_SCORE, sizeof(OOM_SCORE) - 1);
        close(score);
    }
    (void)size;
    /* A dump of its memory would hold what guests computed. */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (memory_bytes)
        setrlimit(RLIMIT_DATA, &(struct rlimit){memory_bytes, memory_bytes});
}

void enclosure_kill(struct enclosures *enclosures, const char *slot)
{
    char part[128];
    snprintf(part, sizeof(part), SLOTS "%s", slot);
    if (enclosures && enclosures->cgroup[0])
        part_kill(enclosures, part);
}

void enclosure_clear(struct enclosures *enclosures, const char *slot)
{
    unsigned left = 0;
    if (slot && enclosures->cgroup[0]) {
        enclosure_kill(enclosures, slot);
        return;
    }
    for (int looks = 0; looks < MOST_LOOKS; looks++) {
        unsigned found = marked_kill(enclosures, slot);
        left += found;
        if (!found)
            break;
    }
    if (left)
        log_warning("processes that executors%s%s had left behind were killed", slot ? " of " : "",
                    slot ? slot : "");
}

uint64_t enclosure_ooms(struct enclosures *enclosures, const char *slot)
{
    char path[sizeof(enclosures->cgroup) + 160], text[512];
    unsigned long count = 0;
    if (!enclosures->has_memory)
        return 0;
    snprintf(path, sizeof(path), "%s/" SLOTS "%s/memory.events", enclosures->cgroup, slot);
    const char *line = file_read(path, text, sizeof(text)) > 0 ? strstr(text, "oom_kill ") : NULL;
    return line && sscanf(line, "oom_kill %lu", &count) == 1 ? count : 0;
}
