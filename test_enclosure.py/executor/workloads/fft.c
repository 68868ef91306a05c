/*
 * Complex one-dimensional transforms with FFTW, as many as there are in the batch, some of them in
 * memory at a time. Elements are pairs of real and imaginary part. As numpy has it, the inverse
 * divides by n.
 */
#include "executor/cuda/fft.h"
#include "executor/array.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/sum.h"
#include "executor/workloads.h"

#include <fftw3.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of a transform: FFTW, which cannot be interrupted, takes some 100 ms for the slowest. */
#define MAX_N        ((uint64_t)1 << 20)
#define MAX_ELEMENTS ((uint64_t)1 << 34)
/* Elements that are in memory, and that one thread takes at a time. */
#define GROUP_ELEMENTS  ((uint64_t)1 << 20)
#define THREAD_ELEMENTS ((uint64_t)1 << 14)
/* Numbers whose squares are added before their sum is; the relative error of an energy then. */
#define SUM_BLOCK ((uint64_t)256)
#define SUM_ERROR (((double)SUM_BLOCK / 8 + 4) * 0x1p-53)
/* Elements of one transform of each group that are held against the sum that defines them. */
#define SAMPLES 2
#define ADVICE  "take a smaller n="

_Static_assert(MAX_N <= DEVICE_FFT_MAX_N && GROUP_ELEMENTS <= DEVICE_FFT_MAX_ELEMENTS,
               "the device can do it");

/* FFTW for one type. Planning is not thread-safe, executing is (FFTW manual, 5.4). */
struct library {
    void *(*plan)(int n, void *in, void *out, bool inverse, bool aligned);
    void (*execute)(void *plan, void *in, void *out);
    void (*destroy)(void *plan);
    bool (*is_aligned)(void *data);
};

enum { FORWARD, INVERSE, DIRECTIONS };
enum { UNALIGNED, ALIGNED, ALIGNMENTS };

/* What the parts of a group have found. */
struct found {
    double energy;          /* of the output: the sum of squares */
    double roundtrip_error; /* largest */
    double parseval_error;  /* largest, relative */
    bool wrong;
};

struct fft {
    struct job *job;
    const struct element_type *type;
    const struct library *library;
    bool inverse;
    uint64_t n, batch;
    size_t bytes;         /* of an element */
    uint64_t group, part; /* transforms of one, at most */
    uint64_t first, here; /* transforms in memory */
    char *in, *out, *back;
    void *plans[DIRECTIONS][ALIGNMENTS];
    struct found *found; /* of each part of the group */
    uint64_t key;
    /* Roots of unity: coarse[i] * fine[j] is number i * fine_count + j. */
    long double (*coarse)[2], (*fine)[2];
    uint64_t fine_count;
    struct found total;
    double max_abs_error;
    /* On cuda: the three groups on the device. */
    struct device_fft *on_device;
    CUdeviceptr device_in, device_out, device_back;
};

/*
 * An FFT's result is off by at most log2(n) * eta / (1 - log2(n) * eta) in the 2-norm, relative,
 * eta being some 7 half epsilons (Higham, "Accuracy and Stability of Numerical Algorithms", 24.1).
 * Lengths with large prime factors take three transforms of at most 4 n (Bluestein).
 */
static double relative_bound(const struct fft *fft)
{
    return 21 * (log2((double)fft->n) + 3) * fft->type->roundoff;
}

