/* config: the contract's defaults, what overrides what, and what a reload may not change. */
#include "configs.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka.h needs some of the above */
#include <cmocka.h>

static void test_defaults(void **state)
{
    (void)state;
    struct config *config = parse("");
    assert_string_equal(config->mountpoint, "/mnt/vgpu");
    assert_string_equal(config->state_dir, "/var/lib/vgpufs");
    assert_int_equal(config->durability, DURABILITY_SYNC);
    assert_int_equal(config->on_restart, ON_RESTART_RERUN);
    assert_int_equal(config->max_reruns, 3);
    assert_int_equal(config->stop_timeout_ms, 10000);
    assert_int_equal(config->stats_log_interval_ms, 60000);
    assert_int_equal(config->log_level, LOG_LEVEL_INFO);
    assert_true(config->log_jobs);
    assert_int_equal(config->stats_mode, 0444);
    assert_int_equal(config->nfs_hold_ms, 20000);
    assert_int_equal(config->nfs_threads, 32);
    assert_int_equal(config->nfs_waiting_per_vm, 4);
    assert_int_equal(config->uid_base, 20000);
    assert_int_equal(config->vm_count, 10);
    for (unsigned i = 0; i < 10; i++) {
        const struct config_vm *vm = &config->vms[i];
        assert_int_equal(vm->id, i + 1);
        assert_int_equal(vm->fixed_pool, -1);
        assert_int_equal(vm->fixed_priority, -1);
        assert_int_equal(vm->allowed_pools, 3);
        assert_int_equal(vm->max_priority, 2);
        assert_false(vm->identity_required);
        assert_int_equal(vm->uid, 20001 + i);
        assert_null(vm->address);
        assert_int_equal(vm->max_queued, 64);
        assert_int_equal(vm->max_jobs, 2048);
        assert_int_equal(vm->max_running, 0);
        assert_int_equal(vm->device_share_percent, 100);
        assert_int_equal(vm->max_crashes, 5);
        assert_int_equal(vm->data_quota_bytes, 1 << 30);
        assert_int_equal(vm->max_data_files, 65536);
        assert_int_equal(vm->max_data_open, 512);
        assert_int_equal(vm->max_open, 4096);
        assert_int_equal(vm->max_open_bytes, 64 << 20);
        assert_int_equal(vm->max_waiting, 4096);
        assert_int_equal(vm->retain_jobs, 1024);
        assert_int_equal(vm->retain_for_ms, 3600 * 1000);
    }
    assert_int_equal(config->pool_count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct config_pool *pool = &config->pools[i];
        assert_string_equal(pool->name, i ? "B" : "A");
        assert_string_equal(pool->backend, "auto");
        assert_string_equal(pool->device, "0");
        assert_int_equal(pool->slots, 1);
        assert_string_equal(pool->executor, "vgpu-executor");
        assert_int_equal(pool->order, ORDER_FIFO);
        assert_int_equal(pool->max_wait_ms, 0);
        assert_int_equal(pool->max_queued, 10000);
        assert_int_equal(pool->max_run_ms, 60000);
        assert_int_equal(pool->max_result_bytes, 1 << 20);
        assert_true(pool->sandbox);
        assert_int_equal(pool->host_memory_bytes, 0);
        assert_int_equal(pool->max_processes, 4096);
        assert_true(pool->scrub);
        assert_int_equal(pool->device_memory_bytes, 0);
        assert_int_equal(pool->mps_percent, 0);
    }
    config_destroy(config);
    config_destroy(NULL);
}

