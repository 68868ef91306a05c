#include "array.h"

#include "generate.h"
#include "parallel.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is read, made or written between two looks at the clock, and what one thread makes of it. */
#define PIECE_BYTES   ((size_t)4 << 20)
#define PART_ELEMENTS ((size_t)16384)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data files are little endian");

static const struct element_type types[] = {
    {"f32", sizeof(float), FLT_MANT_DIG, 0x1p-24, (double)FLT_MIN, (double)FLT_MAX},
    {"f64", sizeof(double), DBL_MANT_DIG, 0x1p-53, DBL_MIN, DBL_MAX},
};

const struct element_type *array_type(const struct job *job)
{
    const char *name = job_text(job, "dtype");
    size_t i = 0;
    while (strcmp(types[i].name, name) != 0) /* the table of parameters allows no other */
        i++;
    return &types[i];
}

/* check_together: of input files all are given, or none. */
static int check_together(struct job *job, const char *const *names, size_t name_count)
{
    size_t given = 0;
    char list[128] = "";
    for (size_t i = 0; i < name_count; i++) {
        size_t used = strlen(list);
        given += job_given(job, names[i]);
        snprintf(list + used, sizeof(list) - used, "%s%s=", i ? ", " : "", names[i]);
    }
    if (given == 0 || given == name_count)
        return 0;
    job_fail(job, "%s go together: give all, or none for made-up input", list);
    return -1;
}

int array_count(struct job *job, const char *const *names, size_t name_count, uint64_t *count)
{
    const struct element_type *type = array_type(job);
    *count = job_uint(job, "n");
    if (check_together(job, names, name_count) < 0)
        return -1;
    if (!job_given(job, names[0]))
        return 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < name_count; i++) {
        uint64_t found;
        if (job_file_size(job, names[i], &found) < 0)
            return -1;
        if (i > 0 && found != bytes) {
            job_fail(job, "%s= has %" PRIu64 " bytes and %s= %" PRIu64 ": they must be of one size",
                     names[0], bytes, names[i], found);
            return -1;
        }
        bytes = found;
    }
    if (bytes % type->bytes)
        job_fail(job, "%s= has %" PRIu64 " bytes: no whole number of %s elements", names[0], bytes,
                 type->name);
    else if (job_given(job, "n") && *count != bytes / type->bytes)
        job_fail(job, "n=%" PRIu64 ", but %s= holds %" PRIu64 " %s elements", *count, names[0],
                 bytes / type->bytes, type->name);
    *count = bytes / type->bytes;
    return job->error[0] ? -1 : 0;
}

unsigned array_sum_bits(const struct element_type *type, uint64_t count)
{
    unsigned log2_count = 0;
    while (log2_count < 40 && (uint64_t)1 << log2_count < count)
        log2_count++;
    unsigned exact = DBL_MANT_DIG - log2_count;
    return exact < type->mantissa ? exact : type->mantissa;
}

void array_fill(const struct element_type *type, void *to, uint64_t key, uint64_t first,
                size_t count, unsigned bits)
{
    if (type->bytes == sizeof(double)) {
        double *restrict x = to;
        for (size_t i = 0; i < count; i++)
            x[i] = generate_real(key, first + i, bits);
    } else {
        float *restrict x = to;
        for (size_t i = 0; i < count; i++)
            x[i] = (float)generate_real(key, first + i, bits);
    }
}

double array_get(const struct element_type *type, const void *data, uint64_t index)
{
    if (type->bytes == sizeof(double))
        return ((const double *)data)[index];
    return (double)((const float *)data)[index];
}

/* memory_available is /proc/meminfo's estimate (proc(5)), or UINT64_MAX if there is none. */
static uint64_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    uint64_t kib = UINT64_MAX / 1024;
    char line[128];
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

int array_check_memory(struct job *job, uint64_t bytes, const char *advice)
{
    uint64_t available = memory_available();
    if (bytes <= ARRAY_MAX_BYTES && bytes <= available)
        return 0;
    job_fail(job,
             "this needs %" PRIu64 " MiB of memory, and %" PRIu64 " MiB is what a job may have "
             "here now: %s",
             (bytes >> 20) + 1, (available < ARRAY_MAX_BYTES ? available : ARRAY_MAX_BYTES) >> 20,
             advice);
    return -1;
}

