/*
 * Counts how many numbers of an array fall into each of equal bins. Number x is in bin
 * floor((x - low) * (bins / (high - low))), computed in float64 for either type.
 */
#include "executor/array.h"
#include "executor/cuda/device_stream.h"
#include "executor/generate.h"
#include "executor/stream.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The counts of a part stay in the first-level cache. */
#define MAX_BINS HISTOGRAM_MAX_BINS
/*
 * The position of a number among the bins goes through four roundings (both differences, quotient,
 * product), each at most half an epsilon of it.
 */
#define POSITION_ERROR (4 * 0x1p-53)

struct histogram {
    const struct element_type *type;
    double low, high;
    size_t bins;
    uint64_t outside[HISTOGRAM_OUTSIDE];
    uint64_t *counts; /* of the whole */
    uint64_t max_abs_error;
};

/* Followed by three counts for each bin: found, by the reference, and so near an edge that it may
 * be on either side. */
struct histogram_result {
    uint64_t outside[HISTOGRAM_OUTSIDE];
    uint32_t bins[];
};

#define DEFINE_KERNEL(name, real)                                                                  \
    static void count_##name(const struct histogram *histogram, const struct stream_part *part,    \
                             struct histogram_result *result)                                      \
    {                                                                                              \
        const real *x = part->arrays[0];                                                           \
        const double low = histogram->low, high = histogram->high;                                 \
        const double scale = (double)histogram->bins / (high - low);                               \
        const uint32_t last = (uint32_t)histogram->bins - 1;                                       \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            double number = (double)x[i];                                                          \
            if (number >= low && number < high) {                                                  \
                uint32_t bin = (uint32_t)(int32_t)((number - low) * scale);                        \
                result->bins[bin < last ? bin : last]++;                                           \
            } else {                                                                               \
                result->outside[number < low     ? HISTOGRAM_BELOW                                 \
                                : number >= high ? HISTOGRAM_ABOVE                                 \
                                                 : HISTOGRAM_NAN]++;                               \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* A number may be one bin off only where its position is an edge's up to rounding. */         \
    static void reference_##name(const struct histogram *histogram,                                \
                                 const struct stream_part *part, struct histogram_result *result)  \
    {                                                                                              \
        const real *x = part->arrays[0];                                                           \
        const long double low = (long double)histogram->low, high = (long double)histogram->high;  \
        const long double bins = (long double)histogram->bins;                                     \
        uint32_t *counts = result->bins + histogram->bins, *near = counts + histogram->bins;       \
        const size_t last = histogram->bins - 1;                                                   \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            long double number = (long double)x[i];                                                \
            if (!(number >= low && number < high))                                                 \
                continue;                                                                          \
            long double position = (number - low) * bins / (high - low);                           \
            size_t bin = (size_t)position < last ? (size_t)position : last;                        \
            long double off = position - (long double)bin, limit = position * POSITION_ERROR;      \
            counts[bin]++;                                                                         \
            if (bin > 0 && off <= limit) {                                                         \
                near[bin]++;                                                                       \
                near[bin - 1]++;                                                                   \
            }                                                                                      \
            if (bin < last && off >= 1 - limit) {                                                  \
                near[bin]++;                                                                       \
                near[bin + 1]++;                                                                   \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_KERNEL(f32, float)
DEFINE_KERNEL(f64, double)

static void histogram_work(const void *context, const struct stream_part *part)
{
    const struct histogram *histogram = context;
    if (histogram->type->bytes == sizeof(double)) {
        count_f64(histogram, part, part->result);
        reference_f64(histogram, part, part->result);
    } else {
        count_f32(histogram, part, part->result);
        reference_f32(histogram, part, part->result);
    }
}

/* On a device the result is of the whole chunk: it is cleared, and all blocks add to it. */
static int histogram_launch(struct job *job, const void *context, const struct device_chunk *chunk)
{
    const struct histogram *histogram = context;
    const bool f64 = histogram->type->bytes == sizeof(double);
    double low = histogram->low, high = histogram->high, limit = POSITION_ERROR;
    unsigned bins = (unsigned)histogram->bins;
    uint64_t bytes = sizeof(struct histogram_result) + 3 * bins * sizeof(uint32_t);
    struct device_chunk c = *chunk;
    CUdeviceptr found = c.results + offsetof(struct histogram_result, bins);
    CUdeviceptr counts = found + bins * sizeof(uint32_t), near = counts + bins * sizeof(uint32_t);
    void *clear[] = {&c.results, &bytes};
    void *count[] = {&c.arrays[0], &c.count, &low, &high, &bins, &c.results, &found};
    void *reference[] = {&c.arrays[0], &c.count, &low, &high, &bins, &limit, &counts, &near};
    if (device_launch_array(job, chunk->lane, KERNEL_clear, bytes / 16, clear) < 0 ||
        device_launch_vectors(job, chunk, f64 ? KERNEL_histogram_f64 : KERNEL_histogram_f32,
                              count) < 0)
        return -1;
    return device_launch_vectors(
        job, chunk, f64 ? KERNEL_histogram_reference_f64 : KERNEL_histogram_reference_f32,
        reference);
}

static int histogram_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct histogram *histogram = context;
    const struct histogram_result *result = part->result;
    const uint32_t *counts = result->bins + histogram->bins, *near = counts + histogram->bins;
    uint64_t total = 0;
    bool wrong = false;
    for (size_t i = 0; i < HISTOGRAM_OUTSIDE; i++) {
        histogram->outside[i] += result->outside[i];
        total += result->outside[i];
    }
    for (size_t i = 0; i < histogram->bins; i++) {
        uint32_t found = result->bins[i];
        uint32_t off = found > counts[i] ? found - counts[i] : counts[i] - found;
        histogram->counts[i] += found;
        total += found;
        wrong = wrong || off > near[i];
        if (off > histogram->max_abs_error)
            histogram->max_abs_error = off;
    }
    if (!wrong && total == part->count)
        return 0;
    job_fail(job,
             "verification failed: the numbers %" PRIu64 " to %" PRIu64
             " were not counted right: the device cannot be trusted",
             part->first, part->first + part->count - 1);
    return -1;
}

static const struct workload_param histogram_params[] = {
    {.name = "a", .type = PARAM_FILE_IN, .help = "Input: an array of numbers, little endian."},
    {.name = "out",
     .type = PARAM_FILE_OUT,
     .help = "Where the counts go: 64-bit unsigned integers, little endian."},
    {.name = "bins",
     .type = PARAM_UINT,
     .min = 1,
     .max = MAX_BINS,
     .default_value = "64",
     .help = "How many bins."},
    {.name = "low",
     .type = PARAM_REAL,
     .real_min = -1e30,
     .real_max = 1e30,
     .default_value = "0",
     .help = "Where the first bin begins."},
    {.name = "high",
     .type = PARAM_REAL,
     .real_min = -1e30,
     .real_max = 1e30,
     .default_value = "1",
     .help = "Where the last bin ends; what is equal to it is above."},
    PARAM_ELEMENTS((uint64_t)1 << 34),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"a"};

static int histogram_check(struct job *job)
{
    uint64_t count;
    double low = job_real(job, "low"), high = job_real(job, "high");
    if (!(low < high) || !isfinite((double)MAX_BINS / (high - low))) {
        job_fail(job, "low=%g is not below high=%g by enough to make bins", low, high);
        return -1;
    }
    return array_count(job, input_names, 1, &count);
}

/* histogram_count: -1 and the job has failed or should stop. */
static int histogram_count(struct job *job, struct histogram *histogram, uint64_t count,
                           stream_runner *run)
{
    const uint64_t key = generate_key(job_uint(job, "seed"), 0);
    const struct stream stream = {
        .names = {"a"},
        .input_count = 1,
        .array_count = 1,
        .type = histogram->type,
        .result_bytes =
            (sizeof(struct histogram_result) + 3 * histogram->bins * sizeof(uint32_t) + 7) / 8 * 8,
        .chunk_result = true,
        .context = histogram,
        .keys = &key,
        .bits = histogram->type->mantissa,
        .phases = {{histogram_work, histogram_fold, histogram_launch}},
    };
    size_t bytes = histogram->bins * sizeof(uint64_t);
    if (job_given(job, "out") && job_reserve(job, "out", bytes) < 0)
        return -1;
    if (run(job, &stream, count) < 0)
        return -1;
    return job_given(job, "out") ? job_write(job, "out", histogram->counts, bytes, 0) : 0;
}

static enum job_status histogram_with(struct job *job, stream_runner *run)
{
    uint64_t count, counts[MAX_BINS] = {0}, fullest = 0;
    if (array_count(job, input_names, 1, &count) < 0)
        return JOB_FAILED;
    struct histogram histogram = {.type = array_type(job),
                                  .low = job_real(job, "low"),
                                  .high = job_real(job, "high"),
                                  .bins = (size_t)job_uint(job, "bins"),
                                  .counts = counts};
    if (histogram_count(job, &histogram, count, run) < 0)
        return job_end(job);
    for (size_t i = 1; i < histogram.bins; i++)
        if (counts[i] > counts[fullest])
            fullest = i;
    job_printf(job,
               "n=%" PRIu64 " dtype=%s bins=%zu below=%" PRIu64 " above=%" PRIu64 " nan=%" PRIu64
               " fullest_bin=%" PRIu64 " fullest_count=%" PRIu64 " max_abs_error=%" PRIu64,
               count, histogram.type->name, histogram.bins, histogram.outside[HISTOGRAM_BELOW],
               histogram.outside[HISTOGRAM_ABOVE], histogram.outside[HISTOGRAM_NAN], fullest,
               counts[fullest], histogram.max_abs_error);
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status histogram_run(struct job *job)
{
    return histogram_with(job, stream_run);
}

static enum job_status histogram_cuda(struct job *job)
{
    return histogram_with(job, device_stream_run);
}

const struct workload workload_histogram = {
    .info = {.name = "HISTOGRAM",
             .summary = "Counts the numbers of an array by equal bins, and verifies the counts.",
             .params = histogram_params,
             .param_count = sizeof(histogram_params) / sizeof(histogram_params[0])},
    .check = histogram_check,
    .cpu = histogram_run,
    .cuda = histogram_cuda,
};
