/*
 * Pi from random points in the unit square: 4 times the share of those inside the circle. The
 * points are those of points.h, of which every backend counts the same.
 */
#include "executor/cuda/device.h"
#include "executor/parallel.h"
#include "executor/points.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Points of one part, and parts between two looks at the clock: some 20 ms on one processor. */
#define PART_POINTS ((uint64_t)1 << 16)
#define CHUNK_PARTS ((size_t)64)
#define PI          3.14159265358979323846
/* A right result is that many standard deviations off once in 10^11 runs. */
#define MOST_DEVIATIONS 7

struct points {
    uint64_t first, count; /* of the chunk; first is even */
    uint32_t key0, key1;
    uint64_t inside[CHUNK_PARTS];
};

static void count_part(void *context, size_t index)
{
    struct points *points = context;
    uint64_t skipped = index * PART_POINTS, left = points->count - skipped;
    uint32_t pairs = (uint32_t)((left < PART_POINTS ? left : PART_POINTS) / 2), outside = 0;
    /* Parts begin at multiples of PART_POINTS: within one, the low word does not overflow. */
    uint64_t first = (points->first + skipped) / 2;
    uint32_t low = (uint32_t)first, high = (uint32_t)(first >> 32);
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t words[4] = {low + i, high, 0, 0};
        philox(words, points->key0, points->key1);
        outside += point_is_outside(words[0], words[1]) + point_is_outside(words[2], words[3]);
    }
    points->inside[index] = 2 * (uint64_t)pairs - outside;
    if (left < PART_POINTS && left % 2) { /* the last point has no neighbour */
        uint32_t words[4];
        point_pair(first + pairs, points->key0, points->key1, words);
        points->inside[index] += 1 - point_is_outside(words[0], words[1]);
    }
}

/*
 * count_again counts the first part once more, point by point and in floating point. The squares of
 * 31 bits and their sum are exact in a long double of 64 bits, and where it has fewer they are off
 * by less than one point in 10^15.
 */
static uint64_t count_again(const struct points *points)
{
    uint64_t count = points->count < PART_POINTS ? points->count : PART_POINTS, inside = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t words[4];
        point_pair((points->first + i) / 2, points->key0, points->key1, words);
        long double x = (long double)(words[i % 2 * 2] >> 1) * 0x1p-31L;
        long double y = (long double)(words[i % 2 * 2 + 1] >> 1) * 0x1p-31L;
        inside += x * x + y * y < 1;
    }
    return inside;
}

static const struct workload_param monte_carlo_pi_params[] = {
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = (uint64_t)1 << 40,
     .default_value = "16777216",
     .help = "How many points."},
    {.name = "seed",
     .type = PARAM_UINT,
     .max = UINT64_MAX,
     .default_value = "1",
     .help = "Which points."},
};

static struct points points_of(const struct job *job)
{
    uint64_t seed = job_uint(job, "seed");
    return (struct points){.key0 = (uint32_t)seed, .key1 = (uint32_t)(seed >> 32)};
}

static int fail_first_points(struct job *job)
{
    job_fail(job, "verification failed: the first points were not counted right: the device cannot "
                  "be trusted");
    return -1;
}

