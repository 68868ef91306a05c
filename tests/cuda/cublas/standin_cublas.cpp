/*
 * A stand-in for NVIDIA's libcublas.so.13, for tests: what the "cuBLAS" documentation says of the
 * calls that the project makes, done by loops on the memory of the stand-in's device, and nothing
 * else. Matrices are in columns; a leading dimension is at least the number of rows; with beta = 0
 * C is not read; a stream takes the workspace away. What lies in the workspace afterwards is what a
 * library that sums in parts would leave.
 *
 *   STANDIN_CUBLAS_FAIL=CALL:CODE  that call (create, gemm) returns that code
 *   STANDIN_CUBLAS_LOG=FILE        a line for each product: type, m, n, k
 */
#include "library_stream.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))

enum { NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { OP_N, OP_T, OP_C };
enum { PEDANTIC_MATH = 2 };

struct cublasContext {
    CUstream stream;
    char *workspace;
    size_t workspace_bytes;
    int math_mode;
};

EXPORT int cublasCreate_v2(cublasContext **handle);
EXPORT int cublasDestroy_v2(cublasContext *handle);
EXPORT int cublasGetVersion_v2(cublasContext *handle, int *version);
EXPORT int cublasSetStream_v2(cublasContext *handle, CUstream stream);
EXPORT int cublasSetWorkspace_v2(cublasContext *handle, void *workspace, size_t bytes);
EXPORT int cublasSetMathMode(cublasContext *handle, int mode);
EXPORT int cublasSgemm_v2(cublasContext *handle, int op_a, int op_b, int m, int n, int k,
                          const float *alpha, const float *a, int lda, const float *b, int ldb,
                          const float *beta, float *c, int ldc);
EXPORT int cublasDgemm_v2(cublasContext *handle, int op_a, int op_b, int m, int n, int k,
                          const double *alpha, const double *a, int lda, const double *b, int ldb,
                          const double *beta, double *c, int ldc);

static int told_to_fail(const char *call)
{
    const char *wanted = getenv("STANDIN_CUBLAS_FAIL");
    const size_t size = strlen(call);
    return wanted && strncmp(wanted, call, size) == 0 && wanted[size] == ':'
               ? atoi(wanted + size + 1)
               : 0;
}

int cublasCreate_v2(cublasContext **handle)
{
    const int status = told_to_fail("create");
    if (status)
        return status;
    *handle = new cublasContext();
    return 0;
}

int cublasDestroy_v2(cublasContext *handle)
{
    delete handle;
    return 0;
}

int cublasGetVersion_v2(cublasContext *, int *version)
{
    *version = 130102;
    return 0;
}

int cublasSetStream_v2(cublasContext *handle, CUstream stream)
{
    handle->stream = stream;
    handle->workspace = nullptr;
    return 0;
}

int cublasSetWorkspace_v2(cublasContext *handle, void *workspace, size_t bytes)
{
    if ((uintptr_t)workspace % 256 != 0)
        return INVALID_VALUE;
    handle->workspace = (char *)workspace;
    handle->workspace_bytes = bytes;
    return 0;
}

int cublasSetMathMode(cublasContext *handle, int mode)
{
    handle->math_mode = mode;
    return 0;
}

static void log_product(const char *type, int m, int n, int k)
{
    const char *path = getenv("STANDIN_CUBLAS_LOG");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file)
        return;
    fprintf(file, "%s %d %d %d\n", type, m, n, k);
    fclose(file);
}

template <typename T>
static int gemm(cublasContext *handle, const char *type, int op_a, int op_b, int m, int n, int k,
                const T *alpha, const T *a, int lda, const T *b, int ldb, const T *beta, T *c,
                int ldc)
{
    if (!handle)
        return NOT_INITIALIZED;
    if (told_to_fail("gemm"))
        return told_to_fail("gemm");
    if (m < 0 || n < 0 || k < 0 || op_a > OP_C || op_b > OP_C || !alpha || !beta ||
        lda < std::max(1, op_a == OP_N ? m : k) || ldb < std::max(1, op_b == OP_N ? k : n) ||
        ldc < std::max(1, m))
        return INVALID_VALUE;
    /* The project's own rules: its memory, which it clears, and arithmetic in the type alone. */
    if (!handle->workspace || handle->math_mode != PEDANTIC_MATH)
        return NOT_SUPPORTED;
    if (!stream_wait(handle->stream))
        return NOT_INITIALIZED;
    for (int column = 0; column < n; column++) {
        for (int row = 0; row < m; row++) {
            T sum = 0;
            for (int i = 0; i < k; i++)
                sum += (op_a == OP_N ? a[row + (size_t)i * lda] : a[i + (size_t)row * lda]) *
                       (op_b == OP_N ? b[i + (size_t)column * ldb] : b[column + (size_t)i * ldb]);
            T *at = &c[row + (size_t)column * ldc];
            *at = *beta == 0 ? *alpha * sum : *alpha * sum + *beta * *at;
        }
    }
    memcpy(handle->workspace, c, std::min(handle->workspace_bytes, sizeof(T) * m));
    log_product(type, m, n, k);
    return 0;
}

int cublasSgemm_v2(cublasContext *handle, int op_a, int op_b, int m, int n, int k,
                   const float *alpha, const float *a, int lda, const float *b, int ldb,
                   const float *beta, float *c, int ldc)
{
    return gemm(handle, "f32", op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

int cublasDgemm_v2(cublasContext *handle, int op_a, int op_b, int m, int n, int k,
                   const double *alpha, const double *a, int lda, const double *b, int ldb,
                   const double *beta, double *c, int ldc)
{
    return gemm(handle, "f64", op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
