/*
 * vgpu-identity against a made-up sysfs and a made-up mount, both plain files.
 * The built program's path is the argument.
 */
#include "program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICES  "sys/bus/pci/devices"
#define ALL_ONES 0xffffffffu

static const char *program_path;
static char *base; /* of the test that runs: sys/ and mount/ below it */

static int setup(void **state)
{
    (void)state;
    base = directory_make();
    file_puts(base, DEVICES "/0000:00:00.0/vendor", "0x8086\n");
    file_puts(base, DEVICES "/0000:00:00.0/device", "0x1237\n");
    file_puts(base, DEVICES "/0000:00:00.0/class", "0x060000\n");
    file_puts(base, "mount/vm3/identity", "");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    directory_remove(base);
    return 0;
}

static void device_put(const char *address, const char *file, const void *content, size_t size)
{
    char name[256];
    snprintf(name, sizeof(name), DEVICES "/%s/%s", address, file);
    file_put(base, name, content, size);
}

static void registers_put(const char *address, unsigned bar, uint32_t pool, uint32_t priority,
                          uint32_t vm_id)
{
    uint32_t page[1024] = {[2] = htole32(pool), [3] = htole32(priority), [4] = htole32(vm_id)};
    char file[16];
    snprintf(file, sizeof(file), "resource%u", bar);
    device_put(address, file, page, sizeof(page));
}

static void ids_put(const char *address, const char *vendor, const char *device, const char *class)
{
    device_put(address, "vendor", vendor, strlen(vendor));
    device_put(address, "device", device, strlen(device));
    device_put(address, "class", class, strlen(class));
}

static void stub_put(const char *address, uint32_t pool, uint32_t priority, uint32_t vm_id)
{
    ids_put(address, "0x1af4\n", "0x1111\n", "0x120000\n");
    registers_put(address, 0, pool, priority, vm_id);
}

/* Up to three further arguments. */
static struct program program_begin(const char *a, const char *b, const char *c)
{
    char sysfs[256], mount[256];
    snprintf(sysfs, sizeof(sysfs), "--sysfs=%s/sys", base);
    snprintf(mount, sizeof(mount), "--mount=%s/mount", base);
    const char *const arguments[] = {program_path, sysfs, mount, a, b, c, NULL};
    return program_start(arguments, NULL);
}

static struct program_end identity(const char *a, const char *b, const char *c)
{
    struct program program = program_begin(a, b, c);
    return program_wait(&program);
}

static void assert_set(const char *vm, const char *line)
{
    char name[64], content[256];
    snprintf(name, sizeof(name), "mount/%s/identity", vm);
    assert_true(file_get(base, name, content, sizeof(content)));
    assert_string_equal(content, line);
}

/* One line that begins with the program's name and holds the words. */
static void assert_error(const struct program_end *end, int status, const char *words)
{
    if (end->status != status || !strstr(end->error, words))
        fail_msg("exit %d, not %d with '%s': %s", end->status, status, words, end->error);
    assert_ptr_equal(strstr(end->error, "vgpu-identity: "), end->error);
    assert_ptr_equal(strchr(end->error, '\n'), end->error + strlen(end->error) - 1);
}

static void sets_the_identity(void **state)
{
    (void)state;
    stub_put("0000:00:06.0", 'B', 2, 3);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_string_equal(end.error, "");
    assert_int_equal(end.status, 0);
    assert_set("vm3", "pool=B priority=2 vm_id=3\n");
}

static void prints_and_sets_nothing(void **state)
{
    (void)state;
    char expected[512];
    stub_put("0000:00:06.0", 'A', 0, 3);
    struct program_end end = identity("--print", NULL, NULL);
    assert_int_equal(end.status, 0);
    snprintf(expected, sizeof(expected),
             "pool=A priority=0 vm_id=3 device=%s/" DEVICES "/0000:00:06.0 bar=0\n", base);
    assert_string_equal(end.out, expected);
    assert_set("vm3", "");
}

static void takes_the_limits(void **state)
{
    (void)state;
    stub_put("0000:00:06.0", 'Z', 2, 65535);
    file_puts(base, "mount/vm65535/identity", "");
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm65535", "pool=Z priority=2 vm_id=65535\n");
}

