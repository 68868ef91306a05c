#include "device_stream.h"

#include <stdlib.h>
#include <string.h>

/* Of one array. What stays on the device has larger chunks: they keep all multiprocessors busy. */
#define STAGED_BYTES  ((size_t)4 << 20)
#define MADE_UP_BYTES ((size_t)64 << 20)
#define ALIGNMENT     ((size_t)256)

_Static_assert(PART_ELEMENTS == STREAM_PART, "a part is the same everywhere");

struct run {
    const struct stream *stream;
    bool make_up;
    size_t staged; /* arrays that go through the staging */
    uint64_t most; /* elements of a chunk */
    struct device_chunk chunks[DEVICE_LANES];
};

int device_launch_vectors(struct job *job, const struct device_chunk *chunk,
                          enum kernel_name kernel, void **arguments)
{
    return device_launch_array(job, chunk->lane, kernel, chunk->count * chunk->type->bytes / 16,
                               arguments);
}

int device_launch_parts(struct job *job, const struct device_chunk *chunk, enum kernel_name kernel,
                        unsigned threads, void **arguments)
{
    unsigned blocks = (chunk->parts * threads + PART_THREADS - 1) / PART_THREADS;
    return device_launch(job, chunk->lane, kernel, blocks, 1, PART_THREADS, arguments);
}

int device_fill(struct job *job, struct device_lane *lane, const struct element_type *type,
                CUdeviceptr to, uint64_t key, uint64_t first, uint64_t count, unsigned bits)
{
    void *arguments[] = {&to, &key, &first, &count, &bits};
    return device_launch_array(job, lane,
                               type->bytes == sizeof(double) ? KERNEL_fill_f64 : KERNEL_fill_f32,
                               count * type->bytes / 16, arguments);
}

/* is_staged: array i is read from its file, or written to it. */
static bool is_staged(struct job *job, const struct run *run, size_t i)
{
    return i < run->stream->input_count ? !run->make_up : job_given(job, run->stream->names[i]);
}

/* choose_chunks takes as many whole parts as the staging can hold. */
static void choose_chunks(struct job *job, struct run *run)
{
    const struct stream *stream = run->stream;
    size_t bytes = MADE_UP_BYTES;
    for (size_t i = 0; i < stream->array_count; i++)
        run->staged += is_staged(job, run, i);
    if (run->staged > 0) {
        bytes = DEVICE_ARRAYS_BYTES / run->staged;
        bytes = bytes < STAGED_BYTES ? bytes : STAGED_BYTES;
    }
    run->most = bytes / stream->type->bytes / STREAM_PART * STREAM_PART;
    size_t results = stream->chunk_result ? 1 : (size_t)run->most / STREAM_PART;
    if (run->staged * run->most * stream->type->bytes + results * stream->result_bytes >
        DEVICE_STAGING_BYTES)
        abort(); /* a mistake in the workload */
}

static size_t result_count(const struct run *run, const struct device_chunk *chunk)
{
    return run->stream->chunk_result ? 1 : chunk->parts;
}

