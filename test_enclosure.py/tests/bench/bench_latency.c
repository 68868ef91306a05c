/* One client, one job at a time: what a submission and its result cost, beside what others take. */
#include "bench.h"
#include "disk.h"
#include "mounts.h"
#include "peers.h"

#include <stdio.h>

#define CHUNK 50 /* rounds of one mount before it is the other's turn */

/* run_rounds adds the times of `rounds` jobs of one mount. */
static void run_rounds(const struct mount *mount, size_t rounds, struct samples *samples)
{
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        mount_submit_and_read(mount, 1, "NOP\n");
        samples_add(samples, bench_now_us() - start);
    }
}

static void print_peer(const char *name, void (*run)(struct samples *samples, size_t rounds),
                       size_t rounds, double ours_us, double at_least)
{
    struct samples samples = {0};
    char text[128];
    run(&samples, rounds);
    if (samples.count) {
        figure_spread(name, &samples, "us");
        snprintf(text, sizeof(text), "%s / vgpufs", name);
        figure(text, samples_at(&samples, 0.5) / ours_us, "x", at_least ? GOAL_AT_LEAST : GOAL_NONE,
               at_least);
    }
    samples_finish(&samples);
}

static void with_durability_none(const struct mount *bottom, size_t rounds)
{
    struct mount mount;
    struct samples ours = {0}, floor_us = {0};
    mount_start_vgpufs(&mount, "none", "durability = none\nvms = 1-3", "");
    run_rounds(&mount, CHUNK, &floor_us); /* neither counts: caches are filled */
    samples_finish(&floor_us);
    for (size_t done = 0; done < rounds; done += CHUNK) {
        run_rounds(&mount, CHUNK, &ours);
        run_rounds(bottom, CHUNK, &floor_us);
    }
    mount_stop(&mount);
    double p50 = samples_at(&ours, 0.5);
    figure_spread("submit to result of a NOP, durability none", &ours, "us");
    figure_spread("the same calls on the floor", &floor_us, "us");
    figure("vgpufs / floor, p50", p50 / samples_at(&floor_us, 0.5), "x", GOAL_AT_MOST, 1.3);
    print_peer("beanstalkd put, reserve, delete", peer_beanstalkd, rounds, p50, 0);
    print_peer("redis LPUSH, BRPOP", peer_redis, rounds, p50, 0);
    print_peer("task-spooler submit, wait", peer_spooler, bench_scale(100, 3), p50, 20);
    print_peer("files polled (50 ms, 1 s)", peer_polling, bench_scale(5, 1), p50, 0);
    samples_finish(&ours);
    samples_finish(&floor_us);
}

static void with_durability_sync(const struct mount *bottom, size_t rounds)
{
    struct mount mount;
    struct samples ours = {0}, floor_us = {0}, disk = {0};
    mount_start_vgpufs(&mount, "sync", "durability = sync\nvms = 1-3", "");
    for (size_t done = 0; done < rounds; done += CHUNK) {
        run_rounds(&mount, CHUNK, &ours);
        run_rounds(bottom, CHUNK, &floor_us);
        disk_sync(&disk, CHUNK);
    }
    mount_stop(&mount);
    double sync_us = samples_at(&disk, 0.5), bottom_us = samples_at(&floor_us, 0.5);
    figure_spread("submit to result of a NOP, durability sync", &ours, "us");
    figure_spread("one fdatasync", &disk, "us");
    figure("(vgpufs - floor) / fdatasync, p50", (samples_at(&ours, 0.5) - bottom_us) / sync_us, "x",
           GOAL_AT_MOST, 1.2);
    samples_finish(&ours);
    samples_finish(&floor_us);
    samples_finish(&disk);
}

void bench_latency(void)
{
    struct mount bottom;
    mount_start_floor(&bottom, "floor", 3);
    with_durability_none(&bottom, bench_scale(5000, CHUNK));
    with_durability_sync(&bottom, bench_scale(1000, CHUNK));
    mount_stop(&bottom);
}
