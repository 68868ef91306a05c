#include "clock.h"

#include <stdatomic.h>

static _Atomic uint64_t last_change_ns;

static uint64_t clock_read_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clock_now_us(void)
{
    return clock_read_ns(CLOCK_MONOTONIC) / 1000;
}

uint64_t clock_real_us(void)
{
    return clock_read_ns(CLOCK_REALTIME) / 1000;
}

uint64_t clock_to_real_us(uint64_t monotonic_us)
{
    return clock_real_us() - (clock_now_us() - monotonic_us);
}

uint64_t clock_from_real_us(uint64_t real_us)
{
    uint64_t real = clock_real_us(), now = clock_now_us();
    return real_us < real ? now - (real - real_us) : now; /* the clock may have been set back */
}

struct timespec clock_change(void)
{
    uint64_t now = clock_read_ns(CLOCK_REALTIME);
    uint64_t last = atomic_load(&last_change_ns);
    uint64_t stamp;
    do {
        stamp = now > last ? now : last + 1;
    } while (!atomic_compare_exchange_weak(&last_change_ns, &last, stamp));
    return (struct timespec){.tv_sec = (time_t)(stamp / 1000000000u),
                             .tv_nsec = (long)(stamp % 1000000000u)};
}

uint64_t clock_change_last(void)
{
    return atomic_load(&last_change_ns);
}

void clock_change_restore(uint64_t last_ns)
{
    uint64_t last = atomic_load(&last_change_ns);
    while (last < last_ns && !atomic_compare_exchange_weak(&last_change_ns, &last, last_ns))
        continue;
}