#define DEFINE_KERNEL(name, real, fftw)                                                            \
    static void *plan_##name(int n, void *in, void *out, bool inverse, bool aligned)               \
    {                                                                                              \
        return fftw##_plan_dft_1d(n, in, out, inverse ? FFTW_BACKWARD : FFTW_FORWARD,              \
                                  FFTW_ESTIMATE | (aligned ? 0 : FFTW_UNALIGNED));                 \
    }                                                                                              \
                                                                                                   \
    static void execute_##name(void *plan, void *in, void *out)                                    \
    {                                                                                              \
        fftw##_execute_dft(plan, in, out);                                                         \
    }                                                                                              \
                                                                                                   \
    static void destroy_##name(void *plan)                                                         \
    {                                                                                              \
        fftw##_destroy_plan(plan);                                                                 \
    }                                                                                              \
                                                                                                   \
    static bool is_aligned_##name(void *data)                                                      \
    {                                                                                              \
        return fftw##_alignment_of(data) == 0;                                                     \
    }                                                                                              \
                                                                                                   \
    static void divide_##name(void *data, uint64_t n)                                              \
    {                                                                                              \
        real *x = data;                                                                            \
        for (uint64_t i = 0; i < 2 * n; i++)                                                       \
            x[i] /= (real)n;                                                                       \
    }                                                                                              \
                                                                                                   \
    /* Blocks are short and their sums lose nothing: SUM_ERROR. */                                 \
    static double energy_##name(const void *data, uint64_t n)                                      \
    {                                                                                              \
        const real *x = data;                                                                      \
        struct sum sum = {0};                                                                      \
        for (uint64_t first = 0; first < 2 * n; first += SUM_BLOCK) {                              \
            double block[8] = {0};                                                                 \
            uint64_t end = 2 * n - first < SUM_BLOCK ? 2 * n : first + SUM_BLOCK;                  \
            for (uint64_t i = first; i < end; i++)                                                 \
                block[i % 8] += (double)x[i] * (double)x[i];                                       \
            for (int i = 0; i < 8; i++)                                                            \
                sum_add(&sum, block[i]);                                                           \
        }                                                                                          \
        return sum_total(&sum);                                                                    \
    }                                                                                              \
                                                                                                   \
    /* The sum of squares of the differences, and the largest difference. */                       \
    static double distance_##name(const void *left, const void *right, uint64_t n, double *worst)  \
    {                                                                                              \
        const real *x = left, *y = right;                                                          \
        double sum = 0;                                                                            \
        for (uint64_t i = 0; i < 2 * n; i++) {                                                     \
            double error = fabs((double)x[i] - (double)y[i]);                                      \
            *worst = error > *worst ? error : *worst;                                              \
            sum += error * error;                                                                  \
        }                                                                                          \
        return sum;                                                                                \
    }                                                                                              \
                                                                                                   \
    static void center_##name(void *data, uint64_t count)                                          \
    {                                                                                              \
        real *x = data;                                                                            \
        for (uint64_t i = 0; i < count; i++)                                                       \
            x[i] -= (real)0.5;                                                                     \
    }

DEFINE_KERNEL(f32, float, fftwf)
DEFINE_KERNEL(f64, double, fftw)

static const struct library library_f32 = {plan_f32, execute_f32, destroy_f32, is_aligned_f32};
static const struct library library_f64 = {plan_f64, execute_f64, destroy_f64, is_aligned_f64};

static void transform(const struct fft *fft, bool inverse, char *in, char *out)
{
    bool aligned = fft->library->is_aligned(in) && fft->library->is_aligned(out);
    fft->library->execute(fft->plans[inverse][aligned], in, out);
    if (inverse && fft->library == &library_f64)
        divide_f64(out, fft->n);
    else if (inverse)
        divide_f32(out, fft->n);
}

/*
 * check_transform: there and back is twice the bound, and the energy of the output is that of the
 * input times n (of the inverse: divided by n; Parseval). What may overflow, or began with an
 * infinity or a NaN, is not checked; a rounding below the smallest normal number loses less than
 * that number.
 */
