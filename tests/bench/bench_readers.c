/* Very many readers that wait for one result: what they cost the daemon, and when they all have it.
 */
#include "bench.h"
#include "mounts.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* OpenBLAS, which this program links, has thread-local data that counts too. */
#define STACK_BYTES 262144

static char result_path[512];

static void *reader_run(void *argument)
{
    char answer[2048];
    (void)argument;
    file_get(result_path, answer, sizeof(answer));
    return NULL;
}

/* readers_start starts as many as the machine allows. */
static size_t readers_start(pthread_t *threads, size_t wanted)
{
    pthread_attr_t small;
    size_t count = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_BYTES);
    while (count < wanted && pthread_create(&threads[count], &small, reader_run, NULL) == 0)
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
    pthread_t *threads = calloc(wanted, sizeof(*threads));
    if (!threads)
        bench_die("threads");
    mount_start_vgpufs(&mount, "readers", "durability = none\nvms = 1-2", "");
    mount_submit_and_read(&mount, 1, "NOP\n");
    mount_ctl(&mount, "hold A\n");
    file_puts(mount_path(&mount, "vm1/submit"), "NOP\n");
    snprintf(result_path, sizeof(result_path), "%s", mount_path(&mount, "vm1/result"));
    double before_kib = settled_kib(mount.pid);
    unsigned before_threads = process_threads(mount.pid);
    size_t count = readers_start(threads, wanted);
    if (count < wanted)
        figure_note("only %zu readers: the limit of threads, see ulimit -u", count);
    double kib = settled_kib(mount.pid) - before_kib;
    double more_threads = (double)process_threads(mount.pid) - before_threads;
    double start = bench_now_us();
    mount_ctl(&mount, "release A\n");
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    double took = bench_now_us() - start;
    figure("blocked readers", (double)count, "", GOAL_AT_LEAST, (double)wanted);
    figure("  threads of the daemon more", more_threads, "", GOAL_AT_MOST, 0);
    figure("  memory of the daemon for each", kib * 1024 / (double)count, "B", GOAL_AT_MOST, 2048);
    figure("  all have the result after", took / 1e6, "s", GOAL_AT_MOST, 1);
    free(threads);
    mount_stop(&mount);
}
