/*
 * What a job costs on this machine: a real vgpufs on a real mount, and beside
 * each figure what it is to be compared with, measured in the same run.
 *
 * usage: bench-jobs VGPUFS EXECUTOR
 *
 * Prints; judges nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS      5000
#define BATCHES     20
#define BATCH_LINES 10000
#define READERS     1000
#define DATA_MIB    256

static char root[64]; /* the working folder: mnt/, state/, plain/ */

static void die(const char *what)
{
    fprintf(stderr, "bench-jobs: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const char *in_root(const char *name)
{
    static _Thread_local char path[128];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    return path;
}

static int open_or_die(const char *name, int flags)
{
    int file = open(in_root(name), flags, 0600);
    if (file < 0)
        die(name);
    return file;
}

static void write_or_die(int file, const void *bytes, size_t size)
{
    if (write(file, bytes, size) != (ssize_t)size)
        die("write");
}

static void put(const char *name, const void *bytes, size_t size)
{
    int file = open_or_die(name, O_WRONLY);
    write_or_die(file, bytes, size);
    close(file);
}

/* get reads a file to its end, as cat does. */
static void get(const char *name)
{
    char buffer[65536];
    int file = open_or_die(name, O_RDONLY);
    ssize_t size;
    while ((size = read(file, buffer, sizeof(buffer))) > 0)
        continue;
    if (size < 0)
        die(name);
    close(file);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double latency(void)
{
    static double took[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double start = now_s();
        put("mnt/vm1/submit", "NOP\n", 4);
        get("mnt/vm1/result");
        took[i] = (now_s() - start) * 1e6;
    }
    qsort(took, ROUNDS, sizeof(took[0]), compare);
    printf("submit to result of a NOP     p50 %.0f us  p99 %.0f us  p99.9 %.0f us\n",
           took[ROUNDS / 2], took[ROUNDS * 99 / 100], took[ROUNDS * 999 / 1000]);
    return took[ROUNDS / 2];
}

/* The same calls on files in data/, which no job stands behind. */
static void latency_of_files(double submit_us)
{
    static double took[ROUNDS];
    close(open_or_die("mnt/vm1/data/a", O_CREAT | O_WRONLY));
    for (int i = 0; i < ROUNDS; i++) {
        double start = now_s();
        put("mnt/vm1/data/a", "NOP\n", 4);
        get("mnt/vm1/data/a");
        took[i] = (now_s() - start) * 1e6;
    }
    qsort(took, ROUNDS, sizeof(took[0]), compare);
    printf("  the same calls on data/     p50 %.0f us  ratio %.2f\n", took[ROUNDS / 2],
           submit_us / took[ROUNDS / 2]);
}

/* Round trips a second of 64 bytes between two processes on a socketpair. */
static double ping_pong(void)
{
    int ends[2];
    char bytes[64] = {0};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        die("socketpair");
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        while (read(ends[1], bytes, sizeof(bytes)) > 0)
            if (write(ends[1], bytes, sizeof(bytes)) < 0)
                break;
        _exit(0);
    }
    close(ends[1]);
    double start = now_s();
    for (int i = 0; i < 50000; i++) {
        write_or_die(ends[0], bytes, sizeof(bytes));
        if (read(ends[0], bytes, sizeof(bytes)) <= 0)
            die("socketpair");
    }
    double rate = 50000 / (now_s() - start);
    close(ends[0]);
    waitpid(child, NULL, 0);
    return rate;
}

static void throughput(void)
{
    static char batch[BATCH_LINES * 4];
    for (size_t i = 0; i < BATCH_LINES; i++)
        memcpy(batch + i * 4, "NOP\n", 4);
    double start = now_s();
    for (int i = 0; i < BATCHES; i++)
        put("mnt/vm2/submit", batch, sizeof(batch));
    double accepted = now_s();
    get("mnt/vm2/result");
    double done = now_s();
    double jobs = (double)BATCHES * BATCH_LINES, rate = jobs / (done - start);
    double floor_rate = ping_pong();
    printf("lines accepted                %.0f /s in writes of %d lines\n",
           jobs / (accepted - start), BATCH_LINES);
    printf("NOP jobs through one slot     %.0f /s  a bare ping-pong %.0f /s  ratio %.2f\n", rate,
           floor_rate, rate / floor_rate);
}

static void *reader_run(void *argument)
{
    (void)argument;
    get("mnt/vm3/result");
    return NULL;
}

/* How long after the job's end the last of many readers has its answer. */
static void readers(void)
{
    static pthread_t threads[READERS];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 * 1024);
    put("mnt/vm3/submit", "SLEEP ms=3000\n", 14);
    double end = now_s() + 3;
    for (int i = 0; i < READERS; i++)
        if (pthread_create(&threads[i], &small, reader_run, NULL) != 0)
            die("pthread_create");
    bool ready = now_s() < end;
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    printf("%d readers of one result    all answered %.0f ms after the job's end%s\n", READERS,
           (now_s() - end) * 1e3, ready ? "" : " (they had not all come before it)");
}

static double copy_rate(const char *name, bool writes)
{
    static char block[1 << 20];
    int file = open_or_die(name, writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY);
    double start = now_s();
    for (int i = 0; i < DATA_MIB; i++)
        if ((writes ? write(file, block, sizeof(block)) : read(file, block, sizeof(block))) !=
            (ssize_t)sizeof(block))
            die(name);
    double rate = DATA_MIB / (now_s() - start);
    close(file);
    return rate;
}

static void data(void)
{
    static const char *const verbs[] = {"read", "write"};
    for (int writes = 1; writes >= 0; writes--) {
        double plain = copy_rate("plain/file", writes),
               ours = copy_rate("mnt/vm1/data/file", writes);
        printf(
            "data/ %-5s of %d MiB        %.0f MiB/s  the backing folder %.0f MiB/s  ratio %.2f\n",
            verbs[writes], DATA_MIB, ours, plain, ours / plain);
    }
}

static void configure(const char *executor)
{
    FILE *file = fopen(in_root("vgpufs.conf"), "w");
    if (!file)
        die("vgpufs.conf");
    fprintf(file,
            "[vgpufs]\nmountpoint = mnt\nstate_dir = state\nvms = 1-3\nlog_jobs = no\n"
            "[defaults]\nmax_queued = 1000000\nmax_jobs = 1000000\n"
            "[pool A]\nmax_queued = 1000000\nexecutor = \"%s\"\n"
            "[pool B]\nexecutor = \"%s\"\n",
            executor, executor);
    if (fclose(file) != 0)
        die("vgpufs.conf");
}

static pid_t start(const char *program)
{
    struct stat stat_buffer;
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, "-f", "-c", in_root("vgpufs.conf"), (char *)NULL);
        die(program);
    }
    for (int tries = 0; tries < 5000; tries++) {
        struct timespec pause = {.tv_nsec = 2000000};
        if (stat(in_root("mnt/stats"), &stat_buffer) == 0)
            return child;
        if (waitpid(child, NULL, WNOHANG) != 0)
            break;
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "bench-jobs: %s does not start: see its message above\n", program);
    exit(1);
}

static void clean(void)
{
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", "--one-file-system", root, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("usage: bench-jobs VGPUFS EXECUTOR\n", stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(root, sizeof(root), "/tmp/vgpufs-bench-XXXXXX");
    if (!mkdtemp(root) || mkdir(in_root("mnt"), 0755) < 0 || mkdir(in_root("plain"), 0755) < 0)
        die(root);
    configure(argv[2]);
    pid_t daemon = start(argv[1]);
    latency_of_files(latency());
    throughput();
    readers();
    data();
    kill(daemon, SIGTERM);
    waitpid(daemon, NULL, 0);
    clean();
    return 0;
}
