/* data: names, sizes, times and quota of a VM's files; also open, replaced, and on a full disk. */
#include "data_fixture.h"
#include "scratch.h"
#include "synced.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static uint64_t nanoseconds(struct timespec time)
{
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void test_create(void **unused)
{
    (void)unused;
    struct data_file *file, *same;
    struct timespec before = data.changed;
    assert_no_file("a");
    assert_int_equal(data_create(&data, "a", true, &file), 0);
    assert_true(nanoseconds(data.changed) > nanoseconds(before));
    assert_int_equal(file->number, 1);
    assert_content(file, "");
    assert_int_equal(data_create(&data, "a", true, &same), EEXIST);
    assert_int_equal(data_create(&data, "a", false, &same), 0);
    assert_ptr_equal(same, file);
    data_unref(same);
    data_unref(file);
    assert_file("a", 1, "");
    assert_int_equal(file_put("b", "12345"), 2);
    assert_file("b", 2, "12345");
    assert_usage(5, 2);
    assert_null(data_get(&data, 3));
    data_unref(NULL);
}

/* The folder of a VM's files outlives a power cut, with what is put into it. */
static void test_new_folder_is_synced(void **unused)
{
    (void)unused;
    synced_watch(scratch_path("state/data/3"));
    file_put("a", "");
    assert_true(synced_seen());
}

static void test_unlink(void **unused)
{
    (void)unused;
    uint64_t number = file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    struct timespec before = data.changed, touched = file->ctime;
    assert_int_equal(data_unlink(&data, "missing"), ENOENT);
    assert_int_equal(nanoseconds(data.changed), nanoseconds(before));
    assert_int_equal(data_unlink(&data, "a"), 0);
    assert_true(nanoseconds(data.changed) > nanoseconds(before));
    assert_int_equal(data_unlink(&data, "a"), ENOENT);
    assert_saved(0);
    assert_no_file("a");
    /* It is open: it lives on without a name, and counts. */
    struct stat stat;
    data_stat(file, &stat);
    assert_int_equal(stat.st_nlink, 0);
    assert_true(nanoseconds(stat.st_ctim) > nanoseconds(touched));
    assert_content(file, "12345");
    assert_usage(5, 0);
    struct data_file *same = data_get(&data, number);
    assert_ptr_equal(same, file);
    data_unref(same);
    assert_true(file_has_backing(number));
    data_unref(file);
    assert_null(data_get(&data, number));
    assert_usage(0, 0);
    assert_false(file_has_backing(number));
    /* A new file of that name is another one. */
    assert_true(file_put("a", "") > number);
}

static void test_rename(void **unused)
{
    (void)unused;
    uint64_t number = file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    uint64_t changed = nanoseconds(data.changed), touched = nanoseconds(file->ctime);
    assert_int_equal(data_rename(&data, "missing", "b", false), ENOENT);
    assert_int_equal(data_rename(&data, "a", "a", false), 0);
    assert_int_equal(data_rename(&data, "a", "a", true), EEXIST);
    assert_int_equal(nanoseconds(data.changed), changed);
    assert_int_equal(data_rename(&data, "a", "b", true), 0);
    assert_true(nanoseconds(data.changed) > changed);
    assert_true(nanoseconds(file->ctime) > touched);
    data_unref(file);
    assert_no_file("a");
    assert_file("b", number, "12345");
    assert_usage(5, 1);
    files_restart();
    assert_no_file("a");
    assert_file("b", number, "12345");
}

static void test_rename_replaces(void **unused)
{
    (void)unused;
    uint64_t old = file_put("target", "old content"), new = file_put("temporary", "new");
    assert_int_equal(data_rename(&data, "temporary", "target", true), EEXIST);
    assert_file("target", old, "old content");
    struct data_file *open = data_find(&data, "target");
    assert_int_equal(data_rename(&data, "temporary", "target", false), 0);
    assert_file("target", new, "new");
    assert_no_file("temporary");
    assert_content(open, "old content"); /* who has it open reads on */
    assert_usage(14, 1);
    data_unref(open);
    assert_usage(3, 1);
    wait_state();
    assert_false(file_has_backing(old));
    files_restart();
    assert_file("target", new, "new");
    assert_no_file("temporary");
    assert_usage(3, 1);
}

/* Killed before the rename was on disk: all is as it was, bytes and names. */
static void test_rename_not_written(void **unused)
{
    (void)unused;
    uint64_t old = file_put("target", "old content"), new = file_put("temporary", "new");
    wait_state();
    scratch_disk_full(1);
    assert_int_equal(data_rename(&data, "temporary", "target", false), 0);
    assert_file("target", new, "new");
    files_stop();
    scratch_disk_full(0);
    files_start();
    assert_file("target", old, "old content");
    assert_file("temporary", new, "new");
}

/* On a full disk an unlink still frees its bytes. */
static void test_unlink_on_full_disk(void **unused)
{
    (void)unused;
    uint64_t number = file_put("a", "12345");
    wait_state();
    scratch_disk_full(1);
    assert_int_equal(data_unlink(&data, "a"), 0);
    assert_false(file_has_backing(number));
    assert_usage(0, 0);
    scratch_disk_full(0);
}

/* While the disk refuses, what a VM may still ask for is bounded, and names are a part of it. */
static void test_behind(void **unused)
{
    (void)unused;
    struct data_file *file;
    file_put("a", "12345");
    wait_state();
    scratch_disk_full(1);
    for (uint64_t i = 0; i < 20000; i++)
        state_put_file_numbers(state, VM, data.reserved_file + i + 1);
    assert_int_not_equal(state_wait(state, state_now(state)), 0);
    assert_true(state_is_behind(state, VM));
    assert_int_equal(data_create(&data, "b", false, &file), ENOSPC);
    assert_int_equal(data_rename(&data, "a", "b", false), ENOSPC);
    scratch_disk_full(0);
}

static void test_quota(void **unused)
{
    (void)unused;
    struct data_file *a, *b;
    assert_int_equal(data_create(&data, "a", true, &a), 0);
    assert_int_equal(data_create(&data, "b", true, &b), 0);
    assert_int_equal(data_charge(a, 600), 0);
    assert_int_equal(data_charge(a, 500), 0); /* inside what is there */
    assert_usage(600, 2);
    assert_int_equal(data_charge(b, 401), EDQUOT);
    assert_int_equal(data_charge(b, UINT64_MAX), EDQUOT);
    assert_int_equal(data_charge(b, UINT64_MAX - 599), EDQUOT); /* 0 in all, modulo 2^64 */
    assert_usage(600, 2);
    assert_int_equal(data_charge(b, 400), 0);
    assert_int_equal(data_charge(b, 401), EDQUOT);
    assert_int_equal(data_charge(a, 601), EDQUOT);
    assert_usage(1000, 2);
    /* Less than is used: nothing grows, all else goes on. */
    data_set_limits(&data, &(struct data_limits){100, MOST_FILES, MOST_OPEN});
    assert_int_equal(data_charge(a, 600), 0);
    assert_int_equal(data_charge(a, 601), EDQUOT);
    data_set_limits(&data, &(struct data_limits){1001, MOST_FILES, MOST_OPEN});
    assert_int_equal(data_charge(a, 602), EDQUOT);
    assert_int_equal(data_charge(a, 601), 0);
    data_unref(a);
    assert_int_equal(data_unlink(&data, "a"), 0);
    assert_usage(400, 1);
    data_unref(b);
}

/* What was charged and not written is given back. */
static void test_settle(void **unused)
{
    (void)unused;
    file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    assert_int_equal(data_charge(file, 700), 0);
    assert_usage(700, 1);
    int descriptor = data_open_backing(file, O_RDONLY);
    data_settle(file, descriptor);
    close(descriptor);
    data_unref(file);
    assert_usage(5, 1);
    assert_file("a", 1, "12345");
}

static void test_truncate(void **unused)
{
    (void)unused;
    file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    uint64_t touched = nanoseconds(file->mtime);
    assert_int_equal(data_truncate(file, 3), 0);
    assert_true(nanoseconds(file->mtime) > touched);
    assert_usage(3, 1);
    assert_content(file, "123");
    touched = nanoseconds(file->mtime);
    assert_int_equal(data_truncate(file, QUOTA + 1), EDQUOT);
    assert_int_equal(data_truncate(file, INT64_MAX), EDQUOT);
    assert_int_equal(data_truncate(file, UINT64_MAX), EFBIG);
    assert_int_equal(nanoseconds(file->mtime), touched);
    assert_usage(3, 1);
    assert_content(file, "123");
    scratch_disk_full(1);
    assert_int_not_equal(data_truncate(file, 100), 0);
    scratch_disk_full(0);
    assert_int_equal(nanoseconds(file->mtime), touched);
    assert_usage(3, 1);
    assert_int_equal(data_truncate(file, QUOTA), 0);
    assert_usage(QUOTA, 1);
    assert_int_equal(data_truncate(file, 0), 0);
    assert_usage(0, 1);
    data_unref(file);
    assert_file("a", 1, "");
}

static void test_times(void **unused)
{
    (void)unused;
    const struct timespec first = {1000000000, 5}, second = {1100000000, 7};
    struct stat stat;
    file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    uint64_t touched = nanoseconds(file->ctime);
    data_set_times(file, &first, &second);
    assert_true(nanoseconds(file->ctime) > touched);
    data_set_times(file, NULL, &first);
    data_set_times(file, &second, NULL);
    data_stat(file, &stat);
    assert_int_equal(nanoseconds(stat.st_atim), nanoseconds(second));
    assert_int_equal(nanoseconds(stat.st_mtim), nanoseconds(first));
    touched = nanoseconds(file->ctime);
    data_unref(file);
    files_restart();
    file = data_find(&data, "a");
    data_stat(file, &stat);
    assert_int_equal(nanoseconds(stat.st_atim), nanoseconds(second));
    assert_int_equal(nanoseconds(stat.st_mtim), nanoseconds(first));
    assert_true(nanoseconds(stat.st_ctim) > touched);
    data_unref(file);
}

static void test_outputs(void **unused)
{
    (void)unused;
    struct data_file *output, *dropped;
    uint64_t old = file_put("result.bin", "old"), changed = nanoseconds(data.changed);
    assert_int_equal(data_create_output(&data, &output), 0);
    assert_int_equal(data_create_output(&data, &dropped), 0);
    assert_true(output->number > old && dropped->number > output->number);
    /* No name, no change of the directory, but it counts. */
    assert_int_equal(nanoseconds(data.changed), changed);
    assert_int_equal(data_charge(output, 300), 0);
    assert_int_equal(data_charge(dropped, 200), 0);
    assert_usage(503, 1);
    assert_no_file("");
    uint64_t number = dropped->number;
    data_unref(dropped);
    assert_false(file_has_backing(number));
    assert_usage(303, 1);
    int descriptor = data_open_backing(output, O_WRONLY);
    assert_int_equal(write(descriptor, "new", 3), 3);
    data_settle(output, descriptor);
    close(descriptor);
    assert_file("result.bin", old, "old");
    uint64_t replaced;
    assert_int_equal(data_install(output, "result.bin", &replaced), 0);
    assert_int_equal(replaced, old);
    number = output->number;
    data_unref(output);
    assert_file("result.bin", number, "new");
    assert_true(nanoseconds(data.changed) > changed);
    assert_usage(3, 1);
    wait_state();
    assert_false(file_has_backing(old));
    files_restart();
    assert_file("result.bin", number, "new");
    assert_usage(3, 1);
}

static void note_name(void *context, const struct data_file *file)
{
    text_printf(context, "%s;", file->name);
}

static void test_each(void **unused)
{
    (void)unused;
    struct text names = {0};
    struct data_file *output;
    file_put("a", "");
    file_put("b", "");
    data_unlink(&data, "a");
    assert_int_equal(data_create_output(&data, &output), 0);
    data_each(&data, note_name, &names);
    assert_string_equal(names.data, "b;");
    text_finish(&names);
    data_unref(output);
}

static void add_number(void *context, uint64_t number)
{
    *(uint64_t *)context += number;
}

static void test_purge(void **unused)
{
    (void)unused;
    uint64_t first = file_put("a", "12345"), second = file_put("b", "123");
    struct data_file *open = data_find(&data, "a");
    uint64_t changed = nanoseconds(data.changed);
    uint64_t gone = 0;
    data_purge(&data, add_number, &gone);
    assert_int_equal(gone, first + second);
    assert_true(nanoseconds(data.changed) > changed);
    assert_no_file("a");
    assert_no_file("b");
    assert_false(file_has_backing(second));
    assert_content(open, "12345");
    assert_usage(5, 0);
    assert_saved(0);
    data_unref(open);
    assert_usage(0, 0);
    assert_false(file_has_backing(first));
    files_restart();
    assert_usage(0, 0);
    assert_true(file_put("a", "") > second); /* numbers go on */
}

static void test_file_limit(void **unused)
{
    (void)unused;
    struct data_file *file;
    file_put("a", "");
    size_t count = data.by_number.count;
    data.by_number.count = MOST_FILES; /* as if */
    assert_int_equal(data_create(&data, "b", true, &file), EDQUOT);
    assert_int_equal(data_create_output(&data, &file), EDQUOT);
    assert_int_equal(data_create(&data, "a", false, &file), 0);
    data.by_number.count = count;
    data_unref(file);
}

/* Several threads on few names: in the end the usage is the sum of what is there. */

#define THREADS    4
#define OPERATIONS 300

static void *use_files(void *argument)
{
    unsigned random = (unsigned)(uintptr_t)argument;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        char from[8], to[8];
        struct data_file *file = NULL;
        snprintf(from, sizeof(from), "%d", rand_r(&random) % 5);
        snprintf(to, sizeof(to), "%d", rand_r(&random) % 5);
        switch (rand_r(&random) % 5) {
        case 0:
            if (data_create(&data, from, false, &file) == 0)
                data_truncate(file, (uint64_t)(rand_r(&random) % 100));
            break;
        case 1:
            data_unlink(&data, from);
            break;
        case 2:
            data_rename(&data, from, to, rand_r(&random) % 2);
            break;
        case 3:
            if (data_create_output(&data, &file) == 0)
                data_install(file, to, &(uint64_t){0});
            break;
        default:
            file = data_find(&data, from);
        }
        data_unref(file);
    }
    return NULL;
}

