#include "stream.h"

#include "parallel.h"

#include <stdlib.h>
#include <string.h>

/* Of one chunk: 4 MiB of f32 in each array, some milliseconds. */
#define CHUNK_PARTS ((size_t)64)

struct run {
    const struct stream *stream;
    const struct stream_phase *phase;
    bool make_up;
    uint64_t first;      /* of the chunk */
    size_t count, parts; /* of the chunk */
    char *arrays[STREAM_MAX_ARRAYS];
    char *results;
};

static struct stream_part run_part(const struct run *run, size_t index)
{
    const struct stream *stream = run->stream;
    size_t skipped = index * STREAM_PART, left = run->count - skipped;
    struct stream_part part = {.first = run->first + skipped,
                               .count = left < STREAM_PART ? left : STREAM_PART};
    part.padded = (part.count + STREAM_LANES - 1) / STREAM_LANES * STREAM_LANES;
    for (size_t i = 0; i < stream->array_count; i++)
        part.arrays[i] = run->arrays[i] + skipped * stream->type->bytes;
    part.result = run->results + index * stream->result_bytes;
    return part;
}

static void make_up(const struct stream *stream, const struct stream_part *part)
{
    if (stream->fill) {
        stream->fill(stream->context, part);
        return;
    }
    for (size_t i = 0; i < stream->input_count; i++)
        array_fill(stream->type, part->arrays[i], stream->keys[i], part->first, part->count,
                   stream->bits);
}

/* run_prepare makes a part's input up, and zeroes what is behind it. */
static void run_prepare(void *context, size_t index)
{
    const struct run *run = context;
    const struct stream *stream = run->stream;
    struct stream_part part = run_part(run, index);
    if (run->make_up)
        make_up(stream, &part);
    for (size_t i = 0; i < stream->input_count; i++)
        memset((char *)part.arrays[i] + part.count * stream->type->bytes, 0,
               (part.padded - part.count) * stream->type->bytes);
}

static void run_work(void *context, size_t index)
{
    const struct run *run = context;
    const struct stream *stream = run->stream;
    struct stream_part part = run_part(run, index);
    if (run->phase == stream->phases && !stream->whole)
        run_prepare(context, index);
    run->phase->work(stream->context, &part);
}

/* run_whole: the input, then what is done with all of a chunk. */
static int run_whole(struct job *job, struct run *run)
{
    const struct stream *stream = run->stream;
    if (!stream->whole)
        return 0;
    uint64_t start = job_clock_ns();
    parallel_run(run->parts, run_prepare, run);
    job->compute_ns += job_clock_ns() - start;
    struct stream_part chunk = run_part(run, 0);
    chunk.count = run->count;
    return stream->whole(job, stream->context, &chunk);
}

static int run_phases(struct job *job, struct run *run)
{
    memset(run->results, 0, run->parts * run->stream->result_bytes);
    for (size_t i = 0; i < STREAM_MAX_PHASES && run->stream->phases[i].work; i++) {
        run->phase = &run->stream->phases[i];
        parallel_run(run->parts, run_work, run);
        for (size_t index = 0; index < run->parts; index++) {
            struct stream_part part = run_part(run, index);
            if (run->phase->fold(job, run->stream->context, &part) < 0)
                return -1;
        }
    }
    return 0;
}

/* run_files reads the inputs that were given, or writes the outputs. */
static int run_files(struct job *job, const struct run *run, bool inputs)
{
    const struct stream *stream = run->stream;
    size_t from = inputs ? 0 : stream->input_count;
    size_t to = inputs ? stream->input_count : stream->array_count;
    uint64_t offset = run->first * stream->type->bytes;
    size_t bytes = run->count * stream->type->bytes;
    for (size_t i = from; i < to; i++) {
        const char *name = stream->names[i];
        if (!job_given(job, name))
            continue;
        int result = inputs ? job_read(job, name, run->arrays[i], bytes, offset)
                            : job_write(job, name, run->arrays[i], bytes, offset);
        if (result < 0)
            return -1;
    }
    return 0;
}

static size_t chunk_parts(const struct stream *stream)
{
    return stream->chunk_parts ? stream->chunk_parts : CHUNK_PARTS;
}

static int run_chunks(struct job *job, struct run *run, uint64_t count)
{
    const size_t most = chunk_parts(run->stream) * STREAM_PART;
    for (run->first = 0; run->first < count; run->first += most) {
        uint64_t left = count - run->first;
        run->count = left < most ? (size_t)left : most;
        run->parts = (run->count + STREAM_PART - 1) / STREAM_PART;
        if (job_step(job, (double)run->first / (double)count) < 0 ||
            run_files(job, run, true) < 0 || run_whole(job, run) < 0)
            return -1;
        uint64_t start = job_clock_ns();
        int result = run_phases(job, run);
        job->compute_ns += job_clock_ns() - start;
        if (result < 0 || run_files(job, run, false) < 0)
            return -1;
    }
    return 0;
}

int stream_reserve(struct job *job, const struct stream *stream, uint64_t count)
{
    for (size_t i = stream->input_count; i < stream->array_count; i++)
        if (job_given(job, stream->names[i]) &&
            job_reserve(job, stream->names[i], count * stream->type->bytes) < 0)
            return -1;
    return 0;
}

int stream_run(struct job *job, const struct stream *stream, uint64_t count)
{
    static const char advice[] = "try again when the machine is less busy";
    struct run run = {.stream = stream,
                      .make_up = stream->input_count > 0 && !job_given(job, stream->names[0])};
    size_t parts = chunk_parts(stream);
    if (count < parts * STREAM_PART)
        parts = (size_t)(count + STREAM_PART - 1) / STREAM_PART;
    int result = stream_reserve(job, stream, count);
    for (size_t i = 0; i < stream->array_count && result == 0; i++) {
        run.arrays[i] = array_allocate(job, parts * STREAM_PART * stream->type->bytes, advice);
        result = run.arrays[i] ? 0 : -1;
    }
    if (result == 0) {
        run.results = array_allocate(job, parts * stream->result_bytes, advice);
        result = run.results ? run_chunks(job, &run, count) : -1;
    }
    for (size_t i = 0; i < stream->array_count; i++)
        free(run.arrays[i]);
    free(run.results);
    return result;
}
