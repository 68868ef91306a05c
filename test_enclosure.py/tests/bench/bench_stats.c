/* `stats` with very many jobs queued, and what its readers cost who submits. */
#include "bench.h"
#include "mounts.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define VMS 1000

static void read_stats(const struct mount *mount, size_t rounds, struct samples *samples)
{
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        file_get(mount_path(mount, "stats"), NULL, 0);
        samples_add(samples, bench_now_us() - start);
    }
}

static atomic_bool reading;

static void *reader_run(void *argument)
{
    const struct mount *mount = argument;
    while (atomic_load(&reading))
        file_get(mount_path(mount, "stats"), NULL, 0);
    return NULL;
}

static void submit(const struct mount *mount, size_t rounds, struct samples *samples)
{
    int file = file_open(mount_path(mount, "vm1/submit"), O_WRONLY);
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        file_write(file, "NOP\n", 4);
        samples_add(samples, bench_now_us() - start);
        bench_sleep_ms(1);
    }
    close(file);
}

/* A reader that computes as much as one of `stats` delays as much by taking a processor; so the
 * submitter is compared with itself beside a reader of another mount. */
static void submit_beside_reader(const struct mount *mount, struct mount *read, size_t rounds,
                                 struct samples *samples)
{
    pthread_t reader;
    atomic_store(&reading, true);
    if (pthread_create(&reader, NULL, reader_run, read) != 0)
        bench_fail("cannot start a reader");
    submit(mount, rounds, samples);
    atomic_store(&reading, false);
    pthread_join(reader, NULL);
}

void bench_stats(void)
{
    struct mount empty, full;
    struct samples of_empty = {0}, of_full = {0}, beside_other = {0}, beside_own = {0};
    size_t each = bench_scale(990, 5);
    mount_start_vgpufs(&empty, "empty", "durability = none\nvms = 1-1000", "");
    mount_start_vgpufs(&full, "full", "durability = none\nvms = 1-1000", "");
    mount_ctl(&full, "hold A\n");
    for (unsigned vm = 1; vm <= VMS; vm++)
        mount_submit_many(&full, vm, "NOP\n", each);
    for (size_t round = 0; round < bench_scale(10, 1); round++) {
        read_stats(&empty, bench_scale(20, 2), &of_empty);
        read_stats(&full, bench_scale(20, 2), &of_full);
        submit_beside_reader(&full, &empty, bench_scale(200, 5), &beside_other);
        submit_beside_reader(&full, &full, bench_scale(200, 5), &beside_own);
    }
    figure("read of stats, 1,000 VMs, none queued", samples_at(&of_empty, 0.5), "us", GOAL_NONE, 0);
    figure("read of stats, 1,000 VMs, 990,000 queued", samples_at(&of_full, 0.5), "us", GOAL_NONE,
           0);
    figure("  growth", samples_at(&of_full, 0.5) / samples_at(&of_empty, 0.5), "x", GOAL_AT_MOST,
           2);
    figure_spread("submission beside a reader of another mount's stats", &beside_other, "us");
    figure_spread("submission beside a reader of its own stats", &beside_own, "us");
    figure("  own / other, p99", samples_at(&beside_own, 0.99) / samples_at(&beside_other, 0.99),
           "x", GOAL_AT_MOST, 1.5);
    samples_finish(&of_empty);
    samples_finish(&of_full);
    samples_finish(&beside_other);
    samples_finish(&beside_own);
    mount_stop(&full);
    mount_stop(&empty);
}
