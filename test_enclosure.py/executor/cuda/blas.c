#include "blas.h"

#include "common/log.h"
#include "library.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Names, values and prototypes of the "cuBLAS" documentation; every call returns 0 if it worked. */
#define CUBLAS_OP_N          0
#define CUBLAS_PEDANTIC_MATH 2 /* arithmetic in the elements' type alone: no TF32, no emulation */

typedef struct cublasContext *cublasHandle_t;

static struct {
    int (*create)(cublasHandle_t *handle);
    int (*destroy)(cublasHandle_t handle);
    int (*version)(cublasHandle_t handle, int *version);
    int (*set_stream)(cublasHandle_t handle, CUstream stream);
    int (*set_workspace)(cublasHandle_t handle, void *workspace, size_t bytes);
    int (*set_math_mode)(cublasHandle_t handle, int mode);
    int (*sgemm)(cublasHandle_t handle, int op_a, int op_b, int m, int n, int k, const float *alpha,
                 const float *a, int lda, const float *b, int ldb, const float *beta, float *c,
                 int ldc);
    int (*dgemm)(cublasHandle_t handle, int op_a, int op_b, int m, int n, int k,
                 const double *alpha, const double *a, int lda, const double *b, int ldb,
                 const double *beta, double *c, int ldc);
} cublas;

static const struct library_call calls[] = {
    {"cublasCreate_v2", offsetof(__typeof__(cublas), create)},
    {"cublasDestroy_v2", offsetof(__typeof__(cublas), destroy)},
    {"cublasGetVersion_v2", offsetof(__typeof__(cublas), version)},
    {"cublasSetStream_v2", offsetof(__typeof__(cublas), set_stream)},
    {"cublasSetWorkspace_v2", offsetof(__typeof__(cublas), set_workspace)},
    {"cublasSetMathMode", offsetof(__typeof__(cublas), set_math_mode)},
    {"cublasSgemm_v2", offsetof(__typeof__(cublas), sgemm)},
    {"cublasDgemm_v2", offsetof(__typeof__(cublas), dgemm)},
};

/* The newest first: one that is newer than the driver does not work with it. */
static const char *const libraries[] = {"libcublas.so.13", "libcublas.so.12"};

static cublasHandle_t handle; /* NULL: not in use */
static CUdeviceptr workspace; /* of the job that runs */
static struct library_name name = {.text = "own kernels"};

static bool use(const char *file)
{
    char why[32];
    int version = 0, status;
    if (!library_load(&name, file, calls, sizeof(calls) / sizeof(calls[0]), &cublas))
        return false;
    status = cublas.create(&handle);
    if (status == 0)
        status = cublas.set_math_mode(handle, CUBLAS_PEDANTIC_MATH);
    if (status == 0)
        status = cublas.version(handle, &version);
    if (status != 0) {
        snprintf(why, sizeof(why), "error %d at its start", status);
        library_leave_out(&name, file, why);
        blas_close();
        return false;
    }
    /* From 10.0 on 10000 * major + 100 * minor + patch. */
    snprintf(name.text, sizeof(name.text), "cuBLAS %d.%d.%d", version / 10000, version / 100 % 100,
             version % 100);
    return true;
}

void blas_open(void)
{
    if (!library_is_wanted(&name, "cuBLAS"))
        return;
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++)
        if (use(libraries[i]))
            return;
}

void blas_close(void)
{
    if (handle)
        cublas.destroy(handle);
    handle = NULL;
}

const char *blas_name(void)
{
    return name.text;
}

int blas_prepare(struct job *job)
{
    return handle ? device_allocate_if_room(job, BLAS_WORKSPACE_BYTES, &workspace) : 0;
}

/* A device address as the library's C prototypes have it. */
static void *pointer(CUdeviceptr address)
{
    return (void *)(uintptr_t)address;
}

/*
 * multiply: cuBLAS has matrices in columns. Rows of A * B are columns of its transpose, which is
 * transposed B times transposed A: the same bytes, read as columns.
 */
static int multiply(const struct blas_product *p)
{
    static const float one_f32 = 1, zero_f32 = 0;
    static const double one_f64 = 1, zero_f64 = 0;
    if (p->f64)
        return cublas.dgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, p->n, p->m, p->k, &one_f64,
                            pointer(p->b), p->n, pointer(p->a), p->k, &zero_f64, pointer(p->c),
                            p->n);
    return cublas.sgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, p->n, p->m, p->k, &one_f32, pointer(p->b),
                        p->n, pointer(p->a), p->k, &zero_f32, pointer(p->c), p->n);
}

bool blas_multiply(struct device_lane *lane, const struct blas_product *product)
{
    /* Another stream takes the workspace away: that comes second. */
    int status = cublas.set_stream(handle, lane->stream);
    if (status == 0)
        status = cublas.set_workspace(handle, pointer(workspace), BLAS_WORKSPACE_BYTES);
    if (status == 0)
        status = multiply(product);
    if (status == 0)
        return true;
    log_warning("%s: error %d: matrices are multiplied by own kernels from now on", name.text,
                status);
    char why[32];
    snprintf(why, sizeof(why), "error %d", status);
    library_leave_out(&name, "cuBLAS", why);
    blas_close();
    return false;
}
