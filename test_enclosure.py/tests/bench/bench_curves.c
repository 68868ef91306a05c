/* How the latency of a job grows: data for the figure in README.md, drawn by gnuplot. */
#include "bench.h"
#include "mounts.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS      200
#define QUEUE_LIMIT ((size_t)999000) /* room for the job that is measured */

/* spread_of prints one line of data: x, p50 and p99 of the six calls of a job in vm1. */
static void spread_of(FILE *data, const struct mount *mount, double x)
{
    struct samples samples = {0};
    for (size_t i = 0; i < bench_scale(ROUNDS, 5); i++) {
        double start = bench_now_us();
        mount_submit_and_read(mount, 1, "NOP\n");
        samples_add(&samples, bench_now_us() - start);
    }
    fprintf(data, "%g %g %g\n", x, samples_at(&samples, 0.5), samples_at(&samples, 0.99));
    samples_finish(&samples);
}

static FILE *data_open(const char *name)
{
    FILE *data = fopen(bench_path("%s.dat", name), "we");
    if (!data)
        bench_die(name);
    return data;
}

static void by_vms(void)
{
    FILE *data = data_open("vms");
    for (unsigned vms = 1; vms <= bench_scale(10000, 10); vms *= 10) {
        struct mount mount;
        char settings[64];
        snprintf(settings, sizeof(settings), "durability = none\nvms = 1-%u", vms);
        mount_start_vgpufs(&mount, "vms", settings, "");
        spread_of(data, &mount, vms);
        mount_stop(&mount);
    }
    fclose(data);
}

/* Another VM's jobs wait with a lower priority; the pool that they wait in is the job's. */
static void by_queue(void)
{
    FILE *data = data_open("queue");
    struct mount mount;
    size_t queued = 0;
    mount_start_vgpufs(&mount, "queue", "durability = none\nvms = 1-2",
                       "[vm 1]\npool = A\npriority = 2\n[vm 2]\npool = A\npriority = 0");
    mount_ctl(&mount, "hold vm2\n");
    for (size_t waiting = 1; waiting <= bench_scale(1000000, 100); waiting *= 10) {
        size_t wanted = waiting < QUEUE_LIMIT ? waiting : QUEUE_LIMIT;
        mount_submit_many(&mount, 2, "NOP\n", wanted - queued);
        queued = wanted;
        spread_of(data, &mount, (double)wanted);
    }
    mount_stop(&mount);
    fclose(data);
}

struct other {
    pthread_t thread;
    const struct mount *mount;
    unsigned vm;
};

static atomic_bool submitting;

static void *other_run(void *argument)
{
    const struct other *other = argument;
    while (atomic_load(&submitting))
        mount_submit_and_read(other->mount, other->vm, "NOP\n");
    return NULL;
}

static void by_writers(void)
{
    FILE *data = data_open("writers");
    struct mount mount;
    struct other others[64];
    mount_start_vgpufs(&mount, "writers", "durability = none\nvms = 1-64", "");
    for (unsigned writers = 1; writers <= bench_scale(64, 4); writers *= 2) {
        atomic_store(&submitting, true);
        for (unsigned i = 1; i < writers; i++) {
            others[i] = (struct other){.mount = &mount, .vm = i + 1};
            if (pthread_create(&others[i].thread, NULL, other_run, &others[i]) != 0)
                bench_fail("cannot start %u writers", writers);
        }
        spread_of(data, &mount, writers);
        atomic_store(&submitting, false);
        for (unsigned i = 1; i < writers; i++)
            pthread_join(others[i].thread, NULL);
    }
    mount_stop(&mount);
    fclose(data);
}

void bench_curves(void)
{
    const char *picture = getenv("BENCH_PICTURE"), *script = getenv("BENCH_GNUPLOT");
    char folder[600], output[600];
    by_vms();
    by_queue();
    by_writers();
    if (!picture || !script || !program_exists("gnuplot")) {
        figure_note("no picture: gnuplot is not installed, or BENCH_PICTURE is not set");
        return;
    }
    snprintf(folder, sizeof(folder), "folder='%s'", bench_path("."));
    snprintf(output, sizeof(output), "picture='%s'", picture);
    if (program_run((const char *const[]){"gnuplot", "-e", folder, "-e", output, script, NULL}) !=
        0)
        bench_fail("gnuplot does not draw %s", picture);
    figure_note("%s is drawn", picture);
}
