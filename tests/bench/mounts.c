#include "mounts.h"

#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* A process that computed nothing for so long is done: vgpufs writes its journal after 50 ms. */
#define REST_US     200000
#define MAX_MOUNTS  16
#define START_TRIES 30000 /* of 2 ms */
#define LINES       10000 /* of one write */

#define FUSE_SUPER_MAGIC 0x65735546 /* statfs(2) */

static struct mount *mounts[MAX_MOUNTS];

/* Programs. */

pid_t program_start(const char *const *words)
{
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child > 0)
        return child;
    bench_child();
    int log = open(bench_path("log"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execvp(words[0], (char *const *)(uintptr_t)words);
    _exit(127);
}

int program_run(const char *const *words)
{
    int status;
    pid_t child = program_start(words);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            bench_die(words[0]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool program_exists(const char *name)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : "/usr/bin:/bin"), *rest = copy;
    bool found = false;
    for (char *folder; !found && (folder = strsep(&rest, ":"));) {
        char file[512];
        snprintf(file, sizeof(file), "%s/%s", folder, name);
        found = access(file, X_OK) == 0;
    }
    free(copy);
    return found;
}

/* Mounts. */

static bool is_mounted(const char *folder)
{
    struct statfs buffer;
    return statfs(folder, &buffer) == 0 && buffer.f_type == FUSE_SUPER_MAGIC;
}

static void show_log(void)
{
    char text[4096];
    int log = open(bench_path("log"), O_RDONLY);
    off_t size = lseek(log, 0, SEEK_END);
    ssize_t got = pread(log, text, sizeof(text), size > 4096 ? size - 4096 : 0);
    if (got > 0)
        fwrite(text, 1, (size_t)got, stderr);
    close(log);
}

/* mount_run starts the program, and waits until it has mounted. */
static void mount_run(struct mount *mount, const char *const *words)
{
    if (mkdir(mount->folder, 0755) < 0 && errno != EEXIST)
        bench_die(mount->folder);
    mount->pid = program_start(words);
    for (size_t i = 0; i < MAX_MOUNTS; i++)
        if (!mounts[i]) {
            mounts[i] = mount;
            break;
        }
    for (int tries = 0; tries < START_TRIES; tries++) {
        if (is_mounted(mount->folder))
            return;
        if (waitpid(mount->pid, NULL, WNOHANG) != 0) {
            mount->pid = 0;
            break;
        }
        bench_sleep_ms(2);
    }
    show_log();
    bench_fail("%s does not start: see its messages above", words[0]);
}

static void mount_name(struct mount *mount, const char *name)
{
    snprintf(mount->name, sizeof(mount->name), "%s", name);
    snprintf(mount->folder, sizeof(mount->folder), "%s", bench_path("%s.mnt", name));
}

void mount_start_vgpufs(struct mount *mount, const char *name, const char *settings,
                        const char *sections)
{
    mount_name(mount, name);
    char config[300];
    snprintf(config, sizeof(config), "%s", bench_path("%s.conf", name));
    FILE *file = fopen(config, "w");
    if (!file)
        bench_die(config);
    fprintf(file,
            "[vgpufs]\nmountpoint = %s.mnt\nstate_dir = %s.state\n%s\n"
            "[defaults]\nmax_queued = 1000000\nmax_jobs = 1000000\ndata_quota = 16G\n"
            "max_open = 1000000\nmax_waiting = 1000000\n"
            "[pool A]\nmax_queued = 1000000\nbackend = cpu\nexecutor = \"%s\"\n"
            "[pool B]\nmax_queued = 1000000\nbackend = cpu\nexecutor = \"%s\"\n%s\n",
            name, name, settings, bench_setup.executor, bench_setup.executor, sections);
    if (fclose(file) != 0)
        bench_die(config);
    mount_run(mount, (const char *const[]){bench_setup.vgpufs, "-f", "-c", config, NULL});
    /* It is mounted before its executors are waited for: the first answer comes after that. */
    while (access(mount_path(mount, "stats"), R_OK) < 0)
        bench_sleep_ms(2);
}

void mount_start_floor(struct mount *mount, const char *name, unsigned vms)
{
    char count[16];
    mount_name(mount, name);
    snprintf(count, sizeof(count), "%u", vms);
    mount_run(mount, (const char *const[]){bench_setup.floor, mount->folder, count, NULL});
}

void mount_start_bindfs(struct mount *mount, const char *name, const char *source)
{
    mount_name(mount, name);
    mount_run(mount, (const char *const[]){"bindfs", "-f", source, mount->folder, NULL});
}

void mount_stop(struct mount *mount)
{
    for (size_t i = 0; i < MAX_MOUNTS; i++)
        if (mounts[i] == mount)
            mounts[i] = NULL;
    if (mount->pid > 0) {
        kill(mount->pid, SIGTERM);
        waitpid(mount->pid, NULL, 0);
    }
    mount->pid = 0;
    if (is_mounted(mount->folder)) /* only if the daemon has died */
        program_run((const char *const[]){"fusermount3", "-u", "-z", mount->folder, NULL});
}

void mounts_remove_left(const char *folder)
{
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[512];
        size_t size = strlen(entry->d_name);
        if (size < 4 || strcmp(entry->d_name + size - 4, ".mnt") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%.200s", folder, entry->d_name);
        /* A dead one answers ENOTCONN, whatever it is. */
        if (is_mounted(path) || errno == ENOTCONN)
            program_run((const char *const[]){"fusermount3", "-u", "-z", path, NULL});
    }
    if (directory)
        closedir(directory);
}

void mounts_stop_all(void)
{
    for (size_t i = 0; i < MAX_MOUNTS; i++)
        if (mounts[i])
            mount_stop(mounts[i]);
}

/* Files. */

int file_open(const char *path, int flags)
{
    int file = open(path, flags | O_CLOEXEC, 0600);
    if (file < 0)
        bench_die(path);
    return file;
}

void file_write(int file, const void *bytes, size_t size)
{
    if (write(file, bytes, size) != (ssize_t)size)
        bench_die("write");
}

void file_put(const char *path, const void *bytes, size_t size)
{
    int file = file_open(path, O_WRONLY);
    file_write(file, bytes, size);
    if (close(file) < 0)
        bench_die(path);
}

void file_puts(const char *path, const char *text)
{
    file_put(path, text, strlen(text));
}

size_t file_get(const char *path, char *buffer, size_t room)
{
    char rest[16384];
    int file = file_open(path, O_RDONLY);
    size_t total = 0;
    for (;;) {
        bool fits = total < room;
        ssize_t size =
            fits ? read(file, buffer + total, room - total) : read(file, rest, sizeof(rest));
        if (size < 0)
            bench_die(path);
        if (size == 0)
            break;
        total += (size_t)size;
    }
    close(file);
    if (room)
        buffer[total < room ? total : room - 1] = '\0';
    return total;
}

/* Clients. */

const char *mount_path(const struct mount *mount, const char *format, ...)
{
    static _Thread_local char paths[4][512];
    static _Thread_local unsigned turn;
    char *path = paths[turn++ % 4];
    int used = snprintf(path, sizeof(paths[0]), "%s/", mount->folder);
    va_list args;
    va_start(args, format);
    vsnprintf(path + used, sizeof(paths[0]) - (size_t)used, format, args);
    va_end(args);
    return path;
}

void mount_submit_and_read(const struct mount *mount, unsigned vm, const char *line)
{
    char answer[4096];
    file_puts(mount_path(mount, "vm%u/submit", vm), line);
    if (file_get(mount_path(mount, "vm%u/result", vm), answer, sizeof(answer)) == 0 ||
        strncmp(answer, "status=done", 11) != 0)
        bench_fail("%s: %s", line, answer);
}

void mount_submit_many(const struct mount *mount, unsigned vm, const char *line, size_t count)
{
    size_t size = strlen(line);
    char *batch = malloc(LINES * size);
    if (!batch)
        bench_die("lines");
    for (size_t i = 0; i < LINES; i++)
        memcpy(batch + i * size, line, size);
    int file = file_open(mount_path(mount, "vm%u/submit", vm), O_WRONLY);
    for (size_t done = 0; done < count;) {
        size_t here = count - done < LINES ? count - done : LINES;
        file_write(file, batch, here * size);
        done += here;
    }
    close(file);
    free(batch);
}

void mount_ctl(const struct mount *mount, const char *line)
{
    file_puts(mount_path(mount, "ctl"), line);
}

void mount_wait_newest(const struct mount *mount, unsigned vm)
{
    char answer[4096];
    file_get(mount_path(mount, "vm%u/result", vm), answer, sizeof(answer));
}

double mount_counter(const struct mount *mount, const char *line, const char *key)
{
    static char text[1 << 20];
    char wanted[64];
    file_get(mount_path(mount, "stats"), text, sizeof(text));
    const char *found = strstr(text, line);
    snprintf(wanted, sizeof(wanted), " %s=", key);
    const char *value = found ? strstr(found, wanted) : NULL;
    if (!value)
        bench_fail("stats has no %s in '%s'", key, line);
    return strtod(value + strlen(wanted), NULL);
}

/* Processes. */

/* status_number reads `key: NUMBER` from a file like /proc/PID/status; 0 if it is not there. */
static double status_number(const char *path, const char *key)
{
    char line[256];
    double number = 0;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            number = strtod(line + strlen(key), NULL);
    if (file)
        fclose(file);
    return number;
}

/* process_ticks: what it has computed, in the kernel's ticks. */
static unsigned long process_ticks(pid_t pid)
{
    char path[64];
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                        &kernel) != 2)
        bench_die(path);
    fclose(file);
    return user + kernel;
}

double process_wait_rest(pid_t pid)
{
    unsigned long ticks = process_ticks(pid), now;
    double rest_us = bench_now_us();
    for (; bench_now_us() - rest_us < REST_US; ticks = now) {
        bench_sleep_ms(5);
        now = process_ticks(pid);
        if (now != ticks)
            rest_us = bench_now_us();
    }
    return rest_us;
}

double process_memory_kib(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    return status_number(path, "VmRSS:");
}

unsigned process_threads(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    return (unsigned)status_number(path, "Threads:");
}

double process_switches(pid_t pid)
{
    char path[300];
    double total = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        bench_die(path);
    for (struct dirent *entry; (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", pid, entry->d_name);
        total += status_number(path, "voluntary_ctxt_switches:");
    }
    closedir(tasks);
    return total;
}
