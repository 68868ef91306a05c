/* NOP jobs a second from a full queue through one slot, and through two pools. */
#include "bench.h"
#include "mounts.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ping_pong: round trips a second of 64 bytes between two processes on a socketpair. */
static double ping_pong(size_t rounds)
{
    int ends[2];
    char bytes[64] = {0};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        bench_die("socketpair");
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0) {
        bench_child();
        close(ends[0]);
        while (read(ends[1], bytes, sizeof(bytes)) > 0)
            if (write(ends[1], bytes, sizeof(bytes)) < 0)
                break;
        _exit(0);
    }
    close(ends[1]);
    double start = bench_now_us();
    for (size_t i = 0; i < rounds; i++) {
        file_write(ends[0], bytes, sizeof(bytes));
        if (read(ends[0], bytes, sizeof(bytes)) <= 0)
            bench_die("socketpair");
    }
    double rate = (double)rounds / (bench_now_us() - start) * 1e6;
    close(ends[0]);
    waitpid(child, NULL, 0);
    return rate;
}

/* through_rate: `pools` is 1 or 2; vm1 is in A and vm2 in B. */
static double through_rate(const struct mount *mount, unsigned pools, size_t jobs)
{
    mount_ctl(mount, "hold A\nhold B\n");
    for (unsigned vm = 1; vm <= pools; vm++)
        mount_submit_many(mount, vm, "NOP\n", jobs);
    double start = bench_now_us();
    mount_ctl(mount, pools > 1 ? "release A\nrelease B\n" : "release A\n");
    for (unsigned vm = 1; vm <= pools; vm++)
        mount_wait_newest(mount, vm);
    return (double)(jobs * pools) / (bench_now_us() - start) * 1e6;
}

void bench_through(void)
{
    struct mount mount;
    struct samples one = {0}, two = {0}, bare = {0}, ratio = {0};
    size_t jobs = bench_scale(20000, 200);
    mount_start_vgpufs(&mount, "through", "durability = none\nvms = 1-2",
                       "[vm 1]\npool = A\npriority = 1\n[vm 2]\npool = B\npriority = 1");
    for (size_t round = 0; round < bench_scale(9, 1); round++) {
        double before = ping_pong(jobs), rate = through_rate(&mount, 1, jobs);
        double around = (before + ping_pong(jobs)) / 2;
        samples_add(&one, rate);
        samples_add(&bare, around);
        samples_add(&ratio, rate / around);
        samples_add(&two, through_rate(&mount, 2, jobs));
    }
    figure("NOP jobs through one slot", samples_at(&one, 0.5), "/s", GOAL_NONE, 0);
    figure("  a bare ping-pong on a socketpair", samples_at(&bare, 0.5), "/s", GOAL_NONE, 0);
    figure("  vgpufs / ping-pong", samples_at(&ratio, 0.5), "x", GOAL_AT_LEAST, 0.7);
    figure("NOP jobs through two pools", samples_at(&two, 0.5), "/s", GOAL_NONE, 0);
    samples_finish(&one);
    samples_finish(&two);
    samples_finish(&bare);
    samples_finish(&ratio);
    mount_stop(&mount);
}
