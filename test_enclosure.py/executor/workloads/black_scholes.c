/*
 * Prices of European options by the formula of Black and Scholes ("The Pricing of Options and
 * Corporate Liabilities", Journal of Political Economy 81, 1973), without dividends.
 */
#include "executor/array.h"
#include "executor/cuda/transfer.h"
#include "executor/generate.h"
#include "executor/stream.h"
#include "executor/workloads.h"

#include <inttypes.h>
#include <math.h>

enum { SPOT, STRIKE, YEARS, CALL, PUT, INPUTS = CALL };

/* An option takes up to a microsecond, its reference included. */
#define CHUNK_PARTS 8

struct options {
    const struct element_type *type;
    double rate, volatility;
    uint64_t keys[INPUTS];
    CUdeviceptr arrays[INPUTS + 2]; /* of a chunk, on a device */
    /* of the whole */
    double call_sum, put_sum, max_abs_error;
};

struct options_result {
    double call_sum, put_sum, max_abs_error;
    bool wrong;
};

/* What made-up options have, uniform from `low` to `low` + `width`. */
static const struct {
    double low, width;
} ranges[INPUTS] = {{50, 100}, {50, 100}, {0.25, 2}};

/* Terms of the formula that the bound needs. */
struct terms {
    double d1, d2, deviation, discount, moneyness;
};

/*
 * price_error bounds what rounding makes of a price. With u half an epsilon and functions of the
 * library good to 4 u, erfc to 10 u (5 units in the last place: CUDA Programming Guide,
 * "Mathematical Functions"): d1 is off by some 8 u (1 + |ln S/K| + |r + v^2/2| T) / (v sqrt T) and
 * 8 u |d1|, since rounding S/K moves the logarithm by u; the normal distribution's slope is below
 * 0.4; and both products and the discount are off by some u relative to S and K D.
 */
static double price_error(const struct options *options, double spot, double strike, double years,
                          const struct terms *t)
{
    double drift = fabs(options->rate + options->volatility * options->volatility / 2) * years;
    double off1 = 8 * ((1 + fabs(t->moneyness) + drift) / t->deviation + fabs(t->d1));
    double off2 = off1 + 4 * (t->deviation + fabs(t->d2));
    double discounted = strike * t->discount;
    double u = options->type->roundoff;
    return u * (spot * (0.4 * (off1 + 2 * fabs(t->d1)) + 12) +
                discounted *
                    (0.4 * (off2 + 2 * fabs(t->d2)) + 16 + 4 * fabs(options->rate) * years)) +
           4 * options->type->smallest * (1 + spot + strike);
}

/*
 * The formula in one type; so the reference is the same formula with more digits. The distribution
 * is half of erfc(-d / sqrt 2), which loses no digits where it is small.
 */
#define DEFINE_FORMULA(name, real, LOG, SQRT, EXP, ERFC)                                           \
    static inline void formula_##name(real spot, real strike, real years, real rate,               \
                                      real volatility, real *call, real *put, struct terms *terms) \
    {                                                                                              \
        const real half_root = (real)0.70710678118654752440084436210484903928L;                    \
        real deviation = volatility * SQRT(years), moneyness = LOG(spot / strike);                 \
        real d1 = (moneyness + (rate + volatility * volatility / 2) * years) / deviation;          \
        real d2 = d1 - deviation, discount = EXP(-rate * years);                                   \
        *call =                                                                                    \
            spot * (ERFC(-d1 * half_root) / 2) - strike * discount * (ERFC(-d2 * half_root) / 2);  \
        *put = strike * discount * (ERFC(d2 * half_root) / 2) - spot * (ERFC(d1 * half_root) / 2); \
        *terms = (struct terms){(double)d1, (double)d2, (double)deviation, (double)discount,       \
                                (double)moneyness};                                                \
    }

DEFINE_FORMULA(f32, float, logf, sqrtf, expf, erfcf)
DEFINE_FORMULA(f64, double, log, sqrt, exp, erfc)
DEFINE_FORMULA(wide, long double, logl, sqrtl, expl, erfcl)

