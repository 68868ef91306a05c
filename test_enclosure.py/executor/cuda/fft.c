#include "fft.h"

#include "fft_library.h"

/* Kernels of each type: f32, f64. */
static const struct kernels {
    size_t bytes; /* of an element */
    enum kernel_name roots, chirp, pass, spread, multiply, gather, divide;
} kernels[] = {
    {2 * sizeof(float), KERNEL_fft_roots_f32, KERNEL_fft_chirp_f32, KERNEL_fft_pass_f32,
     KERNEL_fft_spread_f32, KERNEL_fft_multiply_f32, KERNEL_fft_gather_f32, KERNEL_fft_divide_f32},
    {2 * sizeof(double), KERNEL_fft_roots_f64, KERNEL_fft_chirp_f64, KERNEL_fft_pass_f64,
     KERNEL_fft_spread_f64, KERNEL_fft_multiply_f64, KERNEL_fft_gather_f64, KERNEL_fft_divide_f64},
};

/* A number in the type that a kernel wants. */
union scale {
    float f32;
    double f64;
};

static union scale scale_of(const struct device_fft *fft, double value)
{
    return fft->f64 ? (union scale){.f64 = value} : (union scale){.f32 = (float)value};
}

/* What a pass does: see kernels_fft.cu. */
struct pass {
    CUdeviceptr in, out;
    unsigned length, apart, exchange_in, exchange_out;
    double scale;
};

static int run_pass(struct job *job, const struct device_fft *fft, uint64_t batch,
                    struct pass *pass)
{
    const struct kernels *kernel = &kernels[fft->f64];
    uint64_t n = fft->size, columns = batch * n / pass->length;
    uint64_t width = FFT_TILE_BYTES / kernel->bytes / pass->length;
    CUdeviceptr roots = fft->roots;
    union scale scale = scale_of(fft, pass->scale);
    void *arguments[] = {&pass->in,           &pass->out, &roots,       &n,
                         &pass->length,       &columns,   &pass->apart, &pass->exchange_in,
                         &pass->exchange_out, &scale};
    return device_launch(job, &device.lanes[0], kernel->pass,
                         (unsigned)((columns + width - 1) / width), 1, FFT_THREADS, arguments);
}

/* transform: of fft->size elements each, from `in` to `out`, which may be the same if `between`,
 * what lies between the two passes, is another. */
static int transform(struct job *job, const struct device_fft *fft, CUdeviceptr in,
                     CUdeviceptr between, CUdeviceptr out, uint64_t batch, bool inverse,
                     double scale)
{
    const uint64_t most = FFT_TILE_BYTES / kernels[fft->f64].bytes;
    struct pass first = {in, between, 0, 1, inverse, 0, 1};
    struct pass last = {in, out, (unsigned)fft->size, 0, inverse, inverse, scale};
    if (fft->size > most) {
        uint64_t length = 1;
        while (length * length < fft->size)
            length *= 2;
        first.length = (unsigned)length;
        last.length = (unsigned)(fft->size / length);
        last.in = between;
        last.exchange_in = 0;
        if (run_pass(job, fft, batch, &first) < 0)
            return -1;
    }
    return run_pass(job, fft, batch, &last);
}

/* convolve: a length that is no power of two (Bluestein). */
static int convolve(struct job *job, const struct device_fft *fft, CUdeviceptr in, CUdeviceptr out,
                    uint64_t batch, bool inverse)
{
    const struct kernels *kernel = &kernels[fft->f64];
    struct device_lane *lane = &device.lanes[0];
    unsigned n = (unsigned)fft->n, size = (unsigned)fft->size, count = (unsigned)batch;
    unsigned exchange = inverse;
    CUdeviceptr chirp = fft->chirp, factor = fft->factor, work = fft->work[0];
    union scale scale = scale_of(fft, inverse ? 1 / (double)fft->n : 1);
    void *spread[] = {&in, &chirp, &work, &n, &size, &count, &exchange};
    void *multiply[] = {&work, &factor, &size, &count};
    void *gather[] = {&work, &chirp, &out, &n, &size, &count, &exchange, &scale};
    if (device_launch_array(job, lane, kernel->spread, batch * fft->size, spread) < 0 ||
        transform(job, fft, work, fft->work[1], work, batch, false, 1) < 0 ||
        device_launch_array(job, lane, kernel->multiply, batch * fft->size, multiply) < 0 ||
        transform(job, fft, work, fft->work[1], work, batch, true, 1) < 0)
        return -1;
    return device_launch_array(job, lane, kernel->gather, batch * fft->n, gather);
}

