#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "mounts.h"

struct bench_setup bench_setup;

static char root[256];
static pid_t root_owner; /* who removes it: not a child that fails */
static atomic_bool ending;

size_t bench_scale(size_t whole, size_t smoke)
{
    return bench_setup.smoke ? smoke : whole;
}

double bench_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

void bench_sleep_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

static cpu_set_t processors; /* that this process had */

void bench_pin(void)
{
    cpu_set_t one;
    if (sched_getaffinity(0, sizeof(processors), &processors) < 0)
        bench_die("sched_getaffinity");
    CPU_ZERO(&one);
    for (int i = CPU_SETSIZE - 1; i >= 0 && CPU_COUNT(&one) == 0; i--)
        if (CPU_ISSET(i, &processors))
            CPU_SET(i, &one);
    if (sched_setaffinity(0, sizeof(one), &one) < 0)
        bench_die("sched_setaffinity");
}

void bench_unpin(void)
{
    if (sched_setaffinity(0, sizeof(processors), &processors) < 0)
        bench_die("sched_setaffinity");
}

void bench_fail(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    /* What is cleaned up under their feet makes other threads fail: they wait for the end. */
    while (getpid() == root_owner && atomic_exchange(&ending, true))
        pause();
    fprintf(stderr, "vgpufs-bench: %s\n", text);
    if (getpid() == root_owner) {
        mounts_stop_all();
        bench_close();
    }
    _exit(1);
}

static void signals_of_the_end(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGHUP);
}

static void *signals_wait(void *unused)
{
    sigset_t signals;
    int number;
    (void)unused;
    signals_of_the_end(&signals);
    sigwait(&signals, &number);
    bench_fail("%s", strsignal(number));
}

void bench_catch_signals(void)
{
    pthread_t thread;
    sigset_t signals;
    signals_of_the_end(&signals);
    root_owner = getpid();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pthread_create(&thread, NULL, signals_wait, NULL) != 0)
        bench_fail("cannot start a thread");
}

void bench_child(void)
{
    sigset_t signals;
    signals_of_the_end(&signals);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

void bench_die(const char *what)
{
    bench_fail("%s: %s", what, strerror(errno));
}

static int remove_one(const char *path, const struct stat *stat, int flag, struct FTW *walk)
{
    (void)stat;
    (void)flag;
    (void)walk;
    return remove(path);
}

void bench_close(void)
{
    if (root[0] && nftw(root, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0)
        fprintf(stderr, "vgpufs-bench: cannot remove %s: %s\n", root, strerror(errno));
    root[0] = '\0';
}

/* sweep removes the folders of benches that were killed: the process is in the name. */
static void sweep(const char *folder)
{
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        int pid, end = 0;
        if (sscanf(entry->d_name, "vgpufs-bench-%d-%n", &pid, &end) != 1 || !end || pid <= 0 ||
            kill(pid, 0) == 0 || errno != ESRCH)
            continue;
        snprintf(root, sizeof(root), "%s/%.100s", folder, entry->d_name);
        mounts_remove_left(root);
        bench_close();
    }
    if (directory)
        closedir(directory);
}

void bench_open(void)
{
    const char *folder = getenv("TMPDIR");
    char path[128];
    snprintf(path, sizeof(path), "%s", folder ? folder : "/tmp");
    sweep(path);
    snprintf(root, sizeof(root), "%s/vgpufs-bench-%d-XXXXXX", path, (int)getpid());
    if (!mkdtemp(root))
        bench_die(root);
    root_owner = getpid();
}

const char *bench_path(const char *format, ...)
{
    static _Thread_local char paths[8][512];
    static _Thread_local unsigned turn;
    char *path = paths[turn++ % 8];
    int used = snprintf(path, sizeof(paths[0]), "%s/", root);
    va_list args;
    va_start(args, format);
    vsnprintf(path + used, sizeof(paths[0]) - (size_t)used, format, args);
    va_end(args);
    return path;
}

/* Samples. */

void samples_add(struct samples *samples, double value)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 1024;
        samples->values = realloc(samples->values, samples->room * sizeof(double));
        if (!samples->values)
            bench_die("samples");
    }
    samples->values[samples->count++] = value;
    samples->sorted = false;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double samples_at(struct samples *samples, double part)
{
    if (samples->count == 0)
        return 0;
    if (!samples->sorted)
        qsort(samples->values, samples->count, sizeof(double), compare);
    samples->sorted = true;
    size_t index = (size_t)((double)samples->count * part);
    return samples->values[index < samples->count ? index : samples->count - 1];
}