static int allocate_chunk(struct job *job, struct run *run, struct device_chunk *chunk,
                          uint64_t count)
{
    const struct stream *stream = run->stream;
    size_t parts = (size_t)((count + STREAM_PART - 1) / STREAM_PART);
    size_t results = (stream->chunk_result ? 1 : parts) * stream->result_bytes;
    size_t bytes = ((size_t)count * stream->type->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    CUdeviceptr memory;
    if (device_allocate(job, stream->array_count * bytes + results, &memory) < 0)
        return -1;
    for (size_t i = 0; i < stream->array_count; i++)
        chunk->arrays[i] = memory + i * bytes;
    chunk->results = memory + stream->array_count * bytes;
    return 0;
}

/* staging_of is where the n-th staged array of a chunk is on the host; behind them the results. */
static char *staging_of(const struct run *run, const struct device_chunk *chunk, size_t n)
{
    return chunk->lane->staging + n * (size_t)run->most * run->stream->type->bytes;
}

static int load_chunk(struct job *job, const struct run *run, const struct device_chunk *chunk)
{
    const struct stream *stream = run->stream;
    const size_t bytes = (size_t)chunk->count * stream->type->bytes;
    for (size_t i = 0; i < stream->input_count; i++)
        if (job_read(job, stream->names[i], staging_of(run, chunk, i), bytes,
                     chunk->first * stream->type->bytes) < 0)
            return -1;
    if (device_mark(job, chunk->lane, MARK_BEGIN) < 0)
        return -1;
    for (size_t i = 0; i < stream->input_count; i++)
        if (device_copy_in(job, chunk->lane, chunk->arrays[i], staging_of(run, chunk, i), bytes) <
            0)
            return -1;
    return device_mark(job, chunk->lane, MARK_LOADED);
}

static int make_chunk_up(struct job *job, const struct run *run, const struct device_chunk *chunk)
{
    const struct stream *stream = run->stream;
    if (device_mark(job, chunk->lane, MARK_BEGIN) < 0)
        return -1;
    for (size_t i = 0; i < stream->input_count; i++)
        if (device_fill(job, chunk->lane, stream->type, chunk->arrays[i], stream->keys[i],
                        chunk->first, chunk->count, stream->bits) < 0)
            return -1;
    return 0;
}

static bool is_last(const struct stream *stream, size_t phase)
{
    return phase + 1 == STREAM_MAX_PHASES || !stream->phases[phase + 1].fold;
}

/* each_output calls `each` for the outputs that are wanted, with their places in the staging. */
static int each_output(struct job *job, const struct run *run, const struct device_chunk *chunk,
                       int (*each)(struct job *job, const struct run *run,
                                   const struct device_chunk *chunk, size_t i, char *staging))
{
    const struct stream *stream = run->stream;
    size_t n = run->make_up ? 0 : stream->input_count;
    for (size_t i = stream->input_count; i < stream->array_count; i++)
        if (is_staged(job, run, i) && each(job, run, chunk, i, staging_of(run, chunk, n++)) < 0)
            return -1;
    return 0;
}

static int fetch_output(struct job *job, const struct run *run, const struct device_chunk *chunk,
                        size_t i, char *staging)
{
    return device_copy_out(job, chunk->lane, staging, chunk->arrays[i],
                           (size_t)chunk->count * run->stream->type->bytes);
}

static int write_output(struct job *job, const struct run *run, const struct device_chunk *chunk,
                        size_t i, char *staging)
{
    const struct stream *stream = run->stream;
    return job_write(job, stream->names[i], staging, (size_t)chunk->count * stream->type->bytes,
                     chunk->first * stream->type->bytes);
}

/* launch_phase gives the lane what there is to do once the phase's input is on the device. */
static int launch_phase(struct job *job, const struct run *run, const struct device_chunk *chunk,
                        size_t phase)
{
    const struct stream *stream = run->stream;
    if (stream->phases[phase].launch(job, stream->context, chunk) < 0 ||
        device_mark(job, chunk->lane, MARK_COMPUTED) < 0 ||
        device_copy_out(job, chunk->lane, staging_of(run, chunk, run->staged), chunk->results,
                        result_count(run, chunk) * stream->result_bytes) < 0)
        return -1;
    if (is_last(stream, phase) && each_output(job, run, chunk, fetch_output) < 0)
        return -1;
    return device_mark(job, chunk->lane, MARK_STORED);
}

/* finish_phase waits for the lane and folds what it has found. */
static int finish_phase(struct job *job, const struct run *run, const struct device_chunk *chunk,
                        size_t phase)
{
    const struct stream *stream = run->stream;
    const size_t results = result_count(run, chunk);
    if (device_wait(job, chunk->lane) < 0)
        return -1;
    for (size_t i = 0; i < results; i++) {
        uint64_t skipped = i * STREAM_PART, left = chunk->count - skipped;
        struct stream_part part = {
            .first = chunk->first + skipped,
            .count = (size_t)(results == 1 || left < STREAM_PART ? left : STREAM_PART),
            .result = staging_of(run, chunk, run->staged) + i * stream->result_bytes};
        if (stream->phases[phase].fold(job, stream->context, &part) < 0)
            return -1;
    }
    return 0;
}

static int begin_chunk(struct job *job, const struct run *run, const struct device_chunk *chunk)
{
    if ((run->make_up ? make_chunk_up(job, run, chunk) : load_chunk(job, run, chunk)) < 0)
        return -1;
    return launch_phase(job, run, chunk, 0);
}

/* advance_chunk: the second phase needs what the fold of the first has put into the results. */
static int advance_chunk(struct job *job, const struct run *run, const struct device_chunk *chunk)
{
    if (chunk->count == 0 || is_last(run->stream, 0))
        return 0;
    if (finish_phase(job, run, chunk, 0) < 0 || device_mark(job, chunk->lane, MARK_BEGIN) < 0 ||
        device_copy_in(job, chunk->lane, chunk->results, staging_of(run, chunk, run->staged),
                       result_count(run, chunk) * run->stream->result_bytes) < 0 ||
        device_mark(job, chunk->lane, MARK_LOADED) < 0)
        return -1;
    return launch_phase(job, run, chunk, 1);
}

static int end_chunk(struct job *job, const struct run *run, struct device_chunk *chunk)
{
    if (chunk->count == 0)
        return 0;
    if (finish_phase(job, run, chunk, is_last(run->stream, 0) ? 0 : 1) < 0 ||
        each_output(job, run, chunk, write_output) < 0)
        return -1;
    chunk->count = 0;
    return 0;
}

/* run_chunks: a chunk begins when the one before the last has ended, and the last one advances
 * while it is loaded. */
static int run_chunks(struct job *job, struct run *run, uint64_t count)
{
    struct device_chunk *chunk = &run->chunks[0], *last = &run->chunks[1];
    for (uint64_t first = 0; first < count; first += run->most) {
        if (job_step(job, (double)first / (double)count) < 0 || end_chunk(job, run, chunk) < 0)
            return -1;
        chunk->first = first;
        chunk->count = count - first < run->most ? count - first : run->most;
        chunk->parts = (unsigned)((chunk->count + STREAM_PART - 1) / STREAM_PART);
        if (begin_chunk(job, run, chunk) < 0 || advance_chunk(job, run, last) < 0)
            return -1;
        struct device_chunk *next = last;
        last = chunk;
        chunk = next;
    }
    return advance_chunk(job, run, last) < 0 || end_chunk(job, run, chunk) < 0
               ? -1
               : end_chunk(job, run, last);
}

_Static_assert(DEVICE_LANES == 2, "run_chunks takes turns with two");

int device_stream_run(struct job *job, const struct stream *stream, uint64_t count)
{
    struct run run = {.stream = stream,
                      .make_up = stream->input_count > 0 && !job_given(job, stream->names[0])};
    if (stream_reserve(job, stream, count) < 0)
        return -1;
    choose_chunks(job, &run);
    for (unsigned i = 0; i < DEVICE_LANES; i++) {
        run.chunks[i].lane = &device.lanes[i];
        run.chunks[i].type = stream->type;
        if (i * run.most < count &&
            allocate_chunk(job, &run, &run.chunks[i], count < run.most ? count : run.most) < 0)
            return -1;
    }
    return run_chunks(job, &run, count);
}
