/* Very many readers that wait for one result: what they cost the daemon, and when they all have it.
 */
#include "bench.h"
#include "mounts.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* OpenBLAS, which this program links, has thread-local data that counts too. */
#define STACK_BYTES 262144

static char result_path[512];

struct reader {
    pthread_t thread;
    double answered_us;
};

static void *reader_run(void *argument)
{
    struct reader *reader = argument;
    char answer[2048];
    int file = file_open(result_path, O_RDONLY);
    if (read(file, answer, sizeof(answer)) <= 0)
        bench_die(result_path);
    reader->answered_us = bench_now_us();
    close(file);
    return NULL;
}

/* readers_start starts as many as the machine allows. */
static size_t readers_start(struct reader *readers, size_t wanted)
{
    pthread_attr_t small;
    size_t count = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_BYTES);
    while (count < wanted &&
           pthread_create(&readers[count].thread, &small, reader_run, &readers[count]) == 0)
        count++;
    pthread_attr_destroy(&small);
    return count;
}

/* settled waits until the daemon's memory no longer grows: then all readers have come. */
static double settled_kib(pid_t pid)
{
    double kib = process_memory_kib(pid), before;
    do {
        before = kib;
        bench_sleep_ms(500);
        kib = process_memory_kib(pid);
    } while (kib != before);
    return kib;
}

void bench_readers(void)
{
    struct mount mount;
    size_t wanted = bench_scale(10000, 50);
    struct reader *readers = calloc(wanted, sizeof(*readers));
    if (!readers)
        bench_die("readers");
    mount_start_vgpufs(&mount, "readers", "durability = none\nvms = 1-2", "");
    mount_submit_and_read(&mount, 1, "NOP\n");
    mount_ctl(&mount, "hold A\n");
    file_puts(mount_path(&mount, "vm1/submit"), "NOP\n");
    snprintf(result_path, sizeof(result_path), "%s", mount_path(&mount, "vm1/result"));
    double before_kib = settled_kib(mount.pid);
    unsigned before_threads = process_threads(mount.pid);
    size_t count = readers_start(readers, wanted);
    if (count < wanted)
        figure_note("only %zu readers: the limit of threads, see ulimit -u", count);
    double kib = settled_kib(mount.pid) - before_kib;
    double more_threads = (double)process_threads(mount.pid) - before_threads;
    double start = bench_now_us(), last = start;
    mount_ctl(&mount, "release A\n");
    for (size_t i = 0; i < count; i++) {
        pthread_join(readers[i].thread, NULL);
        last = readers[i].answered_us > last ? readers[i].answered_us : last;
    }
    figure("blocked readers", (double)count, "", GOAL_AT_LEAST, (double)wanted);
    figure("  threads of the daemon more", more_threads, "", GOAL_AT_MOST, 0);
    figure("  memory of the daemon for each", kib * 1024 / (double)count, "B", GOAL_AT_MOST, 2048);
    figure("  all have the result after", (last - start) / 1e6, "s", GOAL_AT_MOST, 1);
    free(readers);
    mount_stop(&mount);
}
