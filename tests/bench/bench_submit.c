/* How many lines a second are accepted. The pool is held: what is measured is the submitting. */
#include "bench.h"
#include "disk.h"
#include "mounts.h"
#include "writers.h"

#include <stdio.h>

#define ROUNDS 7

/* drain cancels what is queued, so that the next round finds an empty queue. */
static void drain(const struct mount *mount)
{
    for (unsigned vm = 1; vm <= 64; vm++)
        file_puts(mount_path(mount, "vm%u/ctl", vm), "cancel all\n");
    process_wait_rest(mount->pid); /* their ends are written, which is no part of submitting */
}

static void single_lines(const struct mount *mount, const struct mount *bottom, unsigned writers)
{
    struct samples ours = {0}, floor_rate = {0}, ratio = {0};
    char text[128];
    size_t jobs = bench_scale(24000, 240) / writers;
    for (size_t round = 0; round < bench_scale(ROUNDS, 1); round++) {
        double rate = writers_rate(mount, writers, jobs, false);
        double bottom_rate = writers_rate(bottom, writers, jobs, false);
        samples_add(&ours, rate);
        samples_add(&floor_rate, bottom_rate);
        samples_add(&ratio, rate / bottom_rate);
        drain(mount);
    }
    snprintf(text, sizeof(text), "single lines, %u writer%s", writers, writers > 1 ? "s" : "");
    figure(text, samples_at(&ours, 0.5), "/s", GOAL_NONE, 0);
    figure("  writes on the floor", samples_at(&floor_rate, 0.5), "/s", GOAL_NONE, 0);
    figure("  vgpufs / floor", samples_at(&ratio, 0.5), "x", GOAL_AT_LEAST, 0.8);
    samples_finish(&ours);
    samples_finish(&floor_rate);
    samples_finish(&ratio);
}

static void many_lines(const struct mount *mount)
{
    struct samples rate = {0}, journal = {0};
    size_t lines = bench_scale(200000, 2000);
    for (size_t round = 0; round < bench_scale(ROUNDS, 1); round++) {
        double start = bench_now_us();
        mount_submit_many(mount, 1, "NOP\n", lines);
        samples_add(&rate, (double)lines / (bench_now_us() - start) * 1e6);
        samples_add(&journal, (double)lines / (process_wait_rest(mount->pid) - start) * 1e6);
        drain(mount);
    }
    figure("lines in writes of 10,000", samples_at(&rate, 0.5), "/s", GOAL_AT_LEAST, 500000);
    figure("  until all of them are in the journal too", samples_at(&journal, 0.5), "/s", GOAL_NONE,
           0);
    samples_finish(&rate);
    samples_finish(&journal);
}

void bench_submit(void)
{
    struct mount mount, bottom;
    mount_start_vgpufs(&mount, "submit", "durability = none\nvms = 1-64", "");
    mount_start_floor(&bottom, "floor", 64);
    mount_ctl(&mount, "hold A\n");
    single_lines(&mount, &bottom, 1);
    single_lines(&mount, &bottom, 8);
    many_lines(&mount);
    mount_stop(&bottom);
    mount_stop(&mount);
}

/* Each line waits until it is on the disk; what a daemon that syncs each by itself would reach is
 * one fdatasync a line. What the floor reaches with these calls, and no disk, bounds both. */
void bench_durable(void)
{
    static const struct {
        unsigned writers;
        double goal;
    } rows[] = {{8, 4}, {64, 20}};
    struct mount mount, bottom;
    mount_start_floor(&bottom, "floor", 64);
    mount_start_vgpufs(&mount, "durable", "durability = sync\nvms = 1-64", "");
    mount_ctl(&mount, "hold A\n");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct samples ours = {0}, ratio = {0}, bottom_ratio = {0};
        char text[128];
        size_t jobs = bench_scale(16000, 128) / rows[i].writers;
        for (size_t round = 0; round < bench_scale(ROUNDS, 1); round++) {
            struct samples disk = {0};
            disk_sync(&disk, bench_scale(200, 5));
            double rate = writers_rate(&mount, rows[i].writers, jobs, true);
            double bottom_rate = writers_rate(&bottom, rows[i].writers, jobs, true);
            disk_sync(&disk, bench_scale(200, 5));
            samples_add(&ours, rate);
            samples_add(&bottom_ratio, bottom_rate * samples_at(&disk, 0.5) / 1e6);
            samples_add(&ratio, rate * samples_at(&disk, 0.5) / 1e6);
            samples_finish(&disk);
            drain(&mount);
        }
        snprintf(text, sizeof(text), "durable lines, %u writers", rows[i].writers);
        figure(text, samples_at(&ours, 0.5), "/s", GOAL_NONE, 0);
        figure("  against one fdatasync for each", samples_at(&ratio, 0.5), "x", GOAL_AT_LEAST,
               rows[i].goal);
        figure("  the same calls on the floor, against that", samples_at(&bottom_ratio, 0.5), "x",
               GOAL_NONE, 0);
        samples_finish(&ours);
        samples_finish(&ratio);
        samples_finish(&bottom_ratio);
    }
    mount_stop(&bottom);
    mount_stop(&mount);
}
