/*
 * What jobs compute on the cpu, against the same arithmetic without a job
 * around it, on as many threads. Each ratio is of one round: both sides run
 * within a second of each other.
 */
#include "bench.h"
#include "mounts.h"

#include <cblas.h>
#include <fcntl.h>
#include <fftw3.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_THREADS 256
#define MIB         ((size_t)1 << 20)

/* job_run runs one job in vm1; the figures of its result. */
struct job_times {
    double run_us, compute_us;
};

static double result_number(const char *answer, const char *key)
{
    const char *found = strstr(answer, key);
    if (!found || strncmp(answer, "status=done", 11) != 0)
        bench_fail("no %s in %s", key, answer);
    return strtod(found + strlen(key), NULL);
}

static struct job_times job_run(const struct mount *mount, const char *line)
{
    char answer[4096];
    file_puts(mount_path(mount, "vm1/submit"), line);
    file_get(mount_path(mount, "vm1/result"), answer, sizeof(answer));
    return (struct job_times){result_number(answer, " run_us="),
                              result_number(answer, " compute_us=")};
}

/* numbers_write makes a file of float32 numbers between 0 and 1. */
static void numbers_write(const char *path, size_t count)
{
    static float block[MIB / sizeof(float)];
    const size_t most = sizeof(block) / sizeof(block[0]);
    for (size_t i = 0; i < most; i++)
        block[i] = (float)(i % 1009) / 1009;
    int file = file_open(path, O_WRONLY | O_CREAT | O_TRUNC);
    for (size_t done = 0; done < count; done += most)
        file_write(file, block, (count - done < most ? count - done : most) * sizeof(float));
    close(file);
}

/* STREAM's add (McCalpin, "Memory Bandwidth and Machine Balance"): c = a + b on all processors. */

struct part {
    pthread_t thread;
    const float *a, *b;
    float *c;
    size_t count;
};

static void *part_add(void *argument)
{
    const struct part *part = argument;
    const float *restrict a = part->a, *restrict b = part->b;
    float *restrict c = part->c;
    for (size_t i = 0; i < part->count; i++)
        c[i] = a[i] + b[i];
    return NULL;
}

static unsigned processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

static double stream_add_us(const float *a, const float *b, float *c, size_t count)
{
    struct part parts[MAX_THREADS];
    unsigned threads = processors() < MAX_THREADS ? processors() : MAX_THREADS;
    double start = bench_now_us();
    for (unsigned i = 0; i < threads; i++) {
        size_t first = count * i / threads, end = count * (i + 1) / threads;
        parts[i] =
            (struct part){.a = a + first, .b = b + first, .c = c + first, .count = end - first};
        if (pthread_create(&parts[i].thread, NULL, part_add, &parts[i]) != 0)
            bench_fail("cannot start %u threads", threads);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(parts[i].thread, NULL);
    return bench_now_us() - start;
}

static float *numbers(size_t count)
{
    float *data = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!data)
        bench_die("memory");
    for (size_t i = 0; i < count; i++)
        data[i] = (float)(i % 1009) / 1009;
    return data;
}

/* cat_us: how long `cat a b > c` takes in the run's folder. */
static double cat_us(void)
{
    char command[2048];
    unlink(bench_path("plain/c"));
    snprintf(command, sizeof(command), "cat '%s' '%s' > '%s'", bench_path("plain/a"),
             bench_path("plain/b"), bench_path("plain/c"));
    double start = bench_now_us();
    if (program_run((const char *const[]){"sh", "-c", command, NULL}) != 0)
        bench_fail("%s does not work", command);
    return bench_now_us() - start;
}

void bench_vector(void)
{
    struct mount mount;
    struct samples made_up = {0}, compute = {0}, files = {0}, ours = {0}, theirs = {0};
    size_t count = bench_scale((size_t)64 << 20, 1 << 16);
    char line[128];
    float *a = numbers(count), *b = numbers(count), *c = numbers(count);
    mkdir(bench_path("plain"), 0700);
    numbers_write(bench_path("plain/a"), count);
    numbers_write(bench_path("plain/b"), count);
    mount_start_vgpufs(&mount, "vector", "vms = 1-2", "");
    numbers_write(mount_path(&mount, "vm1/data/a"), count);
    numbers_write(mount_path(&mount, "vm1/data/b"), count);
    snprintf(line, sizeof(line), "VECTOR_ADD n=%zu\n", count);
    for (size_t round = 0; round < bench_scale(5, 1); round++) {
        sync(); /* no round pays for what the one before has left in memory */
        double before = stream_add_us(a, b, c, count);
        struct job_times of_files = job_run(&mount, "VECTOR_ADD a=a b=b out=c\n");
        double copying = cat_us();
        struct job_times of_made_up = job_run(&mount, line);
        double stream = (before + stream_add_us(a, b, c, count)) / 2;
        samples_add(&ours, of_files.compute_us);
        samples_add(&theirs, stream);
        samples_add(&compute, stream / of_files.compute_us);
        samples_add(&made_up, of_made_up.compute_us);
        samples_add(&files, copying / of_files.run_us);
    }
    figure("VECTOR_ADD, 64 Mi from files: compute_us", samples_at(&ours, 0.5), "us", GOAL_NONE, 0);
    figure("  a STREAM add", samples_at(&theirs, 0.5), "us", GOAL_NONE, 0);
    figure("  its speed / STREAM's", samples_at(&compute, 0.5), "x", GOAL_AT_LEAST, 0.9);
    figure("  the job's speed / that of cat a b > c", samples_at(&files, 0.5), "x", GOAL_AT_LEAST,
           0.8);
    figure("VECTOR_ADD, 64 Mi made up: compute_us", samples_at(&made_up, 0.5), "us", GOAL_NONE, 0);
    samples_finish(&made_up);
    samples_finish(&compute);
    samples_finish(&files);
    samples_finish(&ours);
    samples_finish(&theirs);
    free(a);
    free(b);
    free(c);
    mount_stop(&mount);
}

