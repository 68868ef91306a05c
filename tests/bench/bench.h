/*
 * What the benches share: the clock, samples, figures with their goals, and the
 * folder that a run works in.
 *
 * A figure is printed when it is measured, beside its goal; nothing here judges
 * more than that, and no bench fails on a time. What does not work at all ends
 * the program with one line on standard error.
 *
 * Not thread-safe unless it says so: a bench measures from one thread, or adds
 * up what its threads have found.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct bench_setup {
    const char *vgpufs, *executor; /* the programs that are measured */
    const char *floor, *queue;     /* helpers: the empty filesystem, the queue by itself */
    bool json, markdown;           /* instead of a table to look at */
    bool smoke;                    /* smoke: a few rounds of each, to see that it works */
};
extern struct bench_setup bench_setup;

/* bench_scale: how often, in a whole run and in one that only looks whether it works. */
size_t bench_scale(size_t whole, size_t smoke);

double bench_now_us(void);
void bench_sleep_ms(unsigned ms);

/*
 * bench_pin keeps this process, and what it starts from now on, on one processor: then a call costs
 * what it computes. On several, whether the daemon wakes where the client runs decides more than
 * that. bench_unpin: what is started from then on runs where it likes.
 */
void bench_pin(void);
void bench_unpin(void);

/* These print "vgpufs-bench: …", clean up and exit. Thread-safe. */
__attribute__((noreturn)) void bench_die(const char *what); /* with errno */
__attribute__((noreturn, format(printf, 1, 2))) void bench_fail(const char *format, ...);

/*
 * bench_catch_signals, before anything is started: SIGINT, SIGTERM and SIGHUP clean up too. Of a
 * bench that is killed nothing runs on, and the next one removes its folder.
 */
void bench_catch_signals(void);
/* bench_child, in a child after fork(2): it ends with the bench, and is ended by signals again. */
void bench_child(void);

/* The folder of this run, made by bench_open on TMPDIR's filesystem, removed by bench_close. */
void bench_open(void);
void bench_close(void);
/* bench_path: a path in that folder; the storage is the thread's and holds the last eight. */
__attribute__((format(printf, 1, 2))) const char *bench_path(const char *format, ...);

/* Times, or other numbers. Freed by samples_finish. */
struct samples {
    double *values;
    size_t count, room;
    bool sorted;
};
void samples_add(struct samples *samples, double value);
/* samples_at: the value below which `part` of them lie; 0.5 is the median. */
double samples_at(struct samples *samples, double part);
void samples_finish(struct samples *samples);

enum goal {
    GOAL_NONE, /* only reported */
    GOAL_AT_MOST,
    GOAL_AT_LEAST,
};
void figure(const char *name, double value, const char *unit, enum goal goal, double limit);
/* figure_spread reports p50, p99 and p99.9. */
void figure_spread(const char *name, struct samples *samples, const char *unit);
/* figure_note says in words what the figures above cannot; `name` of a peer that is missing. */
__attribute__((format(printf, 1, 2))) void figure_note(const char *format, ...);
void figures_begin(const char *bench);
void figures_end(void); /* prints what --json asks for */

/* A bench: a row of the table in README.md. */
struct bench {
    const char *name, *help;
    void (*run)(void);
};
void bench_latency(void);
void bench_submit(void);
void bench_durable(void);
void bench_through(void);
void bench_growth(void);
void bench_readers(void);
void bench_stats(void);
void bench_idle(void);
void bench_data(void);
void bench_vector(void);
void bench_library(void);
void bench_start(void);
void bench_curves(void);
void bench_flood(void);

#endif
