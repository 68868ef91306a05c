/* data/: a large file from one end to the other, as cat and cp move it. */
#include "bench.h"
#include "mounts.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK ((size_t)1 << 20)

static char block[BLOCK];

/* write_rate: MiB a second, with the file's close. */
static double write_rate(const char *path, size_t mib)
{
    unlink(path);
    int file = file_open(path, O_WRONLY | O_CREAT | O_TRUNC);
    double start = bench_now_us();
    for (size_t i = 0; i < mib; i++)
        file_write(file, block, BLOCK);
    close(file);
    return (double)mib / (bench_now_us() - start) * 1e6;
}

static double read_rate(const char *path, size_t mib)
{
    int file = file_open(path, O_RDONLY);
    double start = bench_now_us();
    for (size_t i = 0; i < mib; i++)
        if (read(file, block, BLOCK) != (ssize_t)BLOCK)
            bench_die(path);
    double rate = (double)mib / (bench_now_us() - start) * 1e6;
    close(file);
    return rate;
}

enum place { PLAIN, OURS, FLOOR, BINDFS, PLACES };

struct rates {
    struct samples rate[PLACES];
    struct samples of_plain, of_floor, of_bindfs; /* ours, divided by theirs in the same round */
    struct samples floor_of_plain;                /* the floor's */
};

static void rates_note(struct rates *rates, const double rate[PLACES])
{
    for (int place = 0; place < PLACES; place++)
        samples_add(&rates->rate[place], rate[place]);
    samples_add(&rates->of_plain, rate[OURS] / rate[PLAIN]);
    samples_add(&rates->of_floor, rate[OURS] / rate[FLOOR]);
    samples_add(&rates->floor_of_plain, rate[FLOOR] / rate[PLAIN]);
    if (rate[BINDFS] > 0)
        samples_add(&rates->of_bindfs, rate[OURS] / rate[BINDFS]);
}

static void rates_print(const char *what, struct rates *rates)
{
    char text[64];
    snprintf(text, sizeof(text), "data/, %s", what);
    figure(text, samples_at(&rates->rate[OURS], 0.5), "MiB/s", GOAL_NONE, 0);
    figure("  the backing filesystem", samples_at(&rates->rate[PLAIN], 0.5), "MiB/s", GOAL_NONE, 0);
    figure("  vgpufs / the backing filesystem", samples_at(&rates->of_plain, 0.5), "x",
           GOAL_AT_LEAST, 0.7);
    figure("  the floor, which has no bytes", samples_at(&rates->rate[FLOOR], 0.5), "MiB/s",
           GOAL_NONE, 0);
    figure("  the floor / the backing filesystem", samples_at(&rates->floor_of_plain, 0.5), "x",
           GOAL_NONE, 0);
    figure("  vgpufs / the floor", samples_at(&rates->of_floor, 0.5), "x", GOAL_NONE, 0);
    if (rates->of_bindfs.count) {
        figure("  bindfs", samples_at(&rates->rate[BINDFS], 0.5), "MiB/s", GOAL_NONE, 0);
        figure("  vgpufs / bindfs", samples_at(&rates->of_bindfs, 0.5), "x", GOAL_AT_LEAST, 1);
    }
    for (int place = 0; place < PLACES; place++)
        samples_finish(&rates->rate[place]);
    samples_finish(&rates->of_plain);
    samples_finish(&rates->of_floor);
    samples_finish(&rates->floor_of_plain);
    samples_finish(&rates->of_bindfs);
}

void bench_data(void)
{
    struct mount mount, bound, lowest;
    struct rates writing = {0}, reading = {0}, again = {0};
    char path[PLACES][512];
    size_t mib = bench_scale(1024, 8);
    bool has_bindfs = program_exists("bindfs");
    memset(block, 'v', sizeof(block));
    mkdir(bench_path("plain"), 0700);
    mkdir(bench_path("bound"), 0700);
    mount_start_vgpufs(&mount, "data", "vms = 1-2", "");
    mount_start_floor(&lowest, "floor", 1);
    if (has_bindfs)
        mount_start_bindfs(&bound, "bindfs", bench_path("bound"));
    else
        figure_note("bindfs is not installed: Debian package bindfs");
    snprintf(path[PLAIN], sizeof(path[0]), "%s", bench_path("plain/file"));
    snprintf(path[OURS], sizeof(path[0]), "%s", mount_path(&mount, "vm1/data/file"));
    snprintf(path[FLOOR], sizeof(path[0]), "%s", mount_path(&lowest, "vm1/file"));
    snprintf(path[BINDFS], sizeof(path[0]), "%s", bench_path("bindfs.mnt/file"));
    for (size_t round = 0; round < bench_scale(5, 1); round++) {
        double wrote[PLACES] = {0}, got[PLACES] = {0}, got_again[PLACES] = {0};
        sync(); /* no round pays for what the one before has left in memory */
        for (int place = 0; place < (has_bindfs ? PLACES : BINDFS); place++) {
            wrote[place] = write_rate(path[place], mib);
            got[place] = read_rate(path[place], mib);
            got_again[place] = read_rate(path[place], mib);
        }
        rates_note(&writing, wrote);
        rates_note(&reading, got);
        rates_note(&again, got_again);
    }
    rates_print("writing 1 GiB", &writing);
    rates_print("reading it", &reading);
    rates_print("reading it again", &again);
    if (has_bindfs)
        mount_stop(&bound);
    mount_stop(&lowest);
    mount_stop(&mount);
}