void *array_allocate(struct job *job, uint64_t bytes, const char *advice)
{
    void *data = aligned_alloc(64, (size_t)(bytes / 64 + 1) * 64);
    if (!data)
        job_fail(job, "no memory for %" PRIu64 " MiB: %s", (bytes >> 20) + 1, advice);
    return data;
}

struct fill {
    const struct array_span *span;
    uint64_t key, first, end;
    unsigned bits;
};

static void fill_part(void *context, size_t index)
{
    const struct fill *fill = context;
    uint64_t first = fill->first + index * PART_ELEMENTS, left = fill->end - first;
    const struct element_type *type = fill->span->type;
    array_fill(type, (char *)fill->span->data + first * type->bytes, fill->key, first,
               left < PART_ELEMENTS ? (size_t)left : PART_ELEMENTS, fill->bits);
}

int array_load(struct job *job, const char *name, const struct array_span *span, uint64_t key,
               unsigned bits)
{
    const size_t most = PIECE_BYTES / span->type->bytes;
    for (uint64_t first = 0; first < span->count; first += most) {
        uint64_t left = span->count - first, offset = first * span->type->bytes;
        size_t here = left < most ? (size_t)left : most;
        double done = (double)first / (double)span->count;
        if (job_step(job, span->from + (span->to - span->from) * done) < 0)
            return -1;
        if (name && job_given(job, name)) {
            if (job_read(job, name, (char *)span->data + offset, here * span->type->bytes, offset) <
                0)
                return -1;
            continue;
        }
        uint64_t start = job_clock_ns();
        struct fill fill = {span, key, first, first + here, bits};
        parallel_run((here + PART_ELEMENTS - 1) / PART_ELEMENTS, fill_part, &fill);
        job->compute_ns += job_clock_ns() - start;
    }
    return 0;
}

int array_store(struct job *job, const char *name, const struct array_span *span)
{
    const uint64_t bytes = span->count * span->type->bytes;
    if (!job_given(job, name))
        return 0;
    if (job_reserve(job, name, bytes) < 0)
        return -1;
    for (uint64_t offset = 0; offset < bytes; offset += PIECE_BYTES) {
        size_t here = bytes - offset < PIECE_BYTES ? (size_t)(bytes - offset) : PIECE_BYTES;
        double done = (double)offset / (double)bytes;
        if (job_step(job, span->from + (span->to - span->from) * done) < 0 ||
            job_write(job, name, (const char *)span->data + offset, here, offset) < 0)
            return -1;
    }
    return 0;
}

struct checksum {
    const struct array_span *span;
    uint64_t first, end;
    double sums[PIECE_BYTES / sizeof(float) / PART_ELEMENTS];
};

static void checksum_part(void *context, size_t index)
{
    struct checksum *checksum = context;
    const struct array_span *span = checksum->span;
    uint64_t first = checksum->first + index * PART_ELEMENTS;
    uint64_t end = checksum->end - first < PART_ELEMENTS ? checksum->end : first + PART_ELEMENTS;
    double sum = 0;
    for (uint64_t i = first; i < end; i++)
        sum += array_get(span->type, span->data, i) * (double)(int)(i % 7 + 1);
    checksum->sums[index] = sum;
}

int array_checksum(struct job *job, const struct array_span *span, double *result)
{
    const uint64_t most = PIECE_BYTES / span->type->bytes;
    struct checksum checksum = {.span = span};
    *result = 0;
    for (checksum.first = 0; checksum.first < span->count; checksum.first += most) {
        uint64_t left = span->count - checksum.first, here = left < most ? left : most;
        if (job_step(job, span->from) < 0)
            return -1;
        uint64_t start = job_clock_ns();
        size_t parts = (size_t)((here + PART_ELEMENTS - 1) / PART_ELEMENTS);
        checksum.end = checksum.first + here;
        parallel_run(parts, checksum_part, &checksum);
        for (size_t i = 0; i < parts; i++)
            *result += checksum.sums[i];
        job->compute_ns += job_clock_ns() - start;
    }
    return 0;
}
