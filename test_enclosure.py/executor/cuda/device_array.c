#include "device_array.h"

/* What is copied between two looks at the clock. */
#define PIECE_BYTES ((size_t)4 << 20)

/* What a lane's staging holds of the file. */
struct piece {
    uint64_t offset;
    size_t bytes; /* 0: nothing */
};

static struct piece piece_at(const struct array_span *span, uint64_t offset)
{
    uint64_t left = span->count * span->type->bytes - offset;
    return (struct piece){offset, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES};
}

static int step(struct job *job, const struct array_span *span, uint64_t offset)
{
    double done = (double)offset / (double)(span->count * span->type->bytes);
    return job_step(job, span->from + (span->to - span->from) * done);
}

static int load_piece(struct job *job, const char *name, struct device_lane *lane,
                      const struct piece *piece, CUdeviceptr to)
{
    if (job_read(job, name, lane->staging, piece->bytes, piece->offset) < 0 ||
        device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_copy_in(job, lane, to + piece->offset, lane->staging, piece->bytes) < 0)
        return -1;
    return device_mark(job, lane, MARK_LOADED);
}

static int load_file(struct job *job, const char *name, const struct array_span *span,
                     CUdeviceptr to)
{
    bool busy[DEVICE_LANES] = {false};
    unsigned turn = 0;
    for (uint64_t offset = 0; offset < span->count * span->type->bytes; offset += PIECE_BYTES) {
        struct piece piece = piece_at(span, offset);
        if (step(job, span, offset) < 0 ||
            (busy[turn] && device_wait(job, &device.lanes[turn]) < 0) ||
            load_piece(job, name, &device.lanes[turn], &piece, to) < 0)
            return -1;
        busy[turn] = true;
        turn = (turn + 1) % DEVICE_LANES;
    }
    for (turn = 0; turn < DEVICE_LANES; turn++)
        if (busy[turn] && device_wait(job, &device.lanes[turn]) < 0)
            return -1;
    return 0;
}

int device_array_load(struct job *job, const char *name, const struct array_span *span,
                      CUdeviceptr to, uint64_t key, unsigned bits)
{
    struct device_lane *lane = &device.lanes[0];
    if (job_given(job, name))
        return load_file(job, name, span, to);
    if (job_step(job, span->from) < 0 || device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_fill(job, lane, span->type, to, key, 0, span->count, bits) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0)
        return -1;
    return device_wait(job, lane);
}

/* write_piece waits for the lane's copy, if there is one, and writes it. */
static int write_piece(struct job *job, const char *name, struct device_lane *lane,
                       struct piece *piece)
{
    if (piece->bytes == 0)
        return 0;
    if (device_wait(job, lane) < 0 ||
        job_write(job, name, lane->staging, piece->bytes, piece->offset) < 0)
        return -1;
    piece->bytes = 0;
    return 0;
}

static int fetch_piece(struct job *job, struct device_lane *lane, const struct piece *piece,
                       CUdeviceptr from)
{
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_copy_out(job, lane, lane->staging, from + piece->offset, piece->bytes) < 0)
        return -1;
    return device_mark(job, lane, MARK_STORED);
}

int device_array_store(struct job *job, const char *name, const struct array_span *span,
                       CUdeviceptr from)
{
    const uint64_t bytes = span->count * span->type->bytes;
    struct piece pieces[DEVICE_LANES] = {{0}};
    unsigned turn = 0;
    if (!job_given(job, name))
        return 0;
    if (job_reserve(job, name, bytes) < 0)
        return -1;
    for (uint64_t offset = 0; offset < bytes; offset += PIECE_BYTES) {
        struct device_lane *lane = &device.lanes[turn];
        if (step(job, span, offset) < 0 || write_piece(job, name, lane, &pieces[turn]) < 0)
            return -1;
        pieces[turn] = piece_at(span, offset);
        if (fetch_piece(job, lane, &pieces[turn], from) < 0)
            return -1;
        turn = (turn + 1) % DEVICE_LANES;
    }
    /* The older of the two that are left is the one whose turn it is. */
    for (unsigned i = 0; i < DEVICE_LANES; i++, turn = (turn + 1) % DEVICE_LANES)
        if (write_piece(job, name, &device.lanes[turn], &pieces[turn]) < 0)
            return -1;
    return 0;
}

int device_array_checksum(struct job *job, const struct array_span *span, CUdeviceptr from,
                          CUdeviceptr results, double *checksum)
{
    struct device_lane *lane = &device.lanes[0];
    uint64_t count = span->count;
    const size_t bytes = DEVICE_CHECKSUM_BYTES(count);
    const double *found = (const void *)lane->staging;
    void *arguments[] = {&from, &count, &results};
    if (job_step(job, span->from) < 0 || device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch(job, lane,
                      span->type->bytes == sizeof(double) ? KERNEL_checksum_f64
                                                          : KERNEL_checksum_f32,
                      (unsigned)(bytes / sizeof(double)), 1, PART_THREADS, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0 ||
        device_copy_out(job, lane, lane->staging, results, bytes) < 0 ||
        device_mark(job, lane, MARK_STORED) < 0 || device_wait(job, lane) < 0)
        return -1;
    *checksum = 0;
    for (size_t i = 0; i < bytes / sizeof(double); i++)
        *checksum += found[i];
    return 0;
}

/* The sums of as much as a job may have go through the staging at once. */
_Static_assert(DEVICE_CHECKSUM_BYTES(ARRAY_MAX_BYTES / sizeof(float)) <= DEVICE_STAGING_BYTES,
               "a lane's staging holds them");
