/*
 * A stand-in for NVIDIA's libcufft.so.12, for tests: what the "cuFFT" documentation says of the
 * calls that the project makes, done by the sum that defines a transform, on the memory of the
 * stand-in's device. The inverse is not divided by anything; a plan whose work area is not taken by
 * itself has none until it is given one; without embedding, transforms lie one behind the other.
 * What lies in the work area afterwards is what a library that works in steps would leave.
 *
 *   STANDIN_CUFFT_FAIL=CALL:CODE  that call (version, create, plan, exec) returns that code;
 *                                 CALL:CODE:N does so from its N-th on
 *   STANDIN_CUFFT_LOG=FILE        lines "plan TYPE N BATCH" and "exec TYPE N BATCH DIRECTION";
 *                                 "create" and "destroy" for each handle
 */
#include "library_stream.h"

#include <cmath>
#include <complex>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

enum {
    INVALID_PLAN = 1,
    INVALID_VALUE = 4,
    EXEC_FAILED = 6,
    INVALID_SIZE = 8,
    NO_WORKSPACE = 13,
    NOT_SUPPORTED = 16
};
enum { C2C = 0x29, Z2Z = 0x69 };
enum { FORWARD = -1, INVERSE = 1 };

struct plan {
    int type, n, batch;
    CUstream stream;
    char *work;
    size_t work_bytes;
    bool own_work, made;
};

static std::map<int, plan> plans;

EXPORT int cufftGetVersion(int *version);
EXPORT int cufftCreate(int *handle);
EXPORT int cufftDestroy(int handle);
EXPORT int cufftSetAutoAllocation(int handle, int automatic);
EXPORT int cufftMakePlanMany(int handle, int rank, int *n, int *inembed, int istride, int idist,
                             int *onembed, int ostride, int odist, int type, int batch,
                             size_t *work_bytes);
EXPORT int cufftSetWorkArea(int handle, void *work);
EXPORT int cufftSetStream(int handle, CUstream stream);
EXPORT int cufftExecC2C(int handle, std::complex<float> *in, std::complex<float> *out,
                        int direction);
EXPORT int cufftExecZ2Z(int handle, std::complex<double> *in, std::complex<double> *out,
                        int direction);

static int told_to_fail(const char *call)
{
    static std::map<std::string, int> made;
    char name[16] = "";
    int code = 0, from = 1;
    const char *wanted = getenv("STANDIN_CUFFT_FAIL");
    if (!wanted || sscanf(wanted, "%15[a-z]:%d:%d", name, &code, &from) < 2 || strcmp(name, call))
        return 0;
    return ++made[call] >= from ? code : 0;
}

__attribute__((format(printf, 1, 2))) static void log_line(const char *format, ...)
{
    const char *path = getenv("STANDIN_CUFFT_LOG");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file)
        return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
}

static const char *type_name(int type)
{
    return type == C2C ? "f32" : "f64";
}

int cufftGetVersion(int *version)
{
    *version = 12003;
    return told_to_fail("version");
}

int cufftCreate(int *handle)
{
    static int last;
    const int status = told_to_fail("create");
    if (status)
        return status;
    *handle = ++last;
    plans[*handle] = plan{};
    plans[*handle].own_work = true;
    log_line("create\n");
    return 0;
}

int cufftDestroy(int handle)
{
    if (!plans.erase(handle))
        return INVALID_PLAN;
    log_line("destroy\n");
    return 0;
}

/* It comes before the plan is made. */
int cufftSetAutoAllocation(int handle, int automatic)
{
    if (!plans.count(handle) || plans[handle].made)
        return INVALID_PLAN;
    plans[handle].own_work = automatic;
    return 0;
}

int cufftMakePlanMany(int handle, int rank, int *n, int *inembed, int, int, int *onembed, int, int,
                      int type, int batch, size_t *work_bytes)
{
    const int status = told_to_fail("plan");
    if (status)
        return status;
    if (!plans.count(handle) || plans[handle].made)
        return INVALID_PLAN;
    if (rank != 1 || *n < 1 || batch < 1)
        return INVALID_SIZE;
    if (inembed || onembed || (type != C2C && type != Z2Z))
        return INVALID_VALUE;
    plan &made = plans[handle];
    made.made = true;
    made.type = type;
    made.n = *n;
    made.batch = batch;
    /* Short ones need none; what others need is no round number. */
    made.work_bytes = *n < 8 ? 0 : (size_t)*n * (size_t)batch * (type == C2C ? 8 : 16) + 24;
    *work_bytes = made.work_bytes;
    log_line("plan %s %d %d\n", type_name(type), *n, batch);
    return 0;
}

int cufftSetWorkArea(int handle, void *work)
{
    if (!plans.count(handle) || !plans[handle].made)
        return INVALID_PLAN;
    plans[handle].work = (char *)work;
    return 0;
}

int cufftSetStream(int handle, CUstream stream)
{
    if (!plans.count(handle))
        return INVALID_PLAN;
    plans[handle].stream = stream;
    return 0;
}

template <typename T>
static int exec(int handle, int type, const std::complex<T> *in, std::complex<T> *out,
                int direction)
{
    const int status = told_to_fail("exec");
    if (status)
        return status;
    if (!plans.count(handle) || !plans[handle].made || plans[handle].type != type)
        return INVALID_PLAN;
    const plan &made = plans[handle];
    if (!in || !out || (direction != FORWARD && direction != INVERSE))
        return INVALID_VALUE;
    /* The project's own rule: memory that it counts and clears. */
    if (made.own_work)
        return NOT_SUPPORTED;
    if (made.work_bytes > 0 && !made.work)
        return NO_WORKSPACE;
    if (!stream_wait(made.stream))
        return EXEC_FAILED;
    const size_t n = (size_t)made.n;
    std::vector<std::complex<double>> roots(n);
    for (size_t i = 0; i < n; i++)
        roots[i] = std::polar(1.0, direction * 2 * M_PI * (double)i / (double)n);
    for (size_t first = 0; first < n * (size_t)made.batch; first += n) {
        for (size_t k = 0; k < n; k++) {
            double re = 0, im = 0; /* the operator of std::complex looks for NaN each time */
            for (size_t i = 0, power = 0; i < n; i++, power = (power + k) % n) {
                const double x = in[first + i].real(), y = in[first + i].imag();
                re += x * roots[power].real() - y * roots[power].imag();
                im += x * roots[power].imag() + y * roots[power].real();
            }
            out[first + k] = std::complex<T>((T)re, (T)im);
        }
    }
    if (made.work_bytes > 0)
        for (size_t i = 0; i < made.work_bytes; i++)
            made.work[i] = ((const char *)out)[i % (n * sizeof(*out))];
    log_line("exec %s %d %d %d\n", type_name(type), made.n, made.batch, direction);
    return 0;
}

int cufftExecC2C(int handle, std::complex<float> *in, std::complex<float> *out, int direction)
{
    return exec(handle, C2C, in, out, direction);
}

int cufftExecZ2Z(int handle, std::complex<double> *in, std::complex<double> *out, int direction)
{
    return exec(handle, Z2Z, in, out, direction);
}
