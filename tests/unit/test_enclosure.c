#include "enclosure.h"

#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MOUNTS                                                                                     \
    "22 1 0:20 / /proc rw,nosuid - proc proc rw\n"                                                 \
    "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"                \
    "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

static void test_find_cgroup(void **state)
{
    (void)state;
    static const struct {
        const char *cgroups, *mounts, *found; /* NULL: none */
    } cases[] = {
        {"0::/system.slice/vgpufs.service\n", MOUNTS,
         "/sys/fs/cgroup/unified/system.slice/vgpufs.service"},
        {"4:memory:/x\n10::/y\n0::/z\n", MOUNTS, "/sys/fs/cgroup/unified/z"},
        {"0::/\n", MOUNTS, "/sys/fs/cgroup/unified"},
        {"4:memory:/x\n", MOUNTS, NULL},
        {"", MOUNTS, NULL},
        {"0::", MOUNTS, NULL},
        {"0::/x\n", "", NULL},
        {"0::/x\n", " - cgroup2 ", NULL},
        {"0::/x\n", "30 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw\n", NULL},
        {"0::/a-path-that-is-far-too-long-for-the-room-that-there-is-for-it-here\n", MOUNTS, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[64] = "";
        int result = enclosure_find_cgroup(cases[i].cgroups, cases[i].mounts, path, sizeof(path));
        assert_int_equal(result, cases[i].found ? 0 : -1);
        if (cases[i].found)
            assert_string_equal(path, cases[i].found);
    }
}

/* A folder with the files of a cgroup. */

static void file_make(const char *folder, const char *name, const char *content)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

static void assert_file(const char *folder, const char *name, const char *content)
{
    char path[512], text[64] = "";
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[size] = '\0';
    assert_string_equal(text, content);
}

static const char *cgroup_make(const char *name, const char *controllers)
{
    static const char *const files[] = {"cgroup.procs",    "cgroup.kill",   "pids.max",
                                        "memory.max",      "memory.events", "memory.swap.max",
                                        "memory.oom.group"};
    static char cgroup[400], part[420];
    snprintf(cgroup, sizeof(cgroup), "%s", scratch_path(name));
    snprintf(part, sizeof(part), "%s/executor-A.0", cgroup);
    mkdir(cgroup, 0700);
    mkdir(part, 0700);
    file_make(cgroup, "cgroup.controllers", controllers);
    file_make(cgroup, "cgroup.subtree_control", "");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        file_make(part, files[i], "");
    return cgroup;
}

static void test_bounds_of_a_cgroup(void **state)
{
    (void)state;
    struct enclosure enclosure;
    const char *cgroup = cgroup_make("whole", "cpuset memory pids\n");
    char part[512];
    snprintf(part, sizeof(part), "%s/executor-A.0", cgroup);
    struct enclosures *enclosures = enclosures_create_in(scratch_path(""), cgroup);
    assert_file(part, "cgroup.kill", "1"); /* of an earlier daemon */
    file_make(part, "cgroup.kill", "");

    enclosure_open(enclosures, "A.0", &(struct enclosure_limits){5000000, 70}, &enclosure);
    assert_file(part, "memory.max", "5000000");
    assert_file(part, "memory.swap.max", "0");
    assert_file(part, "memory.oom.group", "1");
    assert_file(part, "pids.max", "70");
    assert_int_equal(enclosure.memory_bytes, 0); /* it holds for all processes together */
    assert_true(enclosure.procs >= 0);
    enclosure_close(&enclosure);

    enclosure_open(enclosures, "A.0", &(struct enclosure_limits){0, 0}, &enclosure);
    file_make(part, "memory.max", "");
    enclosure_close(&enclosure);
    enclosure_open(enclosures, "A.0", &(struct enclosure_limits){0, 0}, &enclosure);
    assert_file(part, "memory.max", "max");
    enclosure_close(&enclosure);

    assert_int_equal(enclosure_ooms(enclosures, "A.0"), 0);
    file_make(part, "memory.events", "low 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n");
    assert_int_equal(enclosure_ooms(enclosures, "A.0"), 2);
    enclosure_clear(enclosures, "A.0");
    assert_file(part, "cgroup.kill", "1");
    enclosures_destroy(enclosures);
}

static void test_a_cgroup_without_controllers(void **state)
{
    (void)state;
    struct enclosure enclosure;
    const char *cgroup = cgroup_make("bare", "hugetlb memory_other\n");
    char part[512];
    snprintf(part, sizeof(part), "%s/executor-A.0", cgroup);
    struct enclosures *enclosures = enclosures_create_in(scratch_path(""), cgroup);
    enclosure_open(enclosures, "A.0", &(struct enclosure_limits){5000000, 70}, &enclosure);
    assert_file(part, "memory.max", "");
    assert_file(part, "pids.max", "");
    assert_int_equal(enclosure.memory_bytes, 5000000);
    enclosure_close(&enclosure);
    enclosures_destroy(enclosures);
}

static void test_entering(void **state)
{
    (void)state;
    struct enclosure enclosure;
    struct enclosures *enclosures = enclosures_create_in(scratch_path(""), "");
    enclosure_open(enclosures, "A.0", &(struct enclosure_limits){UINT64_C(1) << 40, 70},
                   &enclosure);
    assert_int_equal(enclosure.procs, -1);
    assert_non_null(strstr(enclosure.mark, "VGPUFS_EXECUTOR="));
    assert_non_null(strstr(enclosure.mark, "/A.0"));
    pid_t child = fork();
    if (child == 0) {
        struct rlimit core, data;
        enclosure_enter(enclosure.memory_bytes);
        getrlimit(RLIMIT_CORE, &core);
        getrlimit(RLIMIT_DATA, &data);
        _exit(core.rlim_max == 0 && data.rlim_cur == UINT64_C(1) << 40 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    enclosure_close(&enclosure);
    enclosures_destroy(enclosures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_cgroup),
        cmocka_unit_test(test_bounds_of_a_cgroup),
        cmocka_unit_test(test_a_cgroup_without_controllers),
        cmocka_unit_test(test_entering),
    };
    return cmocka_run_group_tests(tests, scratch_enter, scratch_leave);
}
