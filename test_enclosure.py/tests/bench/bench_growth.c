/* What it costs to enqueue, to start and to cancel a job when very many are queued already. */
#include "bench.h"
#include "mounts.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VM_OWN    1 /* whose jobs are measured */
#define VM_QUEUED 2 /* whose jobs make the queue long */

static const char queued_line[] = "NOP\n";

struct costs {
    struct samples enqueue, cancel, start; /* microseconds of one */
};

static void measure_enqueue_and_cancel(const struct mount *mount, size_t rounds,
                                       struct costs *costs)
{
    int submit = file_open(mount_path(mount, "vm%d/submit", VM_OWN), O_WRONLY);
    int ctl = file_open(mount_path(mount, "vm%d/ctl", VM_OWN), O_WRONLY);
    static unsigned tag;
    unsigned first = tag;
    char line[64];
    for (size_t i = 0; i < rounds; i++) {
        int size = snprintf(line, sizeof(line), "NOP tag=t%u\n", tag++);
        double start = bench_now_us();
        file_write(submit, line, (size_t)size);
        samples_add(&costs->enqueue, bench_now_us() - start);
    }
    for (size_t i = 0; i < rounds; i++) {
        /* From the middle, as a user's cancel comes. */
        unsigned which = first + (unsigned)((i + rounds / 2) % rounds);
        int size = snprintf(line, sizeof(line), "cancel t%u\n", which);
        double start = bench_now_us();
        file_write(ctl, line, (size_t)size);
        samples_add(&costs->cancel, bench_now_us() - start);
    }
    close(ctl);
    close(submit);
}

/* measure_start lets some of the queued jobs run; what one took counts, and is queued anew. */
static void measure_start(const struct mount *mount, size_t jobs, struct costs *costs)
{
    double before = mount_counter(mount, "pool A", "done"), start = bench_now_us(), done;
    mount_ctl(mount, "release A\n");
    do {
        bench_sleep_ms(1);
        done = mount_counter(mount, "pool A", "done") - before;
    } while (done < (double)jobs);
    samples_add(&costs->start, (bench_now_us() - start) / done);
    mount_ctl(mount, "hold A\n");
    while (mount_counter(mount, "pool A", "running") > 0)
        bench_sleep_ms(1);
    done = mount_counter(mount, "pool A", "done") - before;
    mount_submit_many(mount, VM_QUEUED, queued_line, (size_t)done);
}

static void print_growth(const char *name, struct samples *few, struct samples *many)
{
    char text[128];
    double cost_few = samples_at(few, 0.5), cost_many = samples_at(many, 0.5);
    snprintf(text, sizeof(text), "%s, 1,000 queued", name);
    figure(text, cost_few, "us", GOAL_NONE, 0);
    snprintf(text, sizeof(text), "%s, 1,000,000 queued", name);
    figure(text, cost_many, "us", GOAL_NONE, 0);
    figure("  growth", cost_many / cost_few, "x", GOAL_AT_MOST, 1.2);
}

static void costs_finish(struct costs *costs)
{
    samples_finish(&costs->enqueue);
    samples_finish(&costs->cancel);
    samples_finish(&costs->start);
}

/*
 * pin keeps this process, and what it starts from now on, on one processor: then a call costs what
 * it computes. On several, whether the daemon wakes where the client runs decides more than that.
 */
static void pin(cpu_set_t *before)
{
    cpu_set_t one;
    if (sched_getaffinity(0, sizeof(*before), before) < 0)
        bench_die("sched_getaffinity");
    CPU_ZERO(&one);
    for (int i = CPU_SETSIZE - 1; i >= 0 && CPU_COUNT(&one) == 0; i--)
        if (CPU_ISSET(i, before))
            CPU_SET(i, &one);
    if (sched_setaffinity(0, sizeof(one), &one) < 0)
        bench_die("sched_setaffinity");
}

/* through_syscalls: a mount with few queued and one with many take turns. */
static void through_syscalls(size_t many)
{
    const size_t few = 1000;
    struct mount short_one, long_one;
    struct costs on_short = {0}, on_long = {0};
    const char *settings = "durability = none\nvms = 1-2";
    cpu_set_t before;
    pin(&before);
    mount_start_vgpufs(&short_one, "few", settings, "");
    mount_start_vgpufs(&long_one, "many", settings, "");
    mount_ctl(&short_one, "hold A\n");
    mount_ctl(&long_one, "hold A\n");
    mount_submit_many(&short_one, VM_QUEUED, queued_line, few);
    double empty_kib = process_memory_kib(long_one.pid);
    mount_submit_many(&long_one, VM_QUEUED, queued_line, many);
    double bytes = (process_memory_kib(long_one.pid) - empty_kib) * 1024 / (double)many;
    for (size_t round = 0; round < bench_scale(20, 1); round++) {
        size_t rounds = bench_scale(200, 20);
        measure_enqueue_and_cancel(&short_one, rounds, &on_short);
        measure_enqueue_and_cancel(&long_one, rounds, &on_long);
        measure_start(&short_one, few / 2, &on_short);
        measure_start(&long_one, few / 2, &on_long);
    }
    print_growth("enqueue", &on_short.enqueue, &on_long.enqueue);
    print_growth("start and end", &on_short.start, &on_long.start);
    print_growth("cancel", &on_short.cancel, &on_long.cancel);
    figure("memory of a queued job, beyond its own text", bytes - (double)strlen(queued_line), "B",
           GOAL_AT_MOST, 256);
    costs_finish(&on_short);
    costs_finish(&on_long);
    mount_stop(&long_one);
    mount_stop(&short_one);
    sched_setaffinity(0, sizeof(before), &before);
}

/* instructions counts those of one queue operation by callgrind; 0 if that cannot be. */
static double instructions(const char *operation, size_t queued)
{
    char count[32], toggle[64], output[600], line[256];
    double collected = 0;
    snprintf(count, sizeof(count), "%zu", queued);
    snprintf(toggle, sizeof(toggle), "--toggle-collect=measured_%s", operation);
    snprintf(output, sizeof(output), "--log-file=%s", bench_path("callgrind"));
    if (program_run((const char *const[]){"valgrind", "--tool=callgrind",
                                          "--callgrind-out-file=/dev/null", toggle, output,
                                          bench_setup.queue, operation, count, NULL}) != 0)
        return 0;
    FILE *file = fopen(bench_path("callgrind"), "re");
    while (file && fgets(line, sizeof(line), file)) {
        const char *found = strstr(line, "Collected : ");
        if (found)
            collected = strtod(found + strlen("Collected : "), NULL);
    }
    if (file)
        fclose(file);
    return collected / 1000; /* bench_queue.c measures that many */
}

static void in_process(size_t many)
{
    static const char *const operations[] = {"enqueue", "dequeue", "cancel"};
    if (!program_exists("valgrind")) {
        figure_note("valgrind is not installed: Debian package valgrind");
        return;
    }
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        char text[128];
        double few = instructions(operations[i], 1000), at_many = instructions(operations[i], many);
        snprintf(text, sizeof(text), "%s in the queue, 1,000 queued", operations[i]);
        figure(text, few, "ins", GOAL_NONE, 0);
        snprintf(text, sizeof(text), "%s in the queue, 1,000,000 queued", operations[i]);
        figure(text, at_many, "ins", GOAL_NONE, 0);
        figure("  growth", at_many / few, "x", GOAL_AT_MOST, 1.3);
    }
}

void bench_growth(void)
{
    size_t many = bench_scale(990000, 3000); /* room for those that are measured */
    through_syscalls(many);
    in_process(many);
}
