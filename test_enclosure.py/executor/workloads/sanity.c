/*
 * What an administrator runs first: allocates, writes, copies, computes and checks, one line of
 * output for each step, and says how fast that was. Every word is checked.
 */
#include "executor/array.h"
#include "executor/cuda/transfer.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What one thread takes at a time, and how many of these lie between two looks at the clock. */
#define PART_WORDS  ((uint64_t)8192)
#define CHUNK_PARTS ((uint64_t)128)
/* Multiply-adds for each word when computing. */
#define ROUNDS SANITY_ROUNDS
#define ADVICE "take a smaller mib="

struct sanity {
    struct job *job;
    uint64_t words, parts, key;
    uint64_t *from, *to;
    uint64_t first_part;         /* of those being worked on */
    uint64_t wrong[CHUNK_PARTS]; /* words, of each part of the chunk */
    double done;
};

struct part {
    size_t count;
    uint64_t first, *from, *to, *wrong;
};

static struct part part_at(struct sanity *sanity, size_t index)
{
    uint64_t first = (sanity->first_part + index) * PART_WORDS, left = sanity->words - first;
    return (struct part){.count = (size_t)(left < PART_WORDS ? left : PART_WORDS),
                         .first = first,
                         .from = sanity->from + first,
                         .to = sanity->to + first,
                         .wrong = &sanity->wrong[index]};
}

/* The first write to a page is when the system provides it. */
static void allocate_part(void *context, size_t index)
{
    struct part part = part_at(context, index);
    memset(part.from, 0xff, part.count * sizeof(uint64_t));
    memset(part.to, 0xff, part.count * sizeof(uint64_t));
}

static void write_part(void *context, size_t index)
{
    const struct sanity *sanity = context;
    struct part part = part_at(context, index);
    for (size_t i = 0; i < part.count; i++)
        part.from[i] = generate_bits(sanity->key, part.first + i);
}

static void copy_part(void *context, size_t index)
{
    struct part part = part_at(context, index);
    memcpy(part.to, part.from, part.count * sizeof(uint64_t));
}

static void check_part(void *context, size_t index)
{
    const struct sanity *sanity = context;
    struct part part = part_at(context, index);
    for (size_t i = 0; i < part.count; i++)
        *part.wrong += part.to[i] != generate_bits(sanity->key, part.first + i);
}

/*
 * compute_part: x = x / 2 + x0 / 2 gives x0 again and again. With ten digits each step is exact in
 * float64, fused or not; that x0 comes from memory keeps the compiler from knowing it.
 */
static void compute_part(void *context, size_t index)
{
    struct part part = part_at(context, index);
    double start[64], x[64];
    const size_t lanes = sizeof(x) / sizeof(x[0]);
    for (size_t first = 0; first < part.count; first += lanes) {
        for (size_t i = 0; i < lanes; i++)
            x[i] = start[i] = 1 + (double)(int)(part.to[first + i] % 1024) * 0x1p-10;
        for (int round = 0; round < ROUNDS; round++)
            for (size_t i = 0; i < lanes; i++)
                x[i] = x[i] * 0.5 + start[i] * 0.5;
        for (size_t i = 0; i < lanes; i++)
            *part.wrong += x[i] != start[i];
    }
}

/* In this order. `bytes` and `operations`: what is moved or computed for each word. */
static const struct step {
    const char *name;
    parallel_work *work;
    uint64_t bytes, operations;
} steps[] = {
    {"allocate", allocate_part, 2 * sizeof(uint64_t), 0},
    {"write", write_part, sizeof(uint64_t), 0},
    {"copy", copy_part, 2 * sizeof(uint64_t), 0},
    {"check", check_part, sizeof(uint64_t), 0},
    {"compute", compute_part, 0, UINT64_C(3) * ROUNDS},
};
#define STEPS (sizeof(steps) / sizeof(steps[0]))

/* print_step: `bytes` or `operations` for each word, the other is 0. */
static void print_step(struct job *job, const char *name, uint64_t bytes, uint64_t operations,
                       uint64_t words, uint64_t ns, uint64_t wrong)
{
    double per_ns = (double)words / (double)(ns ? ns : 1);
    job_printf(job, "step=%s result=%s wrong_words=%" PRIu64 " us=%" PRIu64, name,
               wrong ? "failed" : "ok", wrong, ns / 1000);
    if (bytes)
        job_printf(job, " gb_per_s=%.3g\n", per_ns * (double)bytes);
    else
        job_printf(job, " gflop_per_s=%.3g\n", per_ns * (double)operations);
}

