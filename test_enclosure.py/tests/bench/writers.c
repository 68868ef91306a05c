#include "writers.h"

#include "bench.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define MAX_WRITERS 64

struct writer {
    const struct mount *mount;
    pthread_t thread;
    pthread_barrier_t *start;
    unsigned vm;
    size_t jobs;
    bool closing;
    double begun_us, ended_us;
};

static void *writer_run(void *argument)
{
    struct writer *writer = argument;
    char path[512];
    snprintf(path, sizeof(path), "%s", mount_path(writer->mount, "vm%u/submit", writer->vm));
    int file = file_open(path, O_WRONLY);
    pthread_barrier_wait(writer->start);
    writer->begun_us = bench_now_us();
    for (size_t i = 0; i < writer->jobs; i++)
        if (writer->closing)
            file_put(path, "NOP\n", 4);
        else
            file_write(file, "NOP\n", 4);
    writer->ended_us = bench_now_us();
    close(file);
    return NULL;
}

double writers_rate(const struct mount *mount, unsigned count, size_t jobs, bool closing)
{
    struct writer writers[MAX_WRITERS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, count);
    for (unsigned i = 0; i < count; i++) {
        writers[i] = (struct writer){
            .mount = mount, .start = &start, .vm = i + 1, .jobs = jobs, .closing = closing};
        if (pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]) != 0)
            bench_fail("cannot start %u writers", count);
    }
    double begun_us = 0, ended_us = 0;
    for (unsigned i = 0; i < count; i++) {
        pthread_join(writers[i].thread, NULL);
        begun_us = i == 0 || writers[i].begun_us < begun_us ? writers[i].begun_us : begun_us;
        ended_us = writers[i].ended_us > ended_us ? writers[i].ended_us : ended_us;
    }
    pthread_barrier_destroy(&start);
    return (double)(count * jobs) / (ended_us - begun_us) * 1e6;
}
