#include "transfer.h"

#include <string.h>

/* What is in a lane's staging. */
struct piece {
    struct device_lane *lane;
    uint64_t done; /* bytes before it */
    size_t bytes;  /* 0: nothing */
};

/* next_piece takes what is to be done after `done` bytes. -1 and the job should stop. */
static int next_piece(struct job *job, const struct device_span *span, uint64_t done,
                      struct piece *piece)
{
    uint64_t left = span->bytes - done;
    piece->done = done;
    piece->bytes = left < DEVICE_STAGING_BYTES ? (size_t)left : DEVICE_STAGING_BYTES;
    return job_step(job, span->from + (span->to - span->from) * (double)done / (double)span->bytes);
}

int device_read_file(struct job *job, const char *name, const struct device_span *span)
{
    struct piece pieces[DEVICE_LANES] = {{.lane = NULL}};
    unsigned turn = 0;
    for (uint64_t done = 0; done < span->bytes; turn = (turn + 1) % DEVICE_LANES) {
        struct piece *piece = &pieces[turn];
        if (piece->lane && device_wait(job, piece->lane) < 0)
            return -1;
        struct device_lane *lane = piece->lane = &device.lanes[turn];
        if (next_piece(job, span, done, piece) < 0 ||
            job_read(job, name, lane->staging, piece->bytes, span->offset + done) < 0 ||
            device_mark(job, lane, MARK_BEGIN) < 0 ||
            device_copy_in(job, lane, span->address + done, lane->staging, piece->bytes) < 0 ||
            device_mark(job, lane, MARK_LOADED) < 0)
            return -1;
        done += piece->bytes;
    }
    for (unsigned i = 0; i < DEVICE_LANES; i++)
        if (pieces[i].lane && device_wait(job, pieces[i].lane) < 0)
            return -1;
    return 0;
}

/* write_arrived writes what a lane has copied to its staging. */
static int write_arrived(struct job *job, const char *name, const struct device_span *span,
                         struct piece *piece)
{
    size_t bytes = piece->bytes;
    if (bytes == 0)
        return 0;
    piece->bytes = 0;
    return device_wait(job, piece->lane) < 0
               ? -1
               : job_write(job, name, piece->lane->staging, bytes, span->offset + piece->done);
}

int device_write_file(struct job *job, const char *name, const struct device_span *span)
{
    struct piece pieces[DEVICE_LANES] = {{.lane = NULL}};
    unsigned turn = 0;
    for (uint64_t done = 0; done < span->bytes; turn = (turn + 1) % DEVICE_LANES) {
        struct piece *piece = &pieces[turn];
        struct device_lane *lane = &device.lanes[turn];
        if (write_arrived(job, name, span, piece) < 0)
            return -1;
        piece->lane = lane;
        if (next_piece(job, span, done, piece) < 0 || device_mark(job, lane, MARK_BEGIN) < 0 ||
            device_copy_out(job, lane, lane->staging, span->address + done, piece->bytes) < 0 ||
            device_mark(job, lane, MARK_STORED) < 0)
            return -1;
        done += piece->bytes;
    }
    for (unsigned i = 0; i < DEVICE_LANES; i++)
        if (write_arrived(job, name, span, &pieces[(turn + i) % DEVICE_LANES]) < 0)
            return -1;
    return 0;
}

int device_run(struct job *job, enum kernel_name kernel, unsigned blocks_x, unsigned blocks_y,
               unsigned threads, void **arguments)
{
    struct device_lane *lane = &device.lanes[0];
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch(job, lane, kernel, blocks_x, blocks_y, threads, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0)
        return -1;
    return device_wait(job, lane);
}

int device_run_array(struct job *job, enum kernel_name kernel, uint64_t elements, void **arguments)
{
    struct device_lane *lane = &device.lanes[0];
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_launch_array(job, lane, kernel, elements, arguments) < 0 ||
        device_mark(job, lane, MARK_COMPUTED) < 0)
        return -1;
    return device_wait(job, lane);
}

int device_fetch(struct job *job, void *to, CUdeviceptr from, size_t bytes)
{
    struct device_lane *lane = &device.lanes[0];
    if (device_mark(job, lane, MARK_BEGIN) < 0 ||
        device_copy_out(job, lane, lane->staging, from, bytes) < 0 ||
        device_mark(job, lane, MARK_STORED) < 0 || device_wait(job, lane) < 0)
        return -1;
    memcpy(to, lane->staging, bytes);
    return 0;
}