static void check_transform(const struct fft *fft, char *in, char *out, char *back,
                            struct found *found)
{
    bool f64 = fft->library == &library_f64;
    double n = (double)fft->n, bound = relative_bound(fft), worst = 0;
    double before = f64 ? energy_f64(in, fft->n) : energy_f32(in, fft->n);
    double after = f64 ? energy_f64(out, fft->n) : energy_f32(out, fft->n);
    found->energy += after;
    if (!(n * sqrt(before) < fft->type->largest && isfinite(n * before)))
        return;
    if (!fft->on_device)
        transform(fft, !fft->inverse, out, back);
    double distance =
        f64 ? distance_f64(in, back, fft->n, &worst) : distance_f32(in, back, fft->n, &worst);
    double tiny = 2 * n * sqrt(n) * fft->type->smallest;
    double expected = fft->inverse ? before / n : before * n;
    double parseval = fabs(sqrt(after) - sqrt(expected));
    if (!(sqrt(distance) <= 2 * bound * sqrt(before) + tiny) ||
        !(parseval <= (bound + SUM_ERROR) * sqrt(expected) + tiny * sqrt(n)))
        found->wrong = true;
    found->roundtrip_error = fmax(found->roundtrip_error, worst);
    if (expected > 0)
        found->parseval_error = fmax(found->parseval_error, parseval / sqrt(expected));
}

static void transform_part(void *context, size_t index)
{
    const struct fft *fft = context;
    uint64_t first = index * fft->part, end = first + fft->part;
    for (uint64_t i = first; i < end && i < fft->here; i++) {
        size_t offset = (size_t)(i * fft->n) * fft->bytes;
        transform(fft, fft->inverse, fft->in + offset, fft->out + offset);
    }
}

static void check_part(void *context, size_t index)
{
    struct fft *fft = context;
    uint64_t first = index * fft->part, end = first + fft->part;
    struct found found = {0};
    for (uint64_t i = first; i < end && i < fft->here; i++) {
        size_t offset = (size_t)(i * fft->n) * fft->bytes;
        check_transform(fft, fft->in + offset, fft->out + offset, fft->back + offset, &found);
    }
    fft->found[index] = found;
}

/* sample_element is the sum that defines element k of the first transform in memory. */
static void sample_element(const struct fft *fft, uint64_t k, long double sum[2])
{
    uint64_t power = 0;
    sum[0] = sum[1] = 0;
    for (uint64_t j = 0; j < fft->n; j++) {
        const long double *a = fft->coarse[power / fft->fine_count];
        const long double *b = fft->fine[power % fft->fine_count];
        long double real = a[0] * b[0] - a[1] * b[1], imaginary = a[0] * b[1] + a[1] * b[0];
        long double x = (long double)array_get(fft->type, fft->in, 2 * j);
        long double y = (long double)array_get(fft->type, fft->in, 2 * j + 1);
        sum[0] += x * real - y * imaginary;
        sum[1] += x * imaginary + y * real;
        power = power + k < fft->n ? power + k : power + k - fft->n;
    }
    for (int i = 0; i < 2 && fft->inverse; i++)
        sum[i] /= (long double)fft->n;
}

static bool samples_are_right(struct fft *fft)
{
    double n = (double)fft->n, before = 0;
    for (uint64_t i = 0; i < 2 * fft->n; i++)
        before += array_get(fft->type, fft->in, i) * array_get(fft->type, fft->in, i);
    if (!(n * sqrt(before) < fft->type->largest))
        return true;
    double norm = fft->inverse ? sqrt(before / n) : sqrt(before * n);
    double relative = relative_bound(fft) + 2 * n * (double)LDBL_EPSILON;
    double limit = relative * norm + 2 * n * n * fft->type->smallest;
    for (uint64_t sample = 0; sample < SAMPLES; sample++) {
        uint64_t k = generate_bits(fft->first, sample) % fft->n;
        long double sum[2];
        sample_element(fft, k, sum);
        for (uint64_t i = 0; i < 2; i++) {
            double found = array_get(fft->type, fft->out, 2 * k + i);
            double error = (double)fabsl((long double)found - sum[i]);
            if (!(error <= limit))
                return false;
            fft->max_abs_error = fmax(fft->max_abs_error, error);
        }
    }
    return true;
}