/* An option of which a number is no positive finite one may have any price. */
#define DEFINE_KERNEL(name, real, wide, reference)                                                 \
    static void price_##name(const struct options *options, const struct stream_part *part)        \
    {                                                                                              \
        const real *spot = part->arrays[SPOT], *strike = part->arrays[STRIKE];                     \
        const real *years = part->arrays[YEARS];                                                   \
        real *call = part->arrays[CALL], *put = part->arrays[PUT];                                 \
        struct terms unused;                                                                       \
        for (size_t i = 0; i < part->count; i++)                                                   \
            formula_##name(spot[i], strike[i], years[i], (real)options->rate,                      \
                           (real)options->volatility, &call[i], &put[i], &unused);                 \
    }                                                                                              \
                                                                                                   \
    static void verify_##name(const struct options *options, const struct stream_part *part,       \
                              struct options_result *result)                                       \
    {                                                                                              \
        const real *spot = part->arrays[SPOT], *strike = part->arrays[STRIKE];                     \
        const real *years = part->arrays[YEARS];                                                   \
        const real *call = part->arrays[CALL], *put = part->arrays[PUT];                           \
        for (size_t i = 0; i < part->count; i++) {                                                 \
            wide right_call, right_put;                                                            \
            struct terms terms;                                                                    \
            result->call_sum += (double)call[i];                                                   \
            result->put_sum += (double)put[i];                                                     \
            reference((wide)spot[i], (wide)strike[i], (wide)years[i], (wide)(real)options->rate,   \
                      (wide)(real)options->volatility, &right_call, &right_put, &terms);           \
            double limit = price_error(options, (double)spot[i], (double)strike[i],                \
                                       (double)years[i], &terms);                                  \
            if (!(spot[i] > 0 && strike[i] > 0 && years[i] > 0 && limit < options->type->largest)) \
                continue;                                                                          \
            double error = fmax(fabs((double)((wide)call[i] - right_call)),                        \
                                fabs((double)((wide)put[i] - right_put)));                         \
            if (!(error <= limit) || isnan(call[i]) || isnan(put[i]))                              \
                result->wrong = true;                                                              \
            result->max_abs_error = fmax(result->max_abs_error, error);                            \
        }                                                                                          \
    }

DEFINE_KERNEL(f32, float, double, formula_f64)
DEFINE_KERNEL(f64, double, long double, formula_wide)

static void options_fill(const void *context, const struct stream_part *part)
{
    const struct options *options = context;
    for (int array = 0; array < INPUTS; array++) {
        array_fill(options->type, part->arrays[array], options->keys[array], part->first,
                   part->count, 16);
        for (size_t i = 0; i < part->count; i++) {
            if (options->type->bytes == sizeof(double)) {
                double *x = part->arrays[array];
                x[i] = ranges[array].low + ranges[array].width * x[i];
            } else {
                float *x = part->arrays[array];
                x[i] = (float)(ranges[array].low + ranges[array].width * (double)x[i]);
            }
        }
    }
}

static void options_work(const void *context, const struct stream_part *part)
{
    const struct options *options = context;
    if (options->type->bytes == sizeof(double)) {
        price_f64(options, part);
        verify_f64(options, part, part->result);
    } else {
        price_f32(options, part);
        verify_f32(options, part, part->result);
    }
}

/* On a device: prices come from there, and are verified here. */
static void options_verify(const void *context, const struct stream_part *part)
{
    const struct options *options = context;
    if (options->type->bytes == sizeof(double))
        verify_f64(options, part, part->result);
    else
        verify_f32(options, part, part->result);
}

/* options_price has the device price a chunk. */
static int options_price(struct job *job, void *context, const struct stream_part *chunk)
{
    struct options *options = context;
    bool f64 = options->type->bytes == sizeof(double);
    uint64_t bytes = chunk->count * options->type->bytes, count = chunk->count;
    double rate = options->rate, volatility = options->volatility;
    float rate_f32 = (float)rate, volatility_f32 = (float)volatility;
    void *arguments[] = {&options->arrays[SPOT],
                         &options->arrays[STRIKE],
                         &options->arrays[YEARS],
                         &options->arrays[CALL],
                         &options->arrays[PUT],
                         &count,
                         f64 ? (void *)&rate : (void *)&rate_f32,
                         f64 ? (void *)&volatility : (void *)&volatility_f32};
    for (int i = 0; i < INPUTS; i++)
        if (device_load(job, options->arrays[i], chunk->arrays[i], bytes) < 0)
            return -1;
    if (device_run_array(job, f64 ? KERNEL_price_f64 : KERNEL_price_f32, count, arguments) < 0)
        return -1;
    for (int i = CALL; i <= PUT; i++)
        if (device_store(job, chunk->arrays[i], options->arrays[i], bytes) < 0)
            return -1;
    return 0;
}