/* run_step: -1 and the job should stop; else *wrong words were found. */
static int run_step(struct sanity *sanity, const struct step *step, uint64_t *wrong)
{
    uint64_t ns = 0;
    *wrong = 0;
    for (sanity->first_part = 0; sanity->first_part < sanity->parts;
         sanity->first_part += CHUNK_PARTS) {
        uint64_t left = sanity->parts - sanity->first_part;
        size_t here = (size_t)(left < CHUNK_PARTS ? left : CHUNK_PARTS);
        double part = (double)sanity->first_part / (double)sanity->parts;
        if (job_step(sanity->job, sanity->done + part / (double)STEPS) < 0)
            return -1;
        memset(sanity->wrong, 0, sizeof(sanity->wrong));
        uint64_t start = job_clock_ns();
        parallel_run(here, step->work, sanity);
        ns += job_clock_ns() - start;
        for (size_t i = 0; i < here; i++)
            *wrong += sanity->wrong[i];
    }
    sanity->done += 1 / (double)STEPS;
    if (step->work == compute_part || step->work == check_part)
        sanity->job->compute_ns += ns;
    else
        sanity->job->copy_ns += ns;
    print_step(sanity->job, step->name, step->bytes, step->operations, sanity->words, ns, *wrong);
    return 0;
}

static int fail_step(struct job *job, const char *name)
{
    job_fail(job, "the step %s found wrong numbers: the device cannot be trusted", name);
    return -1;
}

/* run_steps goes on after a failed step, whose first is named in the job's error. */
static int run_steps(struct sanity *sanity)
{
    const char *failed = NULL;
    for (size_t i = 0; i < STEPS; i++) {
        uint64_t wrong;
        if (run_step(sanity, &steps[i], &wrong) < 0)
            return -1;
        if (wrong && !failed)
            failed = steps[i].name;
    }
    return failed ? fail_step(sanity->job, failed) : 0;
}

static const struct workload_param sanity_params[] = {
    {.name = "mib",
     .type = PARAM_UINT,
     .min = 1,
     .max = ARRAY_MAX_BYTES >> 21,
     .default_value = "64",
     .help = "How much memory is copied, in MiB; twice that is used."},
};

static int sanity_check(struct job *job)
{
    return array_check_memory(job, job_uint(job, "mib") << 21, ADVICE);
}