static void test_every_key(void **state)
{
    (void)state;
    struct config *config = parse("[vgpufs]\n"
                                  "mountpoint = /a/\n"
                                  "state_dir = /b\n"
                                  "vms = 5, 1-3\t65535\n"
                                  "durability = group  50ms\n"
                                  "on_restart = fail\n"
                                  "max_reruns = 7\n"
                                  "stop_timeout = 1.5s\n"
                                  "stats_log_interval = 0\n"
                                  "log_level = debug\n"
                                  "log_jobs = no\n"
                                  "stats_mode = 0440\n"
                                  "[nfs]\n"
                                  "hold = 2s\n"
                                  "threads = 9\n"
                                  "waiting_per_vm = 3\n"
                                  "[defaults]\n"
                                  "uid_base = 30000\n"
                                  "[vm 7]\n"
                                  "pool = C\n"
                                  "priority = 1\n"
                                  "pools = C A\n"
                                  "max_priority = 1\n"
                                  "identity = required\n"
                                  "max_queued = 1\n"
                                  "max_jobs = 2\n"
                                  "max_running = 3\n"
                                  "device_share = 25%\n"
                                  "max_crashes = 0\n"
                                  "data_quota = 512M\n"
                                  "max_data_files = 5\n"
                                  "max_data_open = 6\n"
                                  "max_open = 17\n"
                                  "max_open_bytes = 1M\n"
                                  "max_waiting = 8\n"
                                  "retain_jobs = 4\n"
                                  "retain_for = 2d\n"
                                  "uid = 1234\n"
                                  "address = 2001:db8::7\n"
                                  "[pool C]\n"
                                  "backend = cuda\n"
                                  "device = MIG-0ab1-2\n"
                                  "slots = 7\n"
                                  "executor = ssh -o 'User x' gpu vgpu-executor\n"
                                  "order = fair\n"
                                  "max_wait = 90\n"
                                  "max_queued = 5\n"
                                  "max_run = 1h\n"
                                  "max_result = 64K\nsandbox = no\nhost_memory = 3G\nmax_processes "
                                  "= 77\nscrub = no\ndevice_memory = 2G\n"
                                  "mps_percent = 25%\n");
    assert_string_equal(config->mountpoint, "/a");
    assert_string_equal(config->state_dir, "/b");
    assert_int_equal(config->durability, DURABILITY_GROUP);
    assert_int_equal(config->group_ms, 50);
    assert_int_equal(config->on_restart, ON_RESTART_FAIL);
    assert_int_equal(config->max_reruns, 7);
    assert_int_equal(config->stop_timeout_ms, 1500);
    assert_int_equal(config->stats_log_interval_ms, 0);
    assert_int_equal(config->log_level, LOG_LEVEL_DEBUG);
    assert_false(config->log_jobs);
    assert_int_equal(config->stats_mode, 0440);
    assert_int_equal(config->nfs_hold_ms, 2000);
    assert_int_equal(config->nfs_threads, 9);
    assert_int_equal(config->nfs_waiting_per_vm, 3);
    static const unsigned ids[] = {1, 2, 3, 5, 7, 65535};
    assert_int_equal(config->vm_count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(config->vms[i].id, ids[i]);
    assert_int_equal(config_find_vm(config, 65535)->uid, 95535);
    assert_null(config_find_vm(config, 4));
    const struct config_vm *vm = config_find_vm(config, 7);
    assert_int_equal(vm->fixed_pool, 2);
    assert_int_equal(vm->fixed_priority, 1);
    assert_int_equal(vm->allowed_pools, 5);
    assert_int_equal(vm->max_priority, 1);
    assert_true(vm->identity_required);
    assert_int_equal(vm->max_queued, 1);
    assert_int_equal(vm->max_jobs, 2);
    assert_int_equal(vm->max_running, 3);
    assert_int_equal(vm->device_share_percent, 25);
    assert_int_equal(vm->max_crashes, 0);
    assert_int_equal(vm->data_quota_bytes, 512 << 20);
    assert_int_equal(vm->max_data_files, 5);
    assert_int_equal(vm->max_data_open, 6);
    assert_int_equal(vm->max_open, 17);
    assert_int_equal(vm->max_open_bytes, 1 << 20);
    assert_int_equal(vm->max_waiting, 8);
    assert_int_equal(vm->retain_jobs, 4);
    assert_int_equal(vm->retain_for_ms, 2 * 86400 * 1000);
    assert_int_equal(vm->uid, 1234);
    assert_string_equal(vm->address, "2001:db8::7");
    const struct config_pool *pool = &config->pools[config_find_pool(config, "C")];
    assert_int_equal(pool - config->pools, 2);
    assert_string_equal(pool->backend, "cuda");
    assert_string_equal(pool->device, "MIG-0ab1-2");
    assert_int_equal(pool->slots, 7);
    assert_string_equal(pool->executor, "ssh -o 'User x' gpu vgpu-executor");
    assert_int_equal(pool->order, ORDER_FAIR);
    assert_int_equal(pool->max_wait_ms, 90000);
    assert_int_equal(pool->max_queued, 5);
    assert_int_equal(pool->max_run_ms, 3600 * 1000);
    assert_int_equal(pool->max_result_bytes, 64 << 10);
    assert_false(pool->sandbox);
    assert_true(pool->host_memory_bytes == UINT64_C(3) << 30);
    assert_int_equal(pool->max_processes, 77);
    assert_false(pool->scrub);
    assert_true(pool->device_memory_bytes == UINT64_C(2) << 30);
    assert_int_equal(pool->mps_percent, 25);
    assert_int_equal(config_find_pool(config, "D"), -1);
    config_destroy(config);
}

static void test_defaults_hold_for_all_vms_wherever_they_stand(void **state)
{
    (void)state;
    struct config *config = parse("[vm 3]\nmax_queued = 9\npool = any\n"
                                  "[defaults]\nmax_queued = 7\npool = B\nmax_jobs = 8\n"
                                  "[pool Z]\n[pool B]\nslots = 2\n[pool C]\n");
    assert_int_equal(config_find_vm(config, 3)->max_queued, 9);
    assert_int_equal(config_find_vm(config, 3)->max_jobs, 8);
    assert_int_equal(config_find_vm(config, 3)->fixed_pool, -1);
    assert_int_equal(config_find_vm(config, 3)->allowed_pools, 0xf);
    assert_int_equal(config_find_vm(config, 4)->max_queued, 7);
    assert_int_equal(config_find_vm(config, 4)->fixed_pool, 1);
    static const char *const names[] = {"A", "B", "Z", "C"};
    assert_int_equal(config->pool_count, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(config->pools[i].name, names[i]);
    assert_int_equal(config->pools[0].slots, 1);
    assert_int_equal(config->pools[1].slots, 2);
    config_destroy(config);
}

/* What [defaults] allow others to claim does not bind what the host fixes for one. */
static void test_fixed_goes_before_the_limits_of_defaults(void **state)
{
    (void)state;
    struct config *config = parse("[defaults]\nmax_priority = 1\npools = A\n"
                                  "[vm 3]\npriority = 2\npool = B\n");
    assert_int_equal(config_find_vm(config, 3)->fixed_priority, 2);
    assert_int_equal(config_find_vm(config, 3)->fixed_pool, 1);
    assert_int_equal(config_find_vm(config, 4)->max_priority, 1);
    config_destroy(config);
}

static void test_vms(void **state)
{
    (void)state;
    struct config *config = parse("[vgpufs]\nvms = none\n[vm 12]\n");
    assert_int_equal(config->vm_count, 1);
    assert_int_equal(config->vms[0].id, 12);
    config_destroy(config);
    config = parse("[vgpufs]\nvms = none\n");
    assert_int_equal(config->vm_count, 0);
    assert_null(config_find_vm(config, 1));
    config_destroy(config);
    config = parse("[vgpufs]\nvms = 1-65535\n");
    assert_int_equal(config->vm_count, 65535);
    assert_int_equal(config_find_vm(config, 40000)->uid, 60000);
    config_destroy(config);
}

static void test_owners(void **state)
{
    (void)state;
    struct config *config = parse_as("", true);
    assert_int_equal(config->uid_base, 0);
    assert_int_equal(config->vms[9].uid, geteuid());
    config_destroy(config);
    config = parse_as("[defaults]\nuid_base = 0\n", true);
    assert_int_equal(config->vms[0].uid, geteuid());
    config_destroy(config);
    config = parse("[defaults]\nuid_base = 0\n");
    assert_int_equal(config->vms[0].uid, geteuid());
    config_destroy(config);
    config = parse("[vm 3]\nuid = 0\n");
    assert_int_equal(config_find_vm(config, 3)->uid, 0);
    config_destroy(config);
    assert_refused_as("[defaults]\nuid_base = 20000\n", true,
                      "t.conf:2: uid_base = '20000': only root can give files to other users: "
                      "remove the key or set 0");
    char text[64];
    snprintf(text, sizeof(text), "[vm 3]\nuid = %u\n", geteuid());
    config = parse_as(text, true);
    assert_int_equal(config_find_vm(config, 3)->uid, geteuid());
    config_destroy(config);
    assert_refused_as("[vm 3]\nuid = 4294967294\n", true,
                      "t.conf:2: uid = '4294967294': only root can give files to other users: "
                      "remove the key");
}

static void test_relative_paths(void **state)
{
    (void)state;
    char real[PATH_MAX], expected[PATH_MAX + 32];
    char directory[] = "/tmp/test-config-XXXXXX";
    assert_non_null(mkdtemp(directory));
    assert_non_null(realpath(directory, real));
    char path[64];
    snprintf(path, sizeof(path), "%s/./x.conf", directory);
    struct text error = {0};
    struct config *config =
        config_parse("[vgpufs]\nmountpoint = ./mnt//\nstate_dir = ../s\n", path, false, &error);
    assert_non_null(config);
    snprintf(expected, sizeof(expected), "%s/mnt", real);
    assert_string_equal(config->mountpoint, expected);
    snprintf(expected, sizeof(expected), "%s/../s", real);
    assert_string_equal(config->state_dir, expected);
    snprintf(expected, sizeof(expected), "%s/x.conf", real);
    assert_string_equal(config->file, expected);
    config_destroy(config);
    rmdir(directory);
    assert_null(config_parse("", path, false, &error));
    snprintf(expected, sizeof(expected),
             "%s: cannot find the directory of this file: No such file or directory: name another "
             "with -c",
             path);
    assert_string_equal(error.data, expected);
    text_finish(&error);
}

static void test_syntax_that_is_taken(void **state)
{
    (void)state;
    struct config *config = parse("\xef\xbb\xbf[vgpufs] ; the first\r\n"
                                  "\r\n"
                                  "  vms : 1-2 ; three would be too many\r\n"
                                  "\t# log_level = bad\n"
                                  "    log_level=error\n"
                                  "[ vm \t 3 ]   # third\n"
                                  "max_queued=5");
    assert_int_equal(config->vm_count, 3);
    assert_int_equal(config->log_level, LOG_LEVEL_ERROR);
    assert_int_equal(config_find_vm(config, 3)->max_queued, 5);
    config_destroy(config);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void test_files(void **state)
{
    (void)state;
    char path[] = "/tmp/test-config-XXXXXX";
    char expected[PATH_MAX];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct text error = {0};

    struct config *config = config_load(path, false, &error);
    assert_non_null(config);
    assert_int_equal(config->vm_count, 10);
    config_destroy(config);

    static const char nul[] = "[vgpufs]\nvms = 1\0 2\n";
    write_file(path, nul, sizeof(nul) - 1);
    assert_null(config_load(path, false, &error));
    snprintf(expected, sizeof(expected), "%s:2: a control character (\\x00): remove it", path);
    assert_string_equal(error.data, expected);

    char *large = calloc(1, 1024 * 1024 + 1);
    memset(large, '\n', 1024 * 1024 + 1);
    write_file(path, large, 1024 * 1024);
    config = config_load(path, false, &error);
    assert_non_null(config);
    config_destroy(config);
    write_file(path, large, 1024 * 1024 + 1);
    assert_null(config_load(path, false, &error));
    snprintf(expected, sizeof(expected),
             "%s: the file is larger than 1048576 bytes: name another with -c", path);
    assert_string_equal(error.data, expected);
    free(large);

    unlink(path);
    assert_null(config_load(path, false, &error));
    snprintf(expected, sizeof(expected),
             "cannot read %s: No such file or directory: copy the sample or name another with -c",
             path);
    assert_string_equal(error.data, expected);
    assert_null(config_load("/tmp", false, &error));
    assert_string_equal(error.data,
                        "cannot read /tmp: Is a directory: mend that or name another with -c");
    text_finish(&error);
}

static void test_sample(void **state)
{
    (void)state;
    struct text error = {0};
    struct config *config = config_load(SAMPLE_FILE, false, &error);
    if (!config)
        print_error("refused: %s\n", error.data);
    assert_non_null(config);
    struct config *defaults = parse("");
    assert_string_equal(config->mountpoint, defaults->mountpoint);
    assert_int_equal(config->vm_count, defaults->vm_count);
    /* The one thing that needs what a meson install brings, and cannot change. */
    assert_null(defaults->executor_user);
    assert_string_equal(config->executor_user, "vgpufs-executor");
    assert_true(config_reload_refused(defaults, config, &error));
    assert_non_null(strstr(error.data, "executor_user"));
    text_finish(&error);
    defaults->executor_user = strdup(config->executor_user);
    assert_false(config_reload_refused(defaults, config, &error));
    config_destroy(config);
    config_destroy(defaults);
    text_finish(&error);
}

static void test_reload(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after, *message; /* message NULL: allowed */
    } cases[] = {
        {"", "", NULL},
        {"",
         "[vgpufs]\nvms = 1-20\nlog_level = debug\nstats_mode = 0440\n[vm 3]\npool = B\n"
         "[pool A]\norder = fair\nmax_run = 5s\n",
         NULL},
        {"", "[vgpufs]\n\nmountpoint = /x\n", "3: mountpoint cannot change"},
        {"[vgpufs]\nstate_dir = /x\n", "", " state_dir cannot change"},
        {"", "[defaults]\nuid_base = 5000\n", "2: uid_base cannot change"},
        {"[pool C]\n", "\n[pool D]\n[pool C]\n", "2: [pool D] cannot be added"},
        {"[pool C]\n", "", " [pool C] cannot be removed"},
        {"[pool C]\n[pool D]\n", "[pool D]\n[pool C]\n",
         "1: [pool D] cannot change its place among the pools"},
        {"", "[pool B]\nbackend = cpu\n", "2: backend of [pool B] cannot change"},
        {"", "[pool A]\ndevice = 1\n", "2: device of [pool A] cannot change"},
        {"", "[pool A]\nslots = 2\n", "2: slots of [pool A] cannot change"},
        {"[pool A]\nexecutor = x\n", "", " executor of [pool A] cannot change"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config *before = parse(cases[i].before), *after = parse(cases[i].after);
        struct text error = {0};
        bool refused = config_reload_refused(before, after, &error);
        assert_int_equal(refused, cases[i].message != NULL);
        if (refused) {
            char expected[PATH_MAX];
            snprintf(expected, sizeof(expected),
                     "%s:%s while vgpufs runs: take that back, or restart vgpufs", after->file,
                     cases[i].message);
            assert_string_equal(error.data, expected);
        }
        text_finish(&error);
        config_destroy(before);
        config_destroy(after);
    }
}

static void test_split_command(void **state)
{
    (void)state;
    static const struct {
        const char *command;
        const char *words[6]; /* none: an error */
    } cases[] = {
        {"vgpu-executor", {"vgpu-executor"}},
        {"  ssh \t gpu-vm  vgpu-executor  ", {"ssh", "gpu-vm", "vgpu-executor"}},
        {"a 'b  c' \"d 'e'\" f\\ g", {"a", "b  c", "d 'e'", "f g"}},
        {"a '' \"\" x\"y\"'z'", {"a", "", "", "xyz"}},
        {"a '\\' \"\\\"\\\\\\n\"", {"a", "\\", "\"\\\\n"}},
        {"a $HOME *", {"a", "$HOME", "*"}},
        {"", {NULL}},
        {"  ", {NULL}},
        {"''", {NULL}},
        {"a 'b", {NULL}},
        {"a \"b\\\"", {NULL}},
        {"a\\", {NULL}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *error = NULL;
        char **words = config_split_command(cases[i].command, &error);
        assert_int_equal(words != NULL, cases[i].words[0] != NULL);
        assert_int_equal(words == NULL, error != NULL);
        for (size_t w = 0; words && (words[w] || cases[i].words[w]); w++) {
            assert_non_null(words[w]);
            assert_non_null(cases[i].words[w]);
            assert_string_equal(words[w], cases[i].words[w]);
        }
        free(words);
    }
}

/* Both lists name every key that the parser takes, and mdoc has nothing that roff would read. */
static void test_lists(void **state)
{
    (void)state;
    static const char *const names[] = {
        "mountpoint",
        "state_dir",
        "executor_user",
        "vms",
        "durability",
        "on_restart",
        "max_reruns",
        "stop_timeout",
        "stats_log_interval",
        "log_level",
        "log_jobs",
        "stats_mode",
        "hold",
        "threads",
        "waiting_per_vm",
        "uid_base",
        "pool",
        "priority",
        "pools",
        "max_priority",
        "identity",
        "max_queued",
        "max_jobs",
        "max_running",
        "device_share",
        "max_crashes",
        "data_quota",
        "max_data_files",
        "max_data_open",
        "max_open",
        "max_open_bytes",
        "max_waiting",
        "retain_jobs",
        "retain_for",
        "uid",
        "address",
        "backend",
        "device",
        "slots",
        "executor",
        "order",
        "max_wait",
        "max_run",
        "max_result",
        "sandbox",
        "host_memory",
        "max_processes",
        "scrub",
        "device_memory",
        "mps_percent",
    };
    char *help = NULL, *mdoc = NULL;
    size_t size;
    FILE *out = open_memstream(&help, &size);
    config_print_help(out);
    fclose(out);
    out = open_memstream(&mdoc, &size);
    config_print_mdoc(out);
    fclose(out);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char item[64];
        snprintf(item, sizeof(item), "\n  %s = ", names[i]);
        assert_non_null(strstr(help, item));
        snprintf(item, sizeof(item), "\n.It Ic %s No = Ar ", names[i]);
        assert_non_null(strstr(mdoc, item));
    }
    size_t items = 0;
    for (const char *c = mdoc; (c = strstr(c, "\n.It ")); c++)
        items++;
    assert_int_equal(items, sizeof(names) / sizeof(names[0]) + 1); /* max_queued is there twice */
    free(help);
    free(mdoc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_defaults_hold_for_all_vms_wherever_they_stand),
        cmocka_unit_test(test_fixed_goes_before_the_limits_of_defaults),
        cmocka_unit_test(test_vms),
        cmocka_unit_test(test_owners),
        cmocka_unit_test(test_relative_paths),
        cmocka_unit_test(test_syntax_that_is_taken),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_split_command),
        cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
