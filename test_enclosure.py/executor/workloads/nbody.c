/*
 * Bodies that attract each other (G = 1), every one every other, by leapfrog steps: kick, drift,
 * kick. The distance is softened (Plummer): d^2 + softening^2.
 */
#include "executor/array.h"
#include "executor/cuda/transfer.h"
#include "executor/generate.h"
#include "executor/parallel.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bodies that are computed side by side, in vectors. */
#define BLOCK ((uint64_t)16)
/* Pairs between two looks at the clock: some 60 ms on one processor. */
#define CHUNK_PAIRS ((uint64_t)1 << 24)
/* Bodies whose acceleration is verified after the last step. */
#define SAMPLES ((uint64_t)8)
#define ADVICE  "take a smaller n="

/* The numbers of a body, in the order of the files; then what is computed. */
enum { MASS, X, Y, Z, VX, VY, VZ, FILE_NUMBERS, AX = FILE_NUMBERS, AY, AZ, NUMBERS };

_Static_assert((int)MASS == NBODY_MASS && (int)X == NBODY_X && (int)VX == NBODY_VX &&
                   (int)AX == NBODY_AX && (int)NUMBERS == NBODY_NUMBERS,
               "the device has them in the same order");

struct bodies {
    struct job *job;
    const struct element_type *type;
    uint64_t count, padded, steps; /* padded: whole blocks; those behind count weigh nothing */
    double step, softening;
    char *arrays[NUMBERS]; /* of the element type */
    double *potentials;
    uint64_t first_block; /* of the chunk */
    uint64_t work, works; /* sweeps over all pairs: done, and of the whole job */
    bool on_device;
    CUdeviceptr device_numbers, device_potentials; /* each number `padded` elements apart */
    double energy_before, energy, max_abs_error;
};