static void add_size(void *context, const struct data_file *file)
{
    *(uint64_t *)context += file->size;
}

static void test_threads(void **unused)
{
    (void)unused;
    pthread_t threads[THREADS];
    uint64_t sum = 0;
    struct data_usage usage;
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_files, (void *)(i + 1)), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    data_each(&data, add_size, &sum);
    data_usage(&data, &usage);
    assert_int_equal(usage.used_bytes, sum);
    assert_int_equal(data.by_number.count, usage.files);
    assert_int_equal(usage.limits.quota_bytes, QUOTA);
    files_restart();
    assert_usage(sum, usage.files);
}

#define DATA_TEST(test) cmocka_unit_test_setup_teardown(test, files_setup, files_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_create),
        DATA_TEST(test_new_folder_is_synced),
        DATA_TEST(test_unlink),
        DATA_TEST(test_rename),
        DATA_TEST(test_rename_replaces),
        DATA_TEST(test_rename_not_written),
        DATA_TEST(test_unlink_on_full_disk),
        DATA_TEST(test_behind),
        DATA_TEST(test_quota),
        DATA_TEST(test_settle),
        DATA_TEST(test_truncate),
        DATA_TEST(test_times),
        DATA_TEST(test_outputs),
        DATA_TEST(test_each),
        DATA_TEST(test_purge),
        DATA_TEST(test_file_limit),
        DATA_TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