static void refuses_invalid_registers(void **state)
{
    (void)state;
    static const struct {
        uint32_t pool, priority, vm_id;
        const char *words;
    } cases[] = {
        {'A' - 1, 1, 3, "register pool (offset 0x008) is 0x00000040, not one of 'A' to 'Z'"},
        {'Z' + 1, 1, 3, "register pool (offset 0x008) is 0x0000005b"},
        {'a', 1, 3, "register pool (offset 0x008) is 0x00000061"},
        {0, 1, 3, "register pool (offset 0x008) is 0x00000000"},
        {0x4100, 1, 3, "register pool (offset 0x008) is 0x00004100"},
        {'A', 3, 3, "register priority (offset 0x00c) is 0x00000003, not 0 (low)"},
        {'A', 0x80000000, 3, "register priority (offset 0x00c) is 0x80000000"},
        {'A', 1, 0, "register vm_id (offset 0x010) is 0x00000000, not 1 to 65535"},
        {'A', 1, 65536, "register vm_id (offset 0x010) is 0x00010000"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        stub_put("0000:00:06.0", cases[i].pool, cases[i].priority, cases[i].vm_id);
        struct program_end end = identity(NULL, NULL, NULL);
        assert_error(&end, 1, cases[i].words);
        assert_set("vm3", "");
    }
}

static void without_a_stub_names_the_fallback(void **state)
{
    (void)state;
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 2, "runs as pool A, priority 1");
    assert_set("vm3", "");
    end = identity("--device=0000:00:06.0", NULL, NULL);
    assert_error(&end, 2, "no PCI device 0000:00:06.0");
}

static void finds_by_class(void **state)
{
    (void)state;
    ids_put("0000:00:07.0", "0x1234\n", "0x5678\n", "0x120001\n");
    registers_put("0000:00:07.0", 0, 'A', 1, 3);
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm3", "pool=A priority=1 vm_id=3\n");
}

static void leaves_devices_with_a_driver_alone(void **state)
{
    (void)state;
    ids_put("0000:00:07.0", "0x1234\n", "0x5678\n", "0x120000\n");
    registers_put("0000:00:07.0", 0, 'A', 1, 3);
    device_put("0000:00:07.0", "driver", "", 0);
    assert_int_equal(identity(NULL, NULL, NULL).status, 2);
    assert_int_equal(identity("--device=0000:00:07.0", NULL, NULL).status, 0);
}

static void takes_ivshmem_if_its_registers_are_valid(void **state)
{
    (void)state;
    ids_put("0000:00:05.0", "0x1af4\n", "0x1110\n", "0x050000\n");
    registers_put("0000:00:05.0", 0, 'A', 0, 3);
    registers_put("0000:00:05.0", 2, 0, 0, 0);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 2, "ivshmem is there, but 0000:00:05.0 BAR2: register pool");
    registers_put("0000:00:05.0", 2, 'B', 1, 3);
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm3", "pool=B priority=1 vm_id=3\n");
    assert_int_equal(identity("--device=00:05.0", NULL, NULL).status, 0);
    assert_set("vm3", "pool=B priority=1 vm_id=3\n");
    assert_int_equal(identity("--device=0000:00:05.0", "--bar=0", NULL).status, 0);
    assert_set("vm3", "pool=A priority=0 vm_id=3\n");
    stub_put("0000:00:06.0", 'C', 2, 3);
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm3", "pool=C priority=2 vm_id=3\n");
}

static void chooses_among_several(void **state)
{
    (void)state;
    stub_put("0000:00:06.0", 0, 0, 0);
    stub_put("0000:00:08.0", 'B', 0, 3);
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm3", "pool=B priority=0 vm_id=3\n");
    /* Of a lesser kind, these are not looked at. */
    ids_put("0000:00:09.0", "0x1234\n", "0x5678\n", "0x120000\n");
    registers_put("0000:00:09.0", 0, 'C', 0, 3);
    ids_put("0000:00:0a.0", "0x1af4\n", "0x1110\n", "0x050000\n");
    registers_put("0000:00:0a.0", 2, 'D', 0, 3);
    assert_int_equal(identity(NULL, NULL, NULL).status, 0);
    assert_set("vm3", "pool=B priority=0 vm_id=3\n");
    stub_put("0000:00:06.0", 'A', 2, 3);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "0000:00:06.0 0000:00:08.0: choose one with --device");
    assert_int_equal(identity("--device=0000:00:06.0", NULL, NULL).status, 0);
    assert_set("vm3", "pool=A priority=2 vm_id=3\n");
    stub_put("0000:00:06.0", 0, 2, 3);
    stub_put("0000:00:08.0", 'B', 9, 3);
    end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "no vGPU stub has valid registers, of 0000:00:06.0 0000:00:08.0");
}

static void refuses_a_small_bar(void **state)
{
    (void)state;
    ids_put("0000:00:06.0", "0x1af4\n", "0x1111\n", "0x120000\n");
    device_put("0000:00:06.0", "resource0", "0123456789abcdef012", 19);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "has 19 bytes");
}

static void tries_to_enable_decoding(void **state)
{
    (void)state;
    char content[64] = "";
    uint8_t config[64] = {0xf4, 0x1a, 0x11, 0x11, 0x04, 0x01};
    stub_put("0000:00:06.0", ALL_ONES, ALL_ONES, ALL_ONES);
    device_put("0000:00:06.0", "enable", "0\n", 2);
    device_put("0000:00:06.0", "config", config, sizeof(config));
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "memory decoding could not be turned on");
    assert_true(file_get(base, DEVICES "/0000:00:06.0/enable", content, sizeof(content)));
    assert_string_equal(content, "1\n");
    assert_true(file_get(base, DEVICES "/0000:00:06.0/config", content, sizeof(content)));
    config[4] |= 2;
    assert_memory_equal(content, config, sizeof(config) - 1);
}