/* The libraries called directly. */

static double sgemm_us(const float *a, const float *b, float *c, int side)
{
    double start = bench_now_us();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, side, side, side, 1.0F, a, side, b, side,
                0.0F, c, side);
    return bench_now_us() - start;
}

static void matrices(const struct mount *mount)
{
    struct samples speed = {0};
    int side = (int)bench_scale(3072, 64);
    size_t count = (size_t)side * (size_t)side;
    char line[128];
    float *a = numbers(count), *b = numbers(count), *c = numbers(count);
    numbers_write(mount_path(mount, "vm1/data/a"), count);
    numbers_write(mount_path(mount, "vm1/data/b"), count);
    snprintf(line, sizeof(line), "MATRIX_MUL a=a b=b m=%d n=%d k=%d\n", side, side, side);
    sgemm_us(a, b, c, side);
    for (size_t round = 0; round < bench_scale(9, 1); round++) {
        double before = sgemm_us(a, b, c, side);
        double ours = job_run(mount, line).compute_us;
        samples_add(&speed, (before + sgemm_us(a, b, c, side)) / 2 / ours);
    }
    figure("MATRIX_MUL 3072, verified, speed / cblas_sgemm", samples_at(&speed, 0.5), "x",
           GOAL_AT_LEAST, 0.95);
    samples_finish(&speed);
    free(a);
    free(b);
    free(c);
}

struct transforms {
    pthread_t thread;
    fftwf_plan plan;
    fftwf_complex *in, *out;
    size_t n, count;
};

static void *transforms_run(void *argument)
{
    const struct transforms *part = argument;
    for (size_t i = 0; i < part->count; i++)
        fftwf_execute_dft(part->plan, part->in + i * part->n, part->out + i * part->n);
    return NULL;
}

/* transforms_us: all of them, on all processors. */
static double transforms_us(fftwf_plan plan, fftwf_complex *in, fftwf_complex *out, size_t n,
                            size_t batch)
{
    struct transforms parts[MAX_THREADS];
    unsigned threads = processors() < MAX_THREADS ? processors() : MAX_THREADS;
    double start = bench_now_us();
    for (unsigned i = 0; i < threads; i++) {
        size_t first = batch * i / threads, end = batch * (i + 1) / threads;
        parts[i] = (struct transforms){.plan = plan,
                                       .in = in + first * n,
                                       .out = out + first * n,
                                       .n = n,
                                       .count = end - first};
        if (pthread_create(&parts[i].thread, NULL, transforms_run, &parts[i]) != 0)
            bench_fail("cannot start %u threads", threads);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(parts[i].thread, NULL);
    return bench_now_us() - start;
}

static void transforms(const struct mount *mount)
{
    struct samples there = {0}, and_back = {0};
    size_t n = 4096, batch = bench_scale(8192, 4);
    char line[128];
    fftwf_complex *in = (fftwf_complex *)numbers(2 * n * batch);
    fftwf_complex *out = (fftwf_complex *)numbers(2 * n * batch);
    fftwf_plan forward = fftwf_plan_dft_1d((int)n, in, out, FFTW_FORWARD, FFTW_ESTIMATE);
    fftwf_plan inverse = fftwf_plan_dft_1d((int)n, out, in, FFTW_BACKWARD, FFTW_ESTIMATE);
    numbers_write(mount_path(mount, "vm1/data/x"), 2 * n * batch);
    snprintf(line, sizeof(line), "FFT a=x n=%zu batch=%zu\n", n, batch);
    for (size_t round = 0; round < bench_scale(9, 1); round++) {
        double one = transforms_us(forward, in, out, n, batch);
        double ours = job_run(mount, line).compute_us;
        double two = transforms_us(inverse, out, in, n, batch);
        samples_add(&there, one / ours);
        samples_add(&and_back, (one + two) / ours);
    }
    figure("FFT 4096, verified by the inverse, speed / FFTW there", samples_at(&there, 0.5), "x",
           GOAL_NONE, 0);
    figure("  speed / FFTW there and back", samples_at(&and_back, 0.5), "x", GOAL_AT_LEAST, 0.95);
    samples_finish(&there);
    samples_finish(&and_back);
    fftwf_destroy_plan(forward);
    fftwf_destroy_plan(inverse);
    free(in);
    free(out);
}

void bench_library(void)
{
    struct mount mount;
    mount_start_vgpufs(&mount, "library", "vms = 1-2", "");
    matrices(&mount);
    transforms(&mount);
    mount_stop(&mount);
}
