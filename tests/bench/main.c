/*
 * vgpufs-bench: what vgpufs costs, beside the floor and its peers, all measured
 * in one run.
 *
 * Prints; judges nothing: no time makes it fail.
 */
#include "bench.h"
#include "mounts.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bench benches[] = {
    {"latency", "one job from submission to result; the floor and peers", bench_latency},
    {"submit", "lines accepted a second", bench_submit},
    {"durable", "lines a second that are on the disk", bench_durable},
    {"through", "NOP jobs a second through one slot, and two pools", bench_through},
    {"growth", "enqueue, start, cancel with 1,000,000 queued; memory of a job", bench_growth},
    {"readers", "10,000 readers of one result", bench_readers},
    {"stats", "stats with 1,000 VMs and 1,000,000 jobs", bench_stats},
    {"idle", "1,000 VMs at rest", bench_idle},
    {"start", "start of the daemon to its first job", bench_start},
    {"data", "reading and writing data/; bindfs", bench_data},
    {"vector", "VECTOR_ADD against STREAM and cat", bench_vector},
    {"library", "MATRIX_MUL and FFT against OpenBLAS and FFTW", bench_library},
    {"flood", "a job of one VM while another one floods", bench_flood},
    {"curves", "latency against VMs, queue and clients, as a picture", bench_curves},
};

#define BENCHES (sizeof(benches) / sizeof(benches[0]))

static void list(FILE *to)
{
    for (size_t i = 0; i < BENCHES; i++)
        fprintf(to, "  %-9s %s\n", benches[i].name, benches[i].help);
}

static int usage(FILE *to)
{
    fputs("usage: vgpufs-bench --vgpufs=FILE --executor=FILE --floor=FILE --queue=FILE\n"
          "                    [--json | --markdown] [--smoke] [--list] [NAME...]\n\n"
          "  --json      print an array of figures instead of a table\n"
          "  --markdown  print the rows of a table for a README\n"
          "  --list      print the names\n"
          "  --smoke     a few rounds of each: see that they work, measure nothing\n\n",
          to);
    list(to);
    return to == stdout ? 0 : 2;
}

static const struct bench *find(const char *name)
{
    for (size_t i = 0; i < BENCHES; i++)
        if (strcmp(benches[i].name, name) == 0)
            return &benches[i];
    fprintf(stderr, "vgpufs-bench: there is no bench %s: see --help\n", name);
    exit(2);
}

static void run(const struct bench *bench)
{
    figures_begin(bench->name);
    bench_open();
    bench->run();
    bench_close();
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"vgpufs", required_argument, NULL, 'v'}, {"executor", required_argument, NULL, 'e'},
        {"floor", required_argument, NULL, 'f'},  {"queue", required_argument, NULL, 'q'},
        {"json", no_argument, NULL, 'j'},         {"markdown", no_argument, NULL, 'm'},
        {"smoke", no_argument, NULL, 's'},        {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},         {0},
    };
    const char **const programs[] = {&bench_setup.vgpufs, &bench_setup.executor, &bench_setup.floor,
                                     &bench_setup.queue};
    static const char letters[] = "vefq";
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        const char *found = strchr(letters, option);
        if (found)
            *programs[found - letters] = optarg;
        else if (option == 'j')
            bench_setup.json = true;
        else if (option == 'm')
            bench_setup.markdown = true;
        else if (option == 's')
            bench_setup.smoke = true;
        else if (option == 'l')
            return list(stdout), 0;
        else
            return usage(option == 'h' ? stdout : stderr);
    }
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
        if (!*programs[i])
            return usage(stderr);
    for (int i = optind; i < argc; i++)
        find(argv[i]);
    bench_catch_signals();
    for (int i = optind; i < argc; i++)
        run(find(argv[i]));
    for (size_t i = 0; i < BENCHES && optind == argc; i++)
        run(&benches[i]);
    figures_end();
    return 0;
}