void samples_finish(struct samples *samples)
{
    free(samples->values);
    *samples = (struct samples){0};
}

/* Figures. */

static struct {
    const char *bench;
    char above[128]; /* the last figure that is not indented: what an indented one is about */
    unsigned count;  /* of those printed as JSON */
    unsigned with_goal, reached;
} figures;

void figures_begin(const char *bench)
{
    figures.bench = bench;
    if (bench_setup.markdown && !figures.count++)
        printf("| figure | measured | goal | reached |\n| --- | --- | --- | --- |\n");
    else if (!bench_setup.json && !bench_setup.markdown)
        printf("%s%-58s %13s  %-12s %s\n", figures.with_goal ? "\n" : "", bench, "measured", "goal",
               "reached");
}

static void number_text(char text[32], double value)
{
    snprintf(text, 32, value >= 100 || value == (double)(long)value ? "%.0f" : "%.3g", value);
}

void figure(const char *name, double value, const char *unit, enum goal goal, double limit)
{
    static const char *const signs[] = {"", "<= ", ">= "};
    static const char *const json_truth[] = {"false", "true"}, *const truth[] = {"NO", "yes"};
    char measured[32], wanted[32] = "", number[32];
    bool reached = goal == GOAL_AT_MOST ? value <= limit : value >= limit;
    number_text(measured, value);
    if (goal) {
        number_text(number, limit);
        snprintf(wanted, sizeof(wanted), "%s%.20s", signs[goal], number);
        figures.with_goal++;
        figures.reached += reached;
    }
    const char *own = name + strspn(name, " ");
    if (own == name)
        snprintf(figures.above, sizeof(figures.above), "%s", name);
    if (bench_setup.json)
        printf("%s  {\"bench\": \"%s\", \"figure\": \"%s%s%s\", \"value\": %.6g, "
               "\"unit\": \"%s\", \"goal\": \"%s\", \"reached\": %s}",
               figures.count++ ? ",\n" : "[\n", figures.bench, own == name ? "" : figures.above,
               own == name ? "" : ": ", own, value, unit, wanted,
               goal ? json_truth[reached] : "null");
    else if (bench_setup.markdown)
        printf("| %s: %s%s%s | %s %s | %s | %s |\n", figures.bench,
               own == name ? "" : figures.above, own == name ? "" : ": ", own, measured, unit,
               wanted, goal ? truth[reached] : "");
    else
        printf("  %-56s %9s %-4s %-12s %s\n", name, measured, unit, wanted,
               goal ? truth[reached] : "");
    fflush(stdout);
}

void figure_spread(const char *name, struct samples *samples, const char *unit)
{
    static const struct {
        const char *name;
        double part;
    } parts[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        char text[128];
        snprintf(text, sizeof(text), "%s, %s", name, parts[i].name);
        figure(text, samples_at(samples, parts[i].part), unit, GOAL_NONE, 0);
    }
}

void figure_note(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fprintf(bench_setup.json || bench_setup.markdown ? stderr : stdout, "  (%s)\n", text);
}

void figures_end(void)
{
    if (bench_setup.json)
        printf("%s\n", figures.count ? "\n]" : "[]");
    else if (!bench_setup.markdown)
        printf("\n%u of %u goals reached\n", figures.reached, figures.with_goal);
}
