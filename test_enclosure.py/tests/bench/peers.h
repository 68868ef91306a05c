/*
 * What does the same elsewhere, with clients in C: one job from its submission
 * to its end, or one item through a queue.
 *
 * A peer is started in the run's folder and stopped by its own function; one
 * that is not installed is left out with a note.
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include "bench.h"

/* Each adds the times of `rounds` rounds, in microseconds; nothing if the peer is missing. */
void peer_beanstalkd(struct samples *samples, size_t rounds); /* put, reserve, delete */
void peer_redis(struct samples *samples, size_t rounds);      /* LPUSH, BRPOP */
void peer_spooler(struct samples *samples, size_t rounds);    /* tsp true, tsp -w */
/*
 * The design that vgpufs replaces: a request and a response file, at which the
 * daemon looks every 50 ms and the client every second.
 */
void peer_polling(struct samples *samples, size_t rounds);

#endif