static enum job_status print_end(struct job *job, size_t processors)
{
    job_printf(job, "result=ok mib=%" PRIu64 " processors=%zu", job_uint(job, "mib"), processors);
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status sanity_run(struct job *job)
{
    uint64_t bytes = job_uint(job, "mib") << 20;
    struct sanity sanity = {
        .job = job, .words = bytes / sizeof(uint64_t), .key = generate_key(1, 0)};
    sanity.parts = (sanity.words + PART_WORDS - 1) / PART_WORDS;
    sanity.from = array_allocate(job, bytes, ADVICE);
    sanity.to = array_allocate(job, bytes, ADVICE);
    int result = sanity.from && sanity.to ? run_steps(&sanity) : -1;
    free(sanity.from);
    free(sanity.to);
    return result < 0 ? job_end(job) : print_end(job, parallel_threads());
}

/* --- cuda --------------------------------------------------------------------------------------
 */

struct device_sanity {
    struct job *job;
    uint64_t words, key;
    CUdeviceptr from, to, wrong; /* wrong: a count of words */
    uint64_t wrong_on_host;
    double done;
};

static int run_kernel(struct device_sanity *sanity, enum kernel_name kernel, uint64_t elements,
                      void **arguments)
{
    return device_run_array(sanity->job, kernel, elements, arguments);
}

static int clear_words(struct device_sanity *sanity, CUdeviceptr to, uint64_t bytes)
{
    void *arguments[] = {&to, &bytes};
    return run_kernel(sanity, KERNEL_clear, bytes / 16, arguments);
}

static int device_allocate_step(struct device_sanity *sanity)
{
    uint64_t bytes = sanity->words * sizeof(uint64_t), start = job_clock_ns();
    if (device_allocate(sanity->job, bytes, &sanity->from) < 0 ||
        device_allocate(sanity->job, bytes, &sanity->to) < 0 ||
        device_allocate(sanity->job, sizeof(uint64_t), &sanity->wrong) < 0)
        return -1;
    sanity->job->copy_ns += job_clock_ns() - start;
    return clear_words(sanity, sanity->from, bytes) < 0 ? -1
                                                        : clear_words(sanity, sanity->to, bytes);
}

static int device_write_step(struct device_sanity *sanity)
{
    void *arguments[] = {&sanity->from, &sanity->key, &sanity->words};
    return run_kernel(sanity, KERNEL_sanity_write, sanity->words, arguments);
}

static int device_copy_step(struct device_sanity *sanity)
{
    void *arguments[] = {&sanity->from, &sanity->to, &sanity->words};
    return run_kernel(sanity, KERNEL_sanity_copy, sanity->words / 2, arguments);
}

static int device_check_step(struct device_sanity *sanity)
{
    void *arguments[] = {&sanity->to, &sanity->key, &sanity->words, &sanity->wrong};
    return run_kernel(sanity, KERNEL_sanity_check, sanity->words, arguments);
}

static int device_compute_step(struct device_sanity *sanity)
{
    void *arguments[] = {&sanity->to, &sanity->words, &sanity->wrong};
    return run_kernel(sanity, KERNEL_sanity_compute, sanity->words, arguments);
}

/* through_host copies a lane's staging after the other, to the host or from it, one at a time: so
 * that words are made and compared while nothing is measured. */
static int through_host(struct device_sanity *sanity, bool out)
{
    struct job *job = sanity->job;
    struct device_lane *lane = &device.lanes[0];
    uint64_t *words = (void *)lane->staging;
    const uint64_t most = DEVICE_STAGING_BYTES / sizeof(uint64_t);
    for (uint64_t first = 0; first < sanity->words; first += most) {
        uint64_t left = sanity->words - first, here = left < most ? left : most;
        size_t bytes = (size_t)here * sizeof(uint64_t);
        CUdeviceptr at = (out ? sanity->from : sanity->to) + first * sizeof(uint64_t);
        if (job_step(job, sanity->done) < 0)
            return -1;
        for (uint64_t i = 0; i < here && !out; i++)
            words[i] = generate_bits(sanity->key, first + i);
        if (device_mark(job, lane, MARK_BEGIN) < 0 ||
            (out ? device_copy_out(job, lane, words, at, bytes)
                 : device_copy_in(job, lane, at, words, bytes)) < 0 ||
            device_mark(job, lane, out ? MARK_STORED : MARK_LOADED) < 0 ||
            device_wait(job, lane) < 0)
            return -1;
        for (uint64_t i = 0; i < here && out; i++)
            sanity->wrong_on_host += words[i] != generate_bits(sanity->key, first + i);
    }
    return 0;
}

static int device_out_step(struct device_sanity *sanity)
{
    return through_host(sanity, true);
}

static int device_in_step(struct device_sanity *sanity)
{
    sanity->key = generate_key(1, 1); /* other words, or what is there already would do */
    return through_host(sanity, false);
}

/* In this order; the words that came from the host are checked by the device again. */
static const struct device_step {
    const char *name;
    int (*run)(struct device_sanity *sanity);
    uint64_t bytes, operations;
} device_steps[] = {
    {"allocate", device_allocate_step, 2 * sizeof(uint64_t), 0},
    {"write", device_write_step, sizeof(uint64_t), 0},
    {"copy", device_copy_step, 2 * sizeof(uint64_t), 0},
    {"check", device_check_step, sizeof(uint64_t), 0},
    {"compute", device_compute_step, 0, UINT64_C(3) * ROUNDS},
    {"copy_out", device_out_step, sizeof(uint64_t), 0},
    {"copy_in", device_in_step, sizeof(uint64_t), 0},
    {"check_in", device_check_step, sizeof(uint64_t), 0},
};
#define DEVICE_STEPS (sizeof(device_steps) / sizeof(device_steps[0]))

/* run_device_step: -1 and the job has failed or should stop; else *wrong words were found. */
static int run_device_step(struct device_sanity *sanity, const struct device_step *step,
                           uint64_t *wrong)
{
    struct job *job = sanity->job;
    if (sanity->wrong && clear_words(sanity, sanity->wrong, sizeof(*wrong)) < 0)
        return -1;
    uint64_t before = job->compute_ns + job->copy_ns;
    sanity->wrong_on_host = 0;
    if (job_step(job, sanity->done) < 0 || step->run(sanity) < 0)
        return -1;
    uint64_t ns = job->compute_ns + job->copy_ns - before;
    /* The counter does not exist before the first step has run. */
    *wrong = 0;
    if (step != device_steps && device_fetch(job, wrong, sanity->wrong, sizeof(*wrong)) < 0)
        return -1;
    *wrong += sanity->wrong_on_host;
    sanity->done += 1 / (double)DEVICE_STEPS;
    print_step(job, step->name, step->bytes, step->operations, sanity->words, ns, *wrong);
    return 0;
}

static enum job_status sanity_cuda(struct job *job)
{
    struct device_sanity sanity = {.job = job,
                                   .words = (job_uint(job, "mib") << 20) / sizeof(uint64_t),
                                   .key = generate_key(1, 0)};
    const char *failed = NULL;
    for (size_t i = 0; i < DEVICE_STEPS; i++) {
        uint64_t wrong;
        if (run_device_step(&sanity, &device_steps[i], &wrong) < 0)
            return job_end(job);
        if (wrong && !failed)
            failed = device_steps[i].name;
    }
    if (failed) {
        fail_step(job, failed);
        return JOB_FAILED;
    }
    return print_end(job, device.multiprocessors);
}

const struct workload workload_sanity = {
    .info = {.name = "SANITY",
             .summary = "Allocates, copies, computes and checks: the first thing to run.",
             .params = sanity_params,
             .param_count = sizeof(sanity_params) / sizeof(sanity_params[0])},
    .check = sanity_check,
    .cpu = sanity_run,
    .cuda = sanity_cuda,
};