/* device_wake plays the device: once somebody enables it, its registers answer. */
static void *device_wake(void *file)
{
    char content[16];
    uint32_t registers[3] = {htole32('B'), htole32(0), htole32(3)};
    const struct timespec tick = {.tv_nsec = 500000};
    for (int left = 20000; left > 0; left--) {
        if (file_get(base, DEVICES "/0000:00:06.0/enable", content, sizeof(content)) &&
            content[0] == '1') {
            fseek(file, 8, SEEK_SET);
            fwrite(registers, sizeof(registers), 1, file);
            fflush(file);
            break;
        }
        nanosleep(&tick, NULL);
    }
    return NULL;
}

static void enables_decoding(void **state)
{
    (void)state;
    char path[512];
    pthread_t thread;
    stub_put("0000:00:06.0", ALL_ONES, ALL_ONES, ALL_ONES);
    device_put("0000:00:06.0", "enable", "0\n", 2);
    snprintf(path, sizeof(path), "%s/" DEVICES "/0000:00:06.0/resource0", base);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(pthread_create(&thread, NULL, device_wake, file), 0);
    struct program_end end = identity(NULL, NULL, NULL);
    pthread_join(thread, NULL);
    fclose(file);
    assert_string_equal(end.error, "");
    assert_set("vm3", "pool=B priority=0 vm_id=3\n");
}

static void waits_for_the_mount(void **state)
{
    (void)state;
    const struct timespec delay = {.tv_nsec = 250000000};
    stub_put("0000:00:06.0", 'A', 2, 4);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "mount vgpufs first (or use --wait)");
    file_puts(base, "mount/vm4/other", "");
    end = identity("--wait=0.2", NULL, NULL);
    assert_false(file_exists(base, "mount/vm4/identity"));
    assert_error(&end, 1, "mount vgpufs first (or use --wait)");
    struct program program = program_begin("--wait=20", NULL, NULL);
    nanosleep(&delay, NULL);
    file_puts(base, "mount/vm4/identity", "");
    end = program_wait(&program);
    assert_string_equal(end.error, "");
    assert_set("vm4", "pool=A priority=2 vm_id=4\n");
}

static void reports_errors_of_writing(void **state)
{
    (void)state;
    char path[512];
    stub_put("0000:00:06.0", 'A', 2, 4);
    assert_false(file_exists(base, "mount/vm4"));
    file_puts(base, "mount/vm4/other", "");
    snprintf(path, sizeof(path), "%s/mount/vm4/identity", base);
    assert_int_equal(symlink("/dev/full", path), 0);
    struct program_end end = identity(NULL, NULL, NULL);
    assert_error(&end, 1, "cannot write");
}

static void checks_its_options(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"--bar=6", "--bar=6"},
        {"--bar=-1", "--bar=-1"},
        {"--wait=soon", "--wait=soon"},
        {"--device=../../x", "is no PCI address"},
        {"--nonsense", "--nonsense is not known"},
        {"--wait", "--wait needs a value"},
        {"surplus", "surplus is not expected"},
    };
    stub_put("0000:00:06.0", 'A', 2, 3);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct program_end end = identity(bad[i][0], NULL, NULL);
        assert_error(&end, 1, bad[i][1]);
    }
    assert_set("vm3", "");
    struct program_end end = identity("--help", NULL, NULL);
    assert_int_equal(end.status, 0);
    assert_non_null(strstr(end.out, "--sysfs=DIR"));
    end = identity("--version", NULL, NULL);
    assert_int_equal(end.status, 0);
    assert_string_equal(end.out, "vgpu-identity " VGPUFS_VERSION "\n");
}

int main(int argc, char **argv)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(sets_the_identity),
        CASE(prints_and_sets_nothing),
        CASE(takes_the_limits),
        CASE(refuses_invalid_registers),
        CASE(without_a_stub_names_the_fallback),
        CASE(finds_by_class),
        CASE(leaves_devices_with_a_driver_alone),
        CASE(takes_ivshmem_if_its_registers_are_valid),
        CASE(chooses_among_several),
        CASE(refuses_a_small_bar),
        CASE(tries_to_enable_decoding),
        CASE(enables_decoding),
        CASE(waits_for_the_mount),
        CASE(reports_errors_of_writing),
        CASE(checks_its_options),
    };
    if (argc != 2) {
        fprintf(stderr, "test-identity: no program: give the path of vgpu-identity\n");
        return 2;
    }
    program_path = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
