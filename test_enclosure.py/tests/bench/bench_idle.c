/* A daemon with a thousand VMs and nothing to do; and how soon a new one has its first job done. */
#include "bench.h"
#include "mounts.h"

#include <stdio.h>

void bench_idle(void)
{
    struct mount mount;
    unsigned seconds = (unsigned)bench_scale(10, 1);
    mount_start_vgpufs(&mount, "idle", "vms = 1-1000\nstats_log_interval = 0", "");
    bench_sleep_ms(1000); /* what the start leaves behind */
    double before = process_switches(mount.pid);
    bench_sleep_ms(seconds * 1000);
    double wakeups = process_switches(mount.pid) - before;
    figure("1,000 VMs idle: memory of the daemon", process_memory_kib(mount.pid) / 1024, "MiB",
           GOAL_AT_MOST, 32);
    figure("  wake-ups a second", wakeups / seconds, "/s", GOAL_AT_MOST, 0);
    mount_stop(&mount);
}

void bench_start(void)
{
    struct samples first_job = {0};
    for (size_t round = 0; round < bench_scale(20, 1); round++) {
        struct mount mount;
        char name[32];
        snprintf(name, sizeof(name), "start%zu", round);
        double start = bench_now_us();
        mount_start_vgpufs(&mount, name, "", "");
        mount_submit_and_read(&mount, 1, "NOP\n");
        samples_add(&first_job, (bench_now_us() - start) / 1000);
        mount_stop(&mount);
    }
    figure("start of the daemon to its first job done, p50", samples_at(&first_job, 0.5), "ms",
           GOAL_AT_MOST, 100);
    figure("  p99", samples_at(&first_job, 0.99), "ms", GOAL_NONE, 0);
    samples_finish(&first_job);
}
