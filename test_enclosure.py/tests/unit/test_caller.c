/* caller: who is recognised as an NFS server, from a proc(5) of our own. */
#include "caller.h"

#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h> /* after the headers that it needs */

static struct callers *callers;

static int setup(void **unused)
{
    (void)unused;
    scratch_make();
    callers = callers_create(scratch_path(""));
    assert_non_null(callers);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    callers_destroy(callers);
    scratch_remove();
    return 0;
}

static void file_write(int pid, const char *name, const char *content)
{
    char path[64];
    snprintf(path, sizeof(path), "%d", pid);
    mkdir(scratch_path(path), 0755);
    snprintf(path, sizeof(path), "%d/%s", pid, name);
    FILE *file = fopen(scratch_path(path), "w");
    assert_non_null(file);
    fputs(content, file);
    assert_int_equal(fclose(file), 0);
}

#define KTHREAD 0x00200000ul

/* As Linux 6.1 writes it. */
static void process_make(int pid, int group, const char *comm, unsigned long flags,
                         const char *uids)
{
    char text[512];
    snprintf(text, sizeof(text), "%d (%s) S 2 0 0 0 -1 %lu 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n",
             pid, comm, flags);
    file_write(pid, "stat", text);
    snprintf(text, sizeof(text),
             "Name:\t%s\nUmask:\t0022\nState:\tS\nTgid:\t%d\nPid:\t%d\n"
             "Uid:\t%s\nGid:\t0\t0\t0\t0\n",
             comm, group, pid, uids);
    file_write(pid, "status", text);
    snprintf(text, sizeof(text), "%s\n", comm);
    file_write(pid, "comm", text);
}

static enum caller find(int pid)
{
    static uint64_t now_us;
    return callers_find(callers, pid, now_us += 10000000);
}

static void test_kernel_threads(void **unused)
{
    (void)unused;
    process_make(10, 10, "nfsd", KTHREAD | 0x40, "0\t0\t0\t0");
    process_make(11, 11, "kworker/0:1-events", KTHREAD, "0\t0\t0\t0");
    process_make(12, 12, "nfsd", 0x40, "0\t0\t0\t0");
    assert_int_equal(find(10), CALLER_KERNEL);
    assert_int_equal(find(11), CALLER_KERNEL);
    assert_int_equal(find(12), CALLER_LOCAL); /* a name is no proof */
}

static void test_names_cannot_lie_about_flags(void **unused)
{
    (void)unused;
    process_make(10, 10, "x) S 2 0 0 0 -1 2097152 0 (", 0x40, "1000\t1000\t1000\t1000");
    assert_int_equal(find(10), CALLER_LOCAL);
    process_make(11, 11, "a) b", KTHREAD, "0\t0\t0\t0");
    assert_int_equal(find(11), CALLER_KERNEL);
}

static void test_ganesha(void **unused)
{
    (void)unused;
    process_make(20, 20, "ganesha.nfsd", 0x40, "0\t0\t0\t20003");
    process_make(21, 20, "svc_12", 0x40, "0\t0\t0\t0"); /* a thread of it */
    assert_int_equal(find(20), CALLER_GANESHA);
    assert_int_equal(find(21), CALLER_GANESHA);
    process_make(22, 23, "ganesha.nfsd", 0x40, "0\t0\t0\t0"); /* a thread of another */
    process_make(23, 23, "bash", 0x40, "0\t0\t0\t0");
    assert_int_equal(find(22), CALLER_LOCAL);
    process_make(24, 24, "ganesha.nfsdx", 0x40, "0\t0\t0\t0");
    assert_int_equal(find(24), CALLER_LOCAL);
}

static void test_ganesha_is_root(void **unused)
{
    (void)unused;
    static const char *const uids[] = {
        "1000\t1000\t1000\t1000", "1000\t0\t0\t0", "0\t1000\t0\t0", "0\t0\t1000\t0", "", "0\t0"};
    for (int i = 0; i < (int)(sizeof(uids) / sizeof(uids[0])); i++) {
        process_make(30 + i, 30 + i, "ganesha.nfsd", 0x40, uids[i]);
        assert_int_equal(find(30 + i), CALLER_LOCAL);
    }
}

static void test_what_cannot_be_read_is_local(void **unused)
{
    (void)unused;
    assert_int_equal(find(0), CALLER_LOCAL);
    assert_int_equal(find(-1), CALLER_LOCAL);
    assert_int_equal(find(40), CALLER_LOCAL);
    file_write(41, "stat", "");
    assert_int_equal(find(41), CALLER_LOCAL);
    file_write(42, "stat", "42 (nfsd) S 2 0");
    assert_int_equal(find(42), CALLER_LOCAL);
    file_write(43, "stat", "43 (ganesha.nfsd) S 2 0 0 0 -1 64 0 0\n");
    assert_int_equal(find(43), CALLER_LOCAL);
}

static void test_cache(void **unused)
{
    (void)unused;
    uint64_t now = 5000000;
    process_make(50, 50, "nfsd", KTHREAD, "0\t0\t0\t0");
    assert_int_equal(callers_find(callers, 50, now), CALLER_KERNEL);
    process_make(50, 50, "bash", 0x40, "0\t0\t0\t0");
    assert_int_equal(callers_find(callers, 50, now + 999999), CALLER_KERNEL);
    assert_int_equal(callers_find(callers, 50, now + 1000000), CALLER_LOCAL);
    /* Another pid of the same slot takes its place, and neither is taken for the other. */
    process_make(50 + 256, 50 + 256, "nfsd", KTHREAD, "0\t0\t0\t0");
    assert_int_equal(callers_find(callers, 50 + 256, now + 1000001), CALLER_KERNEL);
    assert_int_equal(callers_find(callers, 50, now + 1000002), CALLER_LOCAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kernel_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_cannot_lie_about_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ganesha, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ganesha_is_root, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_local, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