/* options_allocate: a chunk's arrays on the device. */
static int options_allocate(struct job *job, struct options *options, uint64_t count)
{
    uint64_t most = CHUNK_PARTS * STREAM_PART;
    for (int i = SPOT; i <= PUT; i++)
        if (device_allocate(job, (count < most ? count : most) * options->type->bytes,
                            &options->arrays[i]) < 0)
            return -1;
    return 0;
}

static int options_fold(struct job *job, void *context, const struct stream_part *part)
{
    struct options *options = context;
    const struct options_result *result = part->result;
    options->call_sum += result->call_sum;
    options->put_sum += result->put_sum;
    options->max_abs_error = fmax(options->max_abs_error, result->max_abs_error);
    if (!result->wrong)
        return 0;
    job_fail(job,
             "verification failed: one of the prices %" PRIu64 " to %" PRIu64
             " is wrong by more than rounding can explain: the device cannot be trusted",
             part->first, part->first + part->count - 1);
    return -1;
}

static const struct workload_param black_scholes_params[] = {
    {.name = "spot",
     .type = PARAM_FILE_IN,
     .help = "Input: prices of the underlying, little endian."},
    {.name = "strike", .type = PARAM_FILE_IN, .help = "Input: strike prices, as many."},
    {.name = "years", .type = PARAM_FILE_IN, .help = "Input: years to expiry, as many."},
    {.name = "call", .type = PARAM_FILE_OUT, .help = "Where the prices of the calls go."},
    {.name = "put", .type = PARAM_FILE_OUT, .help = "Where the prices of the puts go."},
    {.name = "rate",
     .type = PARAM_REAL,
     .real_min = -1,
     .real_max = 1,
     .default_value = "0.02",
     .help = "The riskless rate of a year, continuously compounded."},
    {.name = "volatility",
     .type = PARAM_REAL,
     .real_min = 0.001,
     .real_max = 10,
     .default_value = "0.3",
     .help = "Of a year."},
    PARAM_ELEMENTS((uint64_t)1 << 32),
    PARAM_SEED,
    PARAM_DTYPE,
};

static const char *const input_names[] = {"spot", "strike", "years"};

static int black_scholes_check(struct job *job)
{
    uint64_t count;
    return array_count(job, input_names, INPUTS, &count);
}

static enum job_status run_on(struct job *job, bool on_device)
{
    uint64_t count, seed = job_uint(job, "seed");
    if (array_count(job, input_names, INPUTS, &count) < 0)
        return JOB_FAILED;
    struct options options = {
        .type = array_type(job),
        .rate = job_real(job, "rate"),
        .volatility = job_real(job, "volatility"),
        .keys = {generate_key(seed, 0), generate_key(seed, 1), generate_key(seed, 2)}};
    const struct stream stream = {
        .names = {"spot", "strike", "years", "call", "put"},
        .input_count = INPUTS,
        .array_count = INPUTS + 2,
        .type = options.type,
        .result_bytes = sizeof(struct options_result),
        .chunk_parts = CHUNK_PARTS,
        .context = &options,
        .fill = options_fill,
        .whole = on_device ? options_price : NULL,
        .phases = {{on_device ? options_verify : options_work, options_fold}},
    };
    if (on_device && count > 0 && options_allocate(job, &options, count) < 0)
        return JOB_FAILED;
    if (stream_run(job, &stream, count) < 0)
        return job_end(job);
    char call[REAL_TEXT_SIZE], put[REAL_TEXT_SIZE], error[REAL_TEXT_SIZE];
    job_printf(job, "n=%" PRIu64 " dtype=%s call_sum=%s put_sum=%s max_abs_error=%s", count,
               options.type->name, real_text(call, options.call_sum),
               real_text(put, options.put_sum), real_text(error, options.max_abs_error));
    job_print_times(job);
    return JOB_DONE;
}

static enum job_status black_scholes_run(struct job *job)
{
    return run_on(job, false);
}

static enum job_status black_scholes_cuda(struct job *job)
{
    return run_on(job, true);
}

const struct workload workload_black_scholes = {
    .info = {.name = "BLACK_SCHOLES",
             .summary = "Prices European options, and verifies every price.",
             .params = black_scholes_params,
             .param_count = sizeof(black_scholes_params) / sizeof(black_scholes_params[0])},
    .check = black_scholes_check,
    .cpu = black_scholes_run,
    .cuda = black_scholes_cuda,
};