/* fft_sweep works on what is in memory. -1 and the job should stop. */
static int fft_sweep(struct fft *fft, parallel_work *work)
{
    if (job_step(fft->job, (double)fft->first / (double)fft->batch) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    parallel_run((size_t)((fft->here + fft->part - 1) / fft->part), work, fft);
    fft->job->compute_ns += job_clock_ns() - start;
    return 0;
}

/* device_transform: there and back. */
static int device_transform(struct fft *fft)
{
    struct job *job = fft->job;
    uint64_t bytes = fft->here * fft->n * fft->bytes;
    if (device_load(job, fft->device_in, fft->in, bytes) < 0 ||
        device_fft_run(job, fft->on_device, fft->device_in, fft->device_out, fft->here,
                       fft->inverse) < 0 ||
        device_fft_run(job, fft->on_device, fft->device_out, fft->device_back, fft->here,
                       !fft->inverse) < 0 ||
        device_store(job, fft->out, fft->device_out, bytes) < 0)
        return -1;
    return device_store(job, fft->back, fft->device_back, bytes);
}

/* fft_compute transforms and verifies what is in memory. */
static int fft_compute(struct fft *fft)
{
    if ((fft->on_device ? device_transform(fft) : fft_sweep(fft, transform_part)) < 0 ||
        fft_sweep(fft, check_part) < 0)
        return -1;
    uint64_t start = job_clock_ns();
    size_t parts = (size_t)((fft->here + fft->part - 1) / fft->part);
    bool right = samples_are_right(fft);
    for (size_t i = 0; i < parts; i++) {
        const struct found *found = &fft->found[i];
        struct found *total = &fft->total;
        total->energy += found->energy;
        total->roundtrip_error = fmax(total->roundtrip_error, found->roundtrip_error);
        total->parseval_error = fmax(total->parseval_error, found->parseval_error);
        right = right && !found->wrong;
    }
    fft->job->compute_ns += job_clock_ns() - start;
    if (right)
        return 0;
    job_fail(fft->job,
             "verification failed: one of the transforms %" PRIu64 " to %" PRIu64
             " is wrong by more than rounding can explain: the device cannot be trusted",
             fft->first, fft->first + fft->here - 1);
    return -1;
}

/* fft_group: -1 and the job has failed or should stop. */
static int fft_group(struct fft *fft)
{
    struct job *job = fft->job;
    uint64_t offset = fft->first * fft->n * fft->bytes;
    size_t bytes = (size_t)(fft->here * fft->n * fft->bytes);
    if (job_step(job, (double)fft->first / (double)fft->batch) < 0)
        return -1;
    if (job_given(job, "a")) {
        if (job_read(job, "a", fft->in, bytes, offset) < 0)
            return -1;
    } else {
        uint64_t start = job_clock_ns();
        uint64_t count = 2 * fft->here * fft->n;
        array_fill(fft->type, fft->in, fft->key, 2 * fft->first * fft->n, (size_t)count,
                   fft->type->mantissa - 2);
        if (fft->library == &library_f64)
            center_f64(fft->in, count);
        else
            center_f32(fft->in, count);
        job->compute_ns += job_clock_ns() - start;
    }
    if (fft_compute(fft) < 0)
        return -1;
    return job_given(job, "out") ? job_write(job, "out", fft->out, bytes, offset) : 0;
}

static int make_plans(struct fft *fft)
{
    uint64_t start = job_clock_ns();
    for (int direction = FORWARD; direction < DIRECTIONS; direction++)
        for (int alignment = UNALIGNED; alignment < ALIGNMENTS; alignment++)
            fft->plans[direction][alignment] = fft->library->plan(
                (int)fft->n, fft->in, fft->out, direction == INVERSE, alignment == ALIGNED);
    fft->job->compute_ns += job_clock_ns() - start;
    for (int direction = FORWARD; direction < DIRECTIONS; direction++)
        if (!fft->plans[direction][UNALIGNED] || !fft->plans[direction][ALIGNED]) {
            job_fail(fft->job, "FFTW has no plan for n=%" PRIu64 ": take another n=", fft->n);
            return -1;
        }
    return 0;
}

static int device_prepare(struct fft *fft)
{
    struct job *job = fft->job;
    uint64_t bytes = fft->group * fft->n * fft->bytes;
    if (device_allocate(job, bytes, &fft->device_in) < 0 ||
        device_allocate(job, bytes, &fft->device_out) < 0 ||
        device_allocate(job, bytes, &fft->device_back) < 0)
        return -1;
    return device_fft_prepare(job, fft->on_device, fft->library == &library_f64, fft->n,
                              fft->group);
}

/* fft_prepare: memory, roots of unity, and what transforms need. */
static int fft_prepare(struct fft *fft)
{
    struct job *job = fft->job;
    uint64_t bytes = fft->group * fft->n * fft->bytes;
    fft->fine_count = (uint64_t)ceil(sqrt((double)fft->n));
    uint64_t root_bytes = (fft->fine_count + 1) * sizeof(fft->fine[0]);
    fft->in = array_allocate(job, bytes, ADVICE);
    fft->out = array_allocate(job, bytes, ADVICE);
    fft->back = array_allocate(job, bytes, ADVICE);
    fft->found = array_allocate(job, (fft->group / fft->part + 1) * sizeof(struct found), ADVICE);
    fft->coarse = array_allocate(job, root_bytes, ADVICE);
    fft->fine = array_allocate(job, root_bytes, ADVICE);
    if (!fft->in || !fft->out || !fft->back || !fft->found || !fft->coarse || !fft->fine)
        return -1;
    uint64_t start = job_clock_ns();
    long double turn = (fft->inverse ? 2 : -2) * 3.141592653589793238462643383279502884L;
    for (uint64_t i = 0; i <= fft->fine_count; i++) {
        long double angle = turn * (long double)i / (long double)fft->n;
        fft->fine[i][0] = cosl(angle);
        fft->fine[i][1] = sinl(angle);
        angle = turn * (long double)(i * fft->fine_count) / (long double)fft->n;
        fft->coarse[i][0] = cosl(angle);
        fft->coarse[i][1] = sinl(angle);
    }
    job->compute_ns += job_clock_ns() - start;
    return fft->on_device ? device_prepare(fft) : make_plans(fft);
}

static void fft_finish(struct fft *fft)
{
    for (int direction = FORWARD; direction < DIRECTIONS; direction++)
        for (int alignment = UNALIGNED; alignment < ALIGNMENTS; alignment++)
            if (fft->plans[direction][alignment])
                fft->library->destroy(fft->plans[direction][alignment]);
    free(fft->in);
    free(fft->out);
    free(fft->back);
    free(fft->found);
    free(fft->coarse);
    free(fft->fine);
}

static const struct workload_param fft_params[] = {
    {.name = "a",
     .type = PARAM_FILE_IN,
     .help = "Input: pairs of real and imaginary part, little endian, one transform after the "
             "other."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the transforms go."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = MAX_N,
     .default_value = "1024",
     .help = "Elements of a transform; with a file, its elements divided by batch."},
    {.name = "batch",
     .type = PARAM_UINT,
     .min = 1,
     .max = MAX_ELEMENTS,
     .default_value = "1",
     .help = "How many transforms; with a file and n, as many as it holds."},
    {.name = "inverse",
     .type = PARAM_CHOICE,
     .choices = "no|yes",
     .default_value = "no",
     .help = "The inverse transform, which divides by n."},
    PARAM_SEED,
    PARAM_DTYPE,
};

/* sizes_from_file finds n and batch, of which one at least is not given, or holds them against it.
 */
static int sizes_from_file(struct fft *fft)
{
    struct job *job = fft->job;
    uint64_t bytes, elements;
    if (job_file_size(job, "a", &bytes) < 0)
        return -1;
    elements = bytes / fft->bytes;
    if (job_given(job, "n") && !job_given(job, "batch"))
        fft->batch = elements / fft->n;
    else if (!job_given(job, "n"))
        fft->n = elements / fft->batch;
    if (fft->n == 0 || fft->batch == 0 || fft->n > bytes || fft->batch > bytes ||
        fft->n * fft->batch * fft->bytes != bytes)
        job_fail(job,
                 "a= has %" PRIu64 " bytes: no whole number of transforms of n=%" PRIu64
                 " elements of %zu bytes, or not batch=%" PRIu64,
                 bytes, fft->n, fft->bytes, fft->batch);
    else if (fft->n > MAX_N)
        job_fail(job,
                 "a= has %" PRIu64 " elements, and a transform at most %" PRIu64
                 ": say n= or batch=",
                 elements, MAX_N);
    return job->error[0] ? -1 : 0;
}

static int fft_describe(struct fft *fft, struct job *job)
{
    *fft = (struct fft){.job = job,
                        .type = array_type(job),
                        .inverse = strcmp(job_text(job, "inverse"), "yes") == 0,
                        .n = job_uint(job, "n"),
                        .batch = job_uint(job, "batch"),
                        .key = generate_key(job_uint(job, "seed"), 0)};
    fft->library = fft->type->bytes == sizeof(double) ? &library_f64 : &library_f32;
    fft->bytes = 2 * fft->type->bytes;
    if (job_given(job, "a") && sizes_from_file(fft) < 0)
        return -1;
    if (fft->batch > MAX_ELEMENTS / fft->n) {
        job_fail(job,
                 "n=%" PRIu64 " times batch=%" PRIu64 " is more than %" PRIu64
                 " elements: take a smaller batch=",
                 fft->n, fft->batch, MAX_ELEMENTS);
        return -1;
    }
    fft->part = fft->n < THREAD_ELEMENTS ? THREAD_ELEMENTS / fft->n : 1;
    fft->group = GROUP_ELEMENTS / fft->n;
    fft->group = fft->batch < fft->group ? fft->batch : fft->group;
    return 0;
}

static int fft_check(struct job *job)
{
    struct fft fft;
    return fft_describe(&fft, job);
}

static int fft_all(struct fft *fft)
{
    struct job *job = fft->job;
    if (fft_prepare(fft) < 0 ||
        (job_given(job, "out") && job_reserve(job, "out", fft->batch * fft->n * fft->bytes) < 0))
        return -1;
    for (fft->first = 0; fft->first < fft->batch; fft->first += fft->group) {
        uint64_t left = fft->batch - fft->first;
        fft->here = left < fft->group ? left : fft->group;
        if (fft_group(fft) < 0)
            return -1;
    }
    return 0;
}

static enum job_status run_on(struct job *job, struct device_fft *on_device)
{
    struct fft fft;
    int result = fft_describe(&fft, job);
    fft.on_device = on_device;
    if (result == 0)
        result = fft_all(&fft);
    fft_finish(&fft);
    if (result < 0)
        return job_end(job);
    char energy[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE], roundtrip[REAL_TEXT_SIZE];
    char parseval[REAL_TEXT_SIZE];
    job_printf(job,
               "n=%" PRIu64 " batch=%" PRIu64 " dtype=%s inverse=%s energy=%s max_abs_error=%s "
               "roundtrip_error=%s parseval_error=%s",
               fft.n, fft.batch, fft.type->name, job_text(job, "inverse"),
               real_text(energy, fft.total.energy), real_text(error, fft.max_abs_error),
               real_text(roundtrip, fft.total.roundtrip_error),
               real_text(parseval, fft.total.parseval_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status fft_run(struct job *job)
{
    return run_on(job, NULL);
}

static enum job_status fft_cuda(struct job *job)
{
    struct device_fft on_device;
    return run_on(job, &on_device);
}

const struct workload workload_fft = {
    .info = {.name = "FFT",
             .summary = "Transforms a batch of complex arrays, and verifies each transform.",
             .params = fft_params,
             .param_count = sizeof(fft_params) / sizeof(fft_params[0])},
    .check = fft_check,
    .cpu = fft_run,
    .cuda = fft_cuda,
};