static int begin(struct job *job)
{
    return device_mark(job, &device.lanes[0], MARK_BEGIN);
}

static int end(struct job *job)
{
    if (device_mark(job, &device.lanes[0], MARK_COMPUTED) < 0)
        return -1;
    return device_wait(job, &device.lanes[0]);
}

/* prepare_chirp: the factor is the transform of the chirp's conjugate, and has what the inverse is
 * to be divided by in it. */
static int prepare_chirp(struct job *job, struct device_fft *fft)
{
    const struct kernels *kernel = &kernels[fft->f64];
    uint64_t n = fft->n, size = fft->size;
    void *chirp[] = {&fft->chirp, &fft->factor, &n, &size};
    if (device_launch_array(job, &device.lanes[0], kernel->chirp, size, chirp) < 0)
        return -1;
    return transform(job, fft, fft->factor, fft->work[1], fft->factor, 1, false, 1 / (double)size);
}

static int allocate(struct job *job, struct device_fft *fft, bool chirped)
{
    const uint64_t most = fft->most;
    const size_t bytes = kernels[fft->f64].bytes;
    if (device_allocate(job, fft->size * bytes, &fft->roots) < 0)
        return -1;
    if (fft->size > FFT_TILE_BYTES / bytes &&
        device_allocate(job, most * fft->size * bytes, &fft->work[1]) < 0)
        return -1;
    if (!chirped)
        return 0;
    if (device_allocate(job, most * fft->size * bytes, &fft->work[0]) < 0 ||
        device_allocate(job, fft->n * bytes, &fft->chirp) < 0)
        return -1;
    return device_allocate(job, fft->size * bytes, &fft->factor);
}

/* prepare_kernels makes what the own kernels need. */
static int prepare_kernels(struct job *job, struct device_fft *fft)
{
    uint64_t n = fft->n;
    bool chirped = (n & (n - 1)) != 0;
    fft->size = 1;
    while (fft->size < (chirped ? 2 * n - 1 : n))
        fft->size *= 2;
    void *roots[] = {&fft->roots, &fft->size};
    if (allocate(job, fft, chirped) < 0 || begin(job) < 0 ||
        device_launch_array(job, &device.lanes[0], kernels[fft->f64].roots, fft->size, roots) < 0)
        return -1;
    if (chirped && prepare_chirp(job, fft) < 0)
        return -1;
    return end(job);
}

int device_fft_prepare(struct job *job, struct device_fft *fft, bool f64, uint64_t n, uint64_t most)
{
    *fft = (struct device_fft){.f64 = f64, .n = n, .most = most};
    int prepared = fft_library_prepare(job, f64, n, most);
    fft->library = prepared > 0;
    return prepared != 0 ? (prepared < 0 ? -1 : 0) : prepare_kernels(job, fft);
}

/* run_by_library: 1 if it is done, 0 if cuFFT cannot, -1 and the job has failed. */
static int run_by_library(struct job *job, const struct device_fft *fft, CUdeviceptr in,
                          CUdeviceptr out, uint64_t batch, bool inverse)
{
    uint64_t count = 2 * batch * fft->n;
    union scale scale = scale_of(fft, 1 / (double)fft->n);
    void *divide[] = {&out, &count, &scale};
    if (begin(job) < 0)
        return -1;
    if (!fft_library_run(&device.lanes[0], in, out, inverse))
        return 0;
    if (inverse &&
        device_launch_array(job, &device.lanes[0], kernels[fft->f64].divide, count, divide) < 0)
        return -1;
    return end(job) < 0 ? -1 : 1;
}

static int run_by_kernels(struct job *job, const struct device_fft *fft, CUdeviceptr in,
                          CUdeviceptr out, uint64_t batch, bool inverse)
{
    if (begin(job) < 0)
        return -1;
    if (fft->chirp ? convolve(job, fft, in, out, batch, inverse) < 0
                   : transform(job, fft, in, fft->work[1], out, batch, inverse,
                               inverse ? 1 / (double)fft->n : 1) < 0)
        return -1;
    return end(job);
}

int device_fft_run(struct job *job, struct device_fft *fft, CUdeviceptr in, CUdeviceptr out,
                   uint64_t batch, bool inverse)
{
    if (fft->library) {
        int done = run_by_library(job, fft, in, out, batch, inverse);
        if (done != 0)
            return done < 0 ? -1 : 0;
        fft->library = false;
        if (prepare_kernels(job, fft) < 0)
            return -1;
    }
    return run_by_kernels(job, fft, in, out, batch, inverse);
}
