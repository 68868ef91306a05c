#include "stream.h"

#include "parallel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Of one chunk: 4 MiB of f32 in each array, some milliseconds. */
#define CHUNK_PARTS ((size_t)64)
/* What one thread reads, computes and writes before it takes more: it stays in that processor's
 * cache. */
#define PIECE_PARTS ((size_t)2)

struct run {
    const struct job *job;
    const struct stream *stream;
    const struct stream_phase *phase;
    bool make_up, reads, writes; /* whether the phase does */
    uint64_t first;              /* of the chunk */
    size_t count, parts;         /* of the chunk */
    char *arrays[STREAM_MAX_ARRAYS];
    char *results;
    /* Of all threads together. */
    atomic_uint_fast64_t computed_ns, verified_ns, copied_ns;
    atomic_bool failed; /* who sets it says why below */
    struct job_failure failure;
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

static void run_part_of_phase(struct run *run, size_t index)
{
    const struct stream *stream = run->stream;
    struct stream_part part = run_part(run, index);
    uint64_t start = job_clock_ns();
    if (run->phase == stream->phases && !stream->whole)
        run_prepare(run, index);
    if (run->phase->work)
        run->phase->work(stream->context, &part);
    uint64_t computed = job_clock_ns();
    atomic_fetch_add(&run->computed_ns, computed - start);
    if (!run->phase->verify)
        return;
    run->phase->verify(stream->context, &part);
    atomic_fetch_add(&run->verified_ns, job_clock_ns() - computed);
}

/* copy_parts reads the inputs that were given, or writes the outputs. In any thread. */
static int copy_parts(struct run *run, size_t first_part, size_t parts, bool inputs)
{
    const struct stream *stream = run->stream;
    const size_t element = stream->type->bytes, skipped = first_part * STREAM_PART;
    size_t count = run->count - skipped, from = inputs ? 0 : stream->input_count;
    size_t to = inputs ? stream->input_count : stream->array_count;
    uint64_t start = job_clock_ns(), offset = (run->first + skipped) * element;
    struct job_failure failure;
    int result = 0;
    if (count > parts * STREAM_PART)
        count = parts * STREAM_PART;
    for (size_t i = from; i < to && result == 0; i++) {
        const char *name = stream->names[i];
        char *data = run->arrays[i] + skipped * element;
        if (!job_given(run->job, name))
            continue;
        result = inputs ? job_try_read(run->job, name, data, count * element, offset, &failure)
                        : job_try_write(run->job, name, data, count * element, offset, &failure);
    }
    if (result < 0 && !atomic_exchange(&run->failed, true))
        run->failure = failure;
    atomic_fetch_add(&run->copied_ns, job_clock_ns() - start);
    return result;
}

static void run_piece(void *context, size_t index)
{
    struct run *run = context;
    size_t first = index * PIECE_PARTS, left = run->parts - first;
    size_t parts = left < PIECE_PARTS ? left : PIECE_PARTS;
    if (atomic_load(&run->failed) || (run->reads && copy_parts(run, first, parts, true) < 0))
        return;
    for (size_t i = first; i < first + parts; i++)
        run_part_of_phase(run, i);
    if (run->writes)
        copy_parts(run, first, parts, false);
}

/* run_pieces: all threads read, compute, verify and write, each a piece after the other. -1 and the
 * job has failed. */
static int run_pieces(struct job *job, struct run *run)
{
    uint64_t start = job_clock_ns();
    atomic_store(&run->computed_ns, 0);
    atomic_store(&run->verified_ns, 0);
    atomic_store(&run->copied_ns, 0);
    parallel_run((run->parts + PIECE_PARTS - 1) / PIECE_PARTS, run_piece, run);
    const struct job_shares shares = {.computed = atomic_load(&run->computed_ns),
                                      .verified = atomic_load(&run->verified_ns),
                                      .copied = atomic_load(&run->copied_ns)};
    job_count_times(job, job_clock_ns() - start, &shares);
    if (!atomic_load(&run->failed))
        return 0;
    job_fail_transfer(job, &run->failure);
    return -1;
}

/* run_whole: the input, then what is done with all of a chunk. */
static int run_whole(struct job *job, struct run *run)
{
    const struct stream *stream = run->stream;
    const size_t bytes = run->count * stream->type->bytes;
    if (!stream->whole)
        return 0;
    for (size_t i = 0; i < stream->input_count; i++)
        if (!run->make_up && job_read(job, stream->names[i], run->arrays[i], bytes,
                                      run->first * stream->type->bytes) < 0)
            return -1;
    uint64_t start = job_clock_ns();
    parallel_run(run->parts, run_prepare, run);
    job->compute_ns += job_clock_ns() - start;
    struct stream_part chunk = run_part(run, 0);
    chunk.count = run->count;
    return stream->whole(job, stream->context, &chunk);
}

static int run_fold(struct job *job, const struct run *run)
{
    uint64_t start = job_clock_ns();
    int result = 0;
    for (size_t index = 0; index < run->parts && result == 0; index++) {
        struct stream_part part = run_part(run, index);
        result = run->phase->fold(job, run->stream->context, &part);
    }
    job->compute_ns += job_clock_ns() - start;
    return result;
}

static int run_phases(struct job *job, struct run *run)
{
    const struct stream_phase *phases = run->stream->phases;
    memset(run->results, 0, run->parts * run->stream->result_bytes);
    for (size_t i = 0; i < STREAM_MAX_PHASES && phases[i].fold; i++) {
        run->phase = &phases[i];
        run->reads = i == 0 && !run->stream->whole;
        run->writes = i + 1 == STREAM_MAX_PHASES || !phases[i + 1].fold;
        if (run_pieces(job, run) < 0 || run_fold(job, run) < 0)
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
        if (job_step(job, (double)run->first / (double)count) < 0 || run_whole(job, run) < 0 ||
            run_phases(job, run) < 0)
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
    struct run run = {.job = job,
                      .stream = stream,
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