/* count_points: -1 and the job has failed or should stop. */
static int count_points(struct job *job, uint64_t count, uint64_t *inside)
{
    struct points points = points_of(job);
    const uint64_t most = CHUNK_PARTS * PART_POINTS;
    for (points.first = 0; points.first < count; points.first += most) {
        if (job_step(job, (double)points.first / (double)count) < 0)
            return -1;
        uint64_t start = job_clock_ns(), left = count - points.first;
        points.count = left < most ? left : most;
        size_t parts = (size_t)((points.count + PART_POINTS - 1) / PART_POINTS);
        parallel_run(parts, count_part, &points);
        bool right = points.first > 0 || points.inside[0] == count_again(&points);
        for (size_t i = 0; i < parts; i++)
            *inside += points.inside[i];
        job->compute_ns += job_clock_ns() - start;
        if (!right)
            return fail_first_points(job);
    }
    return 0;
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* Points between two looks at the clock: some 50 us of an H100. The other lane has as many. */
#define DEVICE_POINTS ((uint64_t)1 << 24)
/* Lanes count into different memory. */
#define COUNTER_BYTES ((size_t)256)

/* device_begin has the lane count some points, and fetch what it has counted up to now. */
static int device_begin(struct job *job, struct device_lane *lane, CUdeviceptr counter,
                        struct points *points)
{
    void *arguments[] = {&points->first, &points->count, &points->key0, &points->key1, &counter};
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch_array(job, lane, KERNEL_count_points, points->count / 2, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0 ||
        device_copy_out(job, lane, lane->staging, counter, sizeof(uint64_t)) < 0)
        return -1;
    return device_mark(job, lane, MARK_STORED);
}

static uint64_t device_counted(const struct device_lane *lane)
{
    uint64_t counted;
    memcpy(&counted, lane->staging, sizeof(counted));
    return counted;
}

/* device_begin_first counts what the host counts again, alone. */
static int device_begin_first(struct job *job, CUdeviceptr counters[DEVICE_LANES],
                              struct points *points, uint64_t count)
{
    uint64_t bytes = DEVICE_LANES * COUNTER_BYTES;
    void *clear[] = {&counters[0], &bytes};
    if (device_allocate(job, (size_t)bytes, &counters[0]) < 0 ||
        device_launch_array(job, &device.lanes[0], KERNEL_clear, 1, clear) < 0)
        return -1;
    for (unsigned i = 1; i < DEVICE_LANES; i++)
        counters[i] = counters[0] + i * COUNTER_BYTES;
    points->count = count < PART_POINTS ? count : PART_POINTS;
    if (device_begin(job, &device.lanes[0], counters[0], points) < 0 ||
        device_wait(job, &device.lanes[0]) < 0)
        return -1;
    return device_counted(&device.lanes[0]) == count_again(points) ? 0 : fail_first_points(job);
}

static int device_count_points(struct job *job, uint64_t count, uint64_t *inside)
{
    struct points points = points_of(job);
    CUdeviceptr counters[DEVICE_LANES];
    bool busy[DEVICE_LANES] = {false};
    unsigned turn = 0;
    if (device_begin_first(job, counters, &points, count) < 0)
        return -1;
    *inside = device_counted(&device.lanes[0]);
    uint64_t counted[DEVICE_LANES] = {*inside, 0};
    for (points.first = points.count; points.first < count; points.first += points.count) {
        struct device_lane *lane = &device.lanes[turn];
        uint64_t left = count - points.first;
        points.count = left < DEVICE_POINTS ? left : DEVICE_POINTS;
        if (job_step(job, (double)points.first / (double)count) < 0 ||
            (busy[turn] && device_wait(job, lane) < 0) ||
            device_begin(job, lane, counters[turn], &points) < 0)
            return -1;
        busy[turn] = true;
        turn = (turn + 1) % DEVICE_LANES;
    }
    for (turn = 0; turn < DEVICE_LANES; turn++) {
        if (!busy[turn])
            continue;
        if (device_wait(job, &device.lanes[turn]) < 0)
            return -1;
        *inside += device_counted(&device.lanes[turn]) - counted[turn];
    }
    return 0;
}

static enum job_status
monte_carlo_pi_with(struct job *job, int (*run)(struct job *job, uint64_t count, uint64_t *inside))
{
    uint64_t count = job_uint(job, "n"), inside = 0;
    if (run(job, count, &inside) < 0)
        return job_end(job);
    double pi = 4 * ((double)inside / (double)count), error = fabs(pi - PI);
    double deviation = sqrt(PI * (4 - PI) / (double)count);
    if (error > MOST_DEVIATIONS * deviation)
        return job_fail(job,
                        "verification failed: pi=%.10g is more than %d standard deviations off: "
                        "the device cannot be trusted",
                        pi, MOST_DEVIATIONS);
    char pi_text[REAL_TEXT_SIZE], error_text[REAL_TEXT_SIZE], deviation_text[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " inside=%" PRIu64 " pi=%s error=%s standard_deviation=%s", count,
               inside, real_text(pi_text, pi), real_text(error_text, error),
               real_text(deviation_text, deviation));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status monte_carlo_pi_run(struct job *job)
{
    return monte_carlo_pi_with(job, count_points);
}

static enum job_status monte_carlo_pi_cuda(struct job *job)
{
    return monte_carlo_pi_with(job, device_count_points);
}

const struct workload workload_monte_carlo_pi = {
    .info = {.name = "MONTE_CARLO_PI",
             .summary = "Estimates pi from random points; counts the same on every backend.",
             .params = monte_carlo_pi_params,
             .param_count = sizeof(monte_carlo_pi_params) / sizeof(monte_carlo_pi_params[0])},
    .cpu = monte_carlo_pi_run,
    .cuda = monte_carlo_pi_cuda,
};