#define DEFINE_KERNEL(name, real, SQRT)                                                            \
    static void accelerate_##name(const struct bodies *bodies, uint64_t first)                     \
    {                                                                                              \
        const real *mass = (const void *)bodies->arrays[MASS];                                     \
        const real *x = (const void *)bodies->arrays[X], *y = (const void *)bodies->arrays[Y];     \
        const real *z = (const void *)bodies->arrays[Z];                                           \
        const real soft = (real)bodies->softening * (real)bodies->softening;                       \
        real ax[BLOCK] = {0}, ay[BLOCK] = {0}, az[BLOCK] = {0};                                    \
        for (uint64_t j = 0; j < bodies->count; j++) {                                             \
            const real mj = mass[j], xj = x[j], yj = y[j], zj = z[j];                              \
            for (uint64_t i = 0; i < BLOCK; i++) {                                                 \
                real dx = xj - x[first + i], dy = yj - y[first + i], dz = zj - z[first + i];       \
                real inverse = 1 / SQRT(dx * dx + dy * dy + dz * dz + soft);                       \
                real force = mj * inverse * inverse * inverse;                                     \
                ax[i] += force * dx;                                                               \
                ay[i] += force * dy;                                                               \
                az[i] += force * dz;                                                               \
            }                                                                                      \
        }                                                                                          \
        for (uint64_t i = 0; i < BLOCK; i++) {                                                     \
            ((real *)(void *)bodies->arrays[AX])[first + i] = ax[i];                               \
            ((real *)(void *)bodies->arrays[AY])[first + i] = ay[i];                               \
            ((real *)(void *)bodies->arrays[AZ])[first + i] = az[i];                               \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void potential_##name(const struct bodies *bodies, uint64_t first)                      \
    {                                                                                              \
        const real *mass = (const void *)bodies->arrays[MASS];                                     \
        const real *x = (const void *)bodies->arrays[X], *y = (const void *)bodies->arrays[Y];     \
        const real *z = (const void *)bodies->arrays[Z];                                           \
        const double soft = bodies->softening * bodies->softening;                                 \
        double sum[BLOCK] = {0};                                                                   \
        for (uint64_t j = 0; j < bodies->count; j++) {                                             \
            for (uint64_t i = 0; i < BLOCK; i++) {                                                 \
                double dx = (double)x[j] - (double)x[first + i];                                   \
                double dy = (double)y[j] - (double)y[first + i];                                   \
                double dz = (double)z[j] - (double)z[first + i];                                   \
                double far = j == first + i ? 0 : 1; /* not from itself */                         \
                sum[i] -= far * (double)mass[j] / sqrt(dx * dx + dy * dy + dz * dz + soft);        \
            }                                                                                      \
        }                                                                                          \
        for (uint64_t i = 0; i < BLOCK; i++)                                                       \
            bodies->potentials[first + i] = sum[i];                                                \
    }                                                                                              \
                                                                                                   \
    /* array += factor * other: a kick of velocities, or a drift of places. */                     \
    static void move_##name(void *array, const void *other, double factor, uint64_t count)         \
    {                                                                                              \
        real *restrict to = array;                                                                 \
        const real *restrict from = other;                                                         \
        for (uint64_t i = 0; i < count; i++)                                                       \
            to[i] += (real)factor * from[i];                                                       \
    }                                                                                              \
                                                                                                   \
    static void make_up_##name(struct bodies *bodies, uint64_t seed)                               \
    {                                                                                              \
        for (uint64_t number = 0; number < FILE_NUMBERS; number++) {                               \
            real *x = (void *)bodies->arrays[number];                                              \
            double size = number >= VX ? 0.25 : 1;                                                 \
            for (uint64_t i = 0; i < bodies->count; i++)                                           \
                x[i] =                                                                             \
                    number == MASS                                                                 \
                        ? (real)(1 / (double)bodies->count)                                        \
                        : (real)(size * (generate_real(generate_key(seed, number), i, 20) - 0.5)); \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* Files have body after body; here each number of all bodies lies in a row. */                \
    static void unpack_##name(struct bodies *bodies, const void *packed)                           \
    {                                                                                              \
        const real *from = packed;                                                                 \
        for (uint64_t i = 0; i < bodies->count; i++)                                               \
            for (uint64_t number = 0; number < FILE_NUMBERS; number++)                             \
                ((real *)(void *)bodies->arrays[number])[i] = from[i * FILE_NUMBERS + number];     \
    }                                                                                              \
                                                                                                   \
    static void pack_##name(const struct bodies *bodies, void *packed)                             \
    {                                                                                              \
        real *to = packed;                                                                         \
        for (uint64_t i = 0; i < bodies->count; i++)                                               \
            for (uint64_t number = 0; number < FILE_NUMBERS; number++)                             \
                to[i * FILE_NUMBERS + number] =                                                    \
                    ((const real *)(const void *)bodies->arrays[number])[i];                       \
    }

DEFINE_KERNEL(f32, float, sqrtf)
DEFINE_KERNEL(f64, double, sqrt)

static bool is_f64(const struct bodies *bodies)
{
    return bodies->type->bytes == sizeof(double);
}

static void accelerate_block(void *context, size_t index)
{
    const struct bodies *bodies = context;
    uint64_t first = (bodies->first_block + index) * BLOCK;
    if (is_f64(bodies))
        accelerate_f64(bodies, first);
    else
        accelerate_f32(bodies, first);
}

static void potential_block(void *context, size_t index)
{
    const struct bodies *bodies = context;
    uint64_t first = (bodies->first_block + index) * BLOCK;
    if (is_f64(bodies))
        potential_f64(bodies, first);
    else
        potential_f32(bodies, first);
}

/* sweep lets all processors work on all pairs. -1 and the job should stop. */
static int host_sweep(struct bodies *bodies, parallel_work *work)
{
    struct job *job = bodies->job;
    uint64_t blocks = bodies->padded / BLOCK, most = CHUNK_PAIRS / BLOCK / bodies->count + 1;
    for (bodies->first_block = 0; bodies->first_block < blocks; bodies->first_block += most) {
        uint64_t left = blocks - bodies->first_block;
        double part = (double)bodies->first_block / (double)blocks;
        if (job_step(job, ((double)bodies->work + part) / (double)bodies->works) < 0)
            return -1;
        uint64_t start = job_clock_ns();
        parallel_run((size_t)(left < most ? left : most), work, bodies);
        job->compute_ns += job_clock_ns() - start;
    }
    bodies->work++;
    return 0;
}

/* --- cuda --------------------------------------------------------------------------------------
 */

/* Pairs between two looks at the clock: some 10 ms of an H100 in f32. */
#define DEVICE_PAIRS ((uint64_t)1 << 34)

static CUdeviceptr device_number(const struct bodies *bodies, int number)
{
    return bodies->device_numbers + (uint64_t)number * bodies->padded * bodies->type->bytes;
}

/* device_sweep has the device work on all pairs, for some bodies at a time. */
static int device_sweep(struct bodies *bodies, bool potentials)
{
    struct job *job = bodies->job;
    bool f64 = is_f64(bodies);
    double soft = bodies->softening * bodies->softening;
    float soft_f32 = (float)bodies->softening * (float)bodies->softening;
    uint64_t most = (DEVICE_PAIRS / bodies->count / NBODY_THREADS + 1) * NBODY_THREADS;
    for (uint64_t first = 0; first < bodies->count; first += most) {
        uint64_t end = bodies->count - first < most ? bodies->count : first + most;
        unsigned blocks = (unsigned)((end - first - 1) / NBODY_THREADS) + 1;
        double part = (double)first / (double)bodies->count;
        void *accelerate[] = {&bodies->device_numbers,
                              &bodies->padded,
                              &bodies->count,
                              &first,
                              &end,
                              f64 ? (void *)&soft : (void *)&soft_f32};
        void *potential[] = {&bodies->device_numbers,
                             &bodies->device_potentials,
                             &bodies->padded,
                             &bodies->count,
                             &first,
                             &end,
                             &soft};
        enum kernel_name kernel = potentials ? f64 ? KERNEL_potential_f64 : KERNEL_potential_f32
                                  : f64      ? KERNEL_accelerate_f64
                                             : KERNEL_accelerate_f32;
        if (job_step(job, ((double)bodies->work + part) / (double)bodies->works) < 0 ||
            device_run(job, kernel, blocks, 1, NBODY_THREADS, potentials ? potential : accelerate) <
                0)
            return -1;
    }
    bodies->work++;
    return 0;
}

/* device_move: the three axes lie one after the other. */
static int device_move(const struct bodies *bodies, int array, int other, double factor)
{
    CUdeviceptr to = device_number(bodies, array), from = device_number(bodies, other);
    uint64_t count = 3 * bodies->padded;
    float factor_f32 = (float)factor;
    bool f64 = is_f64(bodies);
    void *arguments[] = {&to, &from, f64 ? (void *)&factor : (void *)&factor_f32, &count};
    return device_run_array(bodies->job, f64 ? KERNEL_move_f64 : KERNEL_move_f32, count, arguments);
}

/* device_bring takes all numbers to the device, those of no body being zero. */
static int device_bring(struct bodies *bodies)
{
    uint64_t each = bodies->padded * bodies->type->bytes;
    if (device_allocate(bodies->job, NUMBERS * each, &bodies->device_numbers) < 0 ||
        device_allocate(bodies->job, bodies->padded * sizeof(double), &bodies->device_potentials) <
            0)
        return -1;
    for (int number = 0; number < NUMBERS; number++)
        if (device_load(bodies->job, device_number(bodies, number), bodies->arrays[number], each) <
            0)
            return -1;
    return 0;
}

static int device_return(struct bodies *bodies)
{
    uint64_t each = bodies->padded * bodies->type->bytes;
    for (int number = 0; number < NUMBERS; number++)
        if (device_store(bodies->job, bodies->arrays[number], device_number(bodies, number), each) <
            0)
            return -1;
    return 0;
}

/* --- on either ---------------------------------------------------------------------------------
 */

static int find_accelerations(struct bodies *bodies)
{
    return bodies->on_device ? device_sweep(bodies, false) : host_sweep(bodies, accelerate_block);
}

static int find_potentials(struct bodies *bodies)
{
    if (!bodies->on_device)
        return host_sweep(bodies, potential_block);
    if (device_sweep(bodies, true) < 0)
        return -1;
    return device_store(bodies->job, bodies->potentials, bodies->device_potentials,
                        bodies->count * sizeof(double));
}

static double number_of(const struct bodies *bodies, int number, uint64_t body)
{
    return array_get(bodies->type, bodies->arrays[number], body);
}

/* find_energy adds in the order of the bodies; each pair has been met twice. */
static int find_energy(struct bodies *bodies, double *energy)
{
    if (find_potentials(bodies) < 0)
        return -1;
    *energy = 0;
    for (uint64_t i = 0; i < bodies->count; i++) {
        double square = 0;
        for (int number = VX; number <= VZ; number++)
            square += number_of(bodies, number, i) * number_of(bodies, number, i);
        *energy += number_of(bodies, MASS, i) * (square + bodies->potentials[i]) / 2;
    }
    return 0;
}

static int move_all(struct bodies *bodies, int array, int other, double factor)
{
    if (bodies->on_device)
        return device_move(bodies, array, other, factor);
    uint64_t start = job_clock_ns();
    for (int axis = 0; axis < 3; axis++)
        if (is_f64(bodies))
            move_f64(bodies->arrays[array + axis], bodies->arrays[other + axis], factor,
                     bodies->count);
        else
            move_f32(bodies->arrays[array + axis], bodies->arrays[other + axis], factor,
                     bodies->count);
    bodies->job->compute_ns += job_clock_ns() - start;
    return 0;
}

/*
 * sample_is_right: a term is off by some 28 roundings before it is added (difference, three squares
 * and their sum, root, quotient, cube, products; the reciprocal root of a device is good to 4: CUDA
 * Programming Guide, "Mathematical Functions") and the sum through one for each body
 * (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1). What is lost below the smallest
 * normal number is multiplied by the distance and by at most 1 / softening^2.
 */
static bool sample_is_right(struct bodies *bodies, uint64_t body)
{
    const struct element_type *type = bodies->type;
    long double soft = (long double)bodies->softening * (long double)bodies->softening;
    if (!is_f64(bodies))
        soft = (long double)((float)bodies->softening * (float)bodies->softening);
    for (int axis = 0; axis < 3; axis++) {
        long double sum = 0, absolute = 0, lost = 1;
        for (uint64_t j = 0; j < bodies->count; j++) {
            long double square = soft, distance = 0, mass = (long double)number_of(bodies, MASS, j);
            for (int other = 0; other < 3; other++) {
                long double d = (long double)number_of(bodies, X + other, j) -
                                (long double)number_of(bodies, X + other, body);
                square += d * d;
                distance = other == axis ? d : distance;
            }
            long double term = mass * distance / (square * sqrtl(square));
            sum += term;
            absolute += fabsl(term);
            lost += (1 + fabsl(mass)) * (1 + fabsl(distance)) * (1 + 1 / soft);
            if (!(square < (long double)type->largest)) /* overflows, or is no number */
                return true;
        }
        if (!(absolute < (long double)type->largest))
            return true;
        double error = fabs((double)((long double)number_of(bodies, AX + axis, body) - sum));
        double limit = ((double)bodies->count + 28) * type->roundoff * (double)absolute;
        if (!(error <= limit + type->smallest * (double)lost))
            return false;
        bodies->max_abs_error = fmax(bodies->max_abs_error, error);
    }
    return true;
}

static int verify(struct bodies *bodies)
{
    uint64_t start = job_clock_ns();
    uint64_t samples = bodies->count < SAMPLES ? bodies->count : SAMPLES;
    bool right = true;
    for (uint64_t i = 0; i < samples && right; i++)
        right = sample_is_right(bodies, i * bodies->count / samples);
    bodies->job->compute_ns += job_clock_ns() - start;
    if (right)
        return 0;
    job_fail(bodies->job, "verification failed: an acceleration is wrong by more than rounding can "
                          "explain: the device cannot be trusted");
    return -1;
}

/* run_steps: -1 and the job has failed or should stop. */
static int run_steps(struct bodies *bodies)
{
    bodies->works = bodies->steps + 3;
    if ((bodies->on_device && device_bring(bodies) < 0) ||
        find_energy(bodies, &bodies->energy_before) < 0 || find_accelerations(bodies) < 0)
        return -1;
    for (uint64_t step = 0; step < bodies->steps; step++)
        if (move_all(bodies, VX, AX, bodies->step / 2) < 0 ||
            move_all(bodies, X, VX, bodies->step) < 0 || find_accelerations(bodies) < 0 ||
            move_all(bodies, VX, AX, bodies->step / 2) < 0)
            return -1;
    if (bodies->on_device && device_return(bodies) < 0)
        return -1;
    return verify(bodies) < 0 ? -1 : find_energy(bodies, &bodies->energy);
}

static const struct workload_param nbody_params[] = {
    {.name = "a",
     .type = PARAM_FILE_IN,
     .help = "Input: mass, x, y, z and velocity of each body, 7 numbers, little endian."},
    {.name = "out", .type = PARAM_FILE_OUT, .help = "Where the bodies go after the last step."},
    {.name = "n",
     .type = PARAM_UINT,
     .min = 1,
     .max = 262144,
     .default_value = "1024",
     .help = "How many bodies; with a file, as many as it holds."},
    {.name = "steps",
     .type = PARAM_UINT,
     .min = 1,
     .max = 1000000,
     .default_value = "10",
     .help = "How many steps."},
    {.name = "dt",
     .type = PARAM_REAL,
     .real_min = 1e-9,
     .real_max = 1e9,
     .default_value = "0.001",
     .help = "The time of a step."},
    {.name = "softening",
     .type = PARAM_REAL,
     .real_min = 1e-6,
     .real_max = 1e6,
     .default_value = "0.01",
     .help = "What distances are softened by."},
    PARAM_SEED,
    PARAM_DTYPE,
};

/* bodies_describe: -1 after job_fail. */
static int bodies_describe(struct bodies *bodies, struct job *job)
{
    *bodies = (struct bodies){.job = job,
                              .type = array_type(job),
                              .count = job_uint(job, "n"),
                              .steps = job_uint(job, "steps"),
                              .step = job_real(job, "dt"),
                              .softening = job_real(job, "softening")};
    if (job_given(job, "a")) {
        uint64_t bytes, given = bodies->count, each = FILE_NUMBERS * bodies->type->bytes;
        uint64_t most = workload_find_param(job->info, "n")->max;
        if (job_file_size(job, "a", &bytes) < 0)
            return -1;
        bodies->count = bytes / each;
        if (bytes % each || bodies->count == 0 || bodies->count > most)
            job_fail(job, "a= has %" PRIu64 " bytes: not 1 to %" PRIu64 " bodies of 7 %s numbers",
                     bytes, most, bodies->type->name);
        else if (job_given(job, "n") && bodies->count != given)
            job_fail(job, "n=%" PRIu64 ", but a= holds %" PRIu64 " bodies", given, bodies->count);
    }
    bodies->padded = (bodies->count + BLOCK - 1) / BLOCK * BLOCK;
    return job->error[0] ? -1 : 0;
}

static int nbody_check(struct job *job)
{
    struct bodies bodies;
    return bodies_describe(&bodies, job);
}

/* bodies_load fills the arrays through `packed`, which has room for the file. */
static int bodies_load(struct bodies *bodies, const struct array_span *packed)
{
    struct job *job = bodies->job;
    for (int number = 0; number < NUMBERS; number++)
        memset(bodies->arrays[number], 0, bodies->padded * bodies->type->bytes);
    if (!job_given(job, "a")) {
        uint64_t start = job_clock_ns();
        if (is_f64(bodies))
            make_up_f64(bodies, job_uint(job, "seed"));
        else
            make_up_f32(bodies, job_uint(job, "seed"));
        job->compute_ns += job_clock_ns() - start;
        return 0;
    }
    if (array_load(job, "a", packed, 0, 1) < 0)
        return -1;
    if (is_f64(bodies))
        unpack_f64(bodies, packed->data);
    else
        unpack_f32(bodies, packed->data);
    return 0;
}

static int bodies_all(struct bodies *bodies, struct array_span *packed)
{
    if (bodies_load(bodies, packed) < 0 || run_steps(bodies) < 0)
        return -1;
    if (is_f64(bodies))
        pack_f64(bodies, packed->data);
    else
        pack_f32(bodies, packed->data);
    packed->from = packed->to = 1;
    return array_store(bodies->job, "out", packed);
}

/* bodies_run allocates for as long as the job runs. */
static int bodies_run(struct bodies *bodies)
{
    struct array_span packed = {.type = bodies->type, .count = bodies->count * FILE_NUMBERS};
    packed.data = array_allocate(bodies->job, packed.count * bodies->type->bytes, ADVICE);
    bodies->potentials = array_allocate(bodies->job, bodies->padded * sizeof(double), ADVICE);
    int result = packed.data && bodies->potentials ? 0 : -1;
    for (int number = 0; number < NUMBERS; number++) {
        bodies->arrays[number] =
            array_allocate(bodies->job, bodies->padded * bodies->type->bytes, ADVICE);
        result = bodies->arrays[number] ? result : -1;
    }
    if (result == 0)
        result = bodies_all(bodies, &packed);
    for (int number = 0; number < NUMBERS; number++)
        free(bodies->arrays[number]);
    free(bodies->potentials);
    free(packed.data);
    return result;
}

static enum job_status run_on(struct job *job, bool on_device)
{
    struct bodies bodies;
    if (bodies_describe(&bodies, job) < 0)
        return JOB_FAILED;
    bodies.on_device = on_device;
    if (bodies_run(&bodies) < 0)
        return job_end(job);
    char energy[REAL_TEXT_SIZE], drift[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job,
               "n=%" PRIu64 " steps=%" PRIu64 " dtype=%s energy=%s energy_drift=%s "
               "max_abs_error=%s",
               bodies.count, bodies.steps, bodies.type->name, real_text(energy, bodies.energy),
               real_text(drift, bodies.energy - bodies.energy_before),
               real_text(error, bodies.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status nbody_run(struct job *job)
{
    return run_on(job, false);
}

static enum job_status nbody_cuda(struct job *job)
{
    return run_on(job, true);
}

const struct workload workload_nbody = {
    .info = {.name = "NBODY",
             .summary = "Moves bodies that attract each other, and verifies a sample.",
             .params = nbody_params,
             .param_count = sizeof(nbody_params) / sizeof(nbody_params[0])},
    .check = nbody_check,
    .cpu = nbody_run,
    .cuda = nbody_cuda,
};
