/* data: names, sizes and quota of a VM's files, over restarts, full disks and open files. */
#include "data.h"

#include "scratch.h"
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

#define VM         3
#define QUOTA      1000
#define MOST_FILES 2000
#define MOST_OPEN  3

static const struct data_limits limits = {QUOTA, MOST_FILES, MOST_OPEN};
static struct state *state;
static struct data data;

static void note_vm(void *context, const struct state_vm *vm)
{
    if (vm->id == VM)
        *(uint64_t *)context = vm->next_file;
}

static uint64_t saved_next_file(void)
{
    uint64_t next_file = 1;
    state_load_vms(state, note_vm, &next_file);
    return next_file;
}

static uint64_t adopted;            /* what start() is to find again; 0: nothing */
static struct data_file *kept_file; /* … and a reference to it */

static void start(void)
{
    struct text error = {0};
    state = state_open(scratch_path("state"), &error);
    if (!state)
        fail_msg("%s", error.data);
    data_init(&data, state, VM, saved_next_file(), &limits);
    data_adopt(&data, adopted);
    kept_file = data_get(&data, adopted);
    data_sweep(&data);
}

static void stop(void)
{
    data_finish(&data);
    state_close(state);
    state = NULL;
}

static void restart(void)
{
    stop();
    start();
}

static int setup(void **unused)
{
    (void)unused;
    scratch_make();
    start();
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    scratch_disk_full(0);
    if (state)
        stop();
    scratch_remove();
    return 0;
}

/* backing_path returns where the bytes of that file lie. */
static const char *backing_path(uint64_t number)
{
    char name[64];
    snprintf(name, sizeof(name), "state/data/%d/%" PRIu64, VM, number);
    return scratch_path(name);
}

static bool has_backing(uint64_t number)
{
    return access(backing_path(number), F_OK) == 0;
}

/* wait_state: what the state does once it is written has been done. */
static void wait_state(void)
{
    assert_int_equal(state_wait(state, state_now(state)), 0);
}

/* put makes a file of that content and returns its number. */
static uint64_t put(const char *name, const char *content)
{
    struct data_file *file;
    assert_int_equal(data_create(&data, name, false, &file), 0);
    size_t size = strlen(content);
    assert_int_equal(data_charge(file, size), 0);
    int descriptor = data_open_backing(file, O_WRONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, content, size), size);
    close(descriptor);
    data_touch(file);
    uint64_t number = file->number;
    data_unref(file);
    return number;
}

static void assert_content(struct data_file *file, const char *content)
{
    char bytes[256] = "";
    int descriptor = data_open_backing(file, O_RDONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(read(descriptor, bytes, sizeof(bytes) - 1), strlen(content));
    assert_string_equal(bytes, content);
    close(descriptor);
}

/* assert_file: a file of that name is there, with that number and content. */
static void assert_file(const char *name, uint64_t number, const char *content)
{
    struct stat stat = {0};
    struct data_file *file = data_find(&data, name);
    if (!file)
        fail_msg("there is no %s", name);
    assert_int_equal(file->number, number);
    assert_content(file, content);
    data_stat(file, &stat);
    assert_int_equal(stat.st_size, strlen(content));
    assert_int_equal(stat.st_blocks, (strlen(content) + 511) / 512);
    assert_int_equal(stat.st_nlink, 1);
    struct data_file *same = data_get(&data, number);
    assert_ptr_equal(same, file);
    data_unref(same);
    data_unref(file);
}

static void assert_no_file(const char *name)
{
    assert_null(data_find(&data, name));
}

static void assert_usage(uint64_t bytes, uint64_t files)
{
    struct data_usage usage;
    data_usage(&data, &usage);
    assert_int_equal(usage.used_bytes, bytes);
    assert_int_equal(usage.files, files);
}

static void count_name(void *context, uint64_t number, const char *name)
{
    (void)number;
    assert_non_null(name);
    ++*(unsigned *)context;
}

/* assert_saved: so many names are in the state. */
static void assert_saved(unsigned expected)
{
    unsigned count = 0;
    wait_state();
    assert_int_equal(state_load_files(state, VM, count_name, &count), 0);
    assert_int_equal(count, expected);
}

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
    assert_int_equal(put("b", "12345"), 2);
    assert_file("b", 2, "12345");
    assert_usage(5, 2);
    assert_null(data_get(&data, 3));
    data_unref(NULL);
}

static void test_unlink(void **unused)
{
    (void)unused;
    uint64_t number = put("a", "12345");
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
    assert_true(has_backing(number));
    data_unref(file);
    assert_null(data_get(&data, number));
    assert_usage(0, 0);
    assert_false(has_backing(number));
    /* A new file of that name is another one. */
    assert_true(put("a", "") > number);
}

static void test_rename(void **unused)
{
    (void)unused;
    uint64_t number = put("a", "12345");
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
    restart();
    assert_no_file("a");
    assert_file("b", number, "12345");
}

static void test_rename_replaces(void **unused)
{
    (void)unused;
    uint64_t old = put("target", "old content"), new = put("temporary", "new");
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
    assert_false(has_backing(old));
    restart();
    assert_file("target", new, "new");
    assert_no_file("temporary");
    assert_usage(3, 1);
}

/* Killed before the rename was on disk: all is as it was, bytes and names. */
static void test_rename_not_written(void **unused)
{
    (void)unused;
    uint64_t old = put("target", "old content"), new = put("temporary", "new");
    wait_state();
    scratch_disk_full(1);
    assert_int_equal(data_rename(&data, "temporary", "target", false), 0);
    assert_file("target", new, "new");
    stop();
    scratch_disk_full(0);
    start();
    assert_file("target", old, "old content");
    assert_file("temporary", new, "new");
}

/* On a full disk an unlink still frees its bytes. */
static void test_unlink_on_full_disk(void **unused)
{
    (void)unused;
    uint64_t number = put("a", "12345");
    wait_state();
    scratch_disk_full(1);
    assert_int_equal(data_unlink(&data, "a"), 0);
    assert_false(has_backing(number));
    assert_usage(0, 0);
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
    put("a", "12345");
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
    put("a", "12345");
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
    put("a", "12345");
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
    restart();
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
    uint64_t old = put("result.bin", "old"), changed = nanoseconds(data.changed);
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
    assert_false(has_backing(number));
    assert_usage(303, 1);
    int descriptor = data_open_backing(output, O_WRONLY);
    assert_int_equal(write(descriptor, "new", 3), 3);
    data_settle(output, descriptor);
    close(descriptor);
    assert_file("result.bin", old, "old");
    assert_int_equal(data_install(output, "result.bin"), 0);
    number = output->number;
    data_unref(output);
    assert_file("result.bin", number, "new");
    assert_true(nanoseconds(data.changed) > changed);
    assert_usage(3, 1);
    wait_state();
    assert_false(has_backing(old));
    restart();
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
    put("a", "");
    put("b", "");
    data_unlink(&data, "a");
    assert_int_equal(data_create_output(&data, &output), 0);
    data_each(&data, note_name, &names);
    assert_string_equal(names.data, "b;");
    text_finish(&names);
    data_unref(output);
}

static void test_reload(void **unused)
{
    (void)unused;
    static const char *const names[] = {"a", "name with \"quotes\"", "\xff\xfe", "B", "b", "1"};
    char content[8];
    for (size_t i = 0; i < 6; i++) {
        snprintf(content, sizeof(content), "%0*zu", (int)i + 1, i);
        assert_int_equal(put(names[i], content), i + 1);
    }
    data_unlink(&data, "B");
    restart();
    for (size_t i = 0; i < 6; i++) {
        snprintf(content, sizeof(content), "%0*zu", (int)i + 1, i);
        if (i != 3)
            assert_file(names[i], i + 1, content);
    }
    assert_no_file("B");
    assert_usage(1 + 2 + 3 + 5 + 6, 5);
    assert_int_equal(data_rename(&data, "a", "b", false), 0);
    restart();
    assert_file("b", 1, "0");
    assert_usage(1 + 2 + 3 + 6, 4);
}

/* A number is never used twice: not after an unlink, a crash, or more files than one block. */
static void test_numbers(void **unused)
{
    (void)unused;
    uint64_t last = 0;
    /* The block is of 1024. */
    static const unsigned counts[] = {1, 1023, 1024, 1025, 2049};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        for (unsigned k = 0; k < counts[i]; k++) {
            uint64_t number = put("a", "");
            assert_true(number > last);
            last = number;
            data_unlink(&data, "a");
        }
        restart();
    }
}

static void make_bytes(const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("bytes", file);
    fclose(file);
}

/* What a dead daemon left: bytes without a name go, a name without bytes goes. */
static void test_sweep(void **unused)
{
    (void)unused;
    uint64_t kept = put("kept", "12345"), lost = put("lost", "123");
    struct data_file *output;
    assert_int_equal(data_create_output(&data, &output), 0);
    uint64_t left = output->number;
    make_bytes(backing_path(4711));
    make_bytes(scratch_path("state/data/3/notes.txt")); /* an administrator's; not a number */
    assert_int_equal(unlink(backing_path(lost)), 0);
    stop(); /* with the reference to the output: it has no end */
    assert_true(has_backing(left));
    start();
    assert_file("kept", kept, "12345");
    assert_no_file("lost");
    assert_false(has_backing(left));
    assert_false(has_backing(4711));
    assert_int_equal(access(scratch_path("state/data/3/notes.txt"), F_OK), 0);
    assert_usage(5, 1);
    assert_saved(1);
    restart();
    assert_usage(5, 1);
}

/* What somebody has open lives on in the next daemon without a name, and counts, until it is closed
 * there. */
static void test_kept(void **unused)
{
    (void)unused;
    uint64_t number = put("open", "12345");
    struct data_file *file = data_find(&data, "open");
    data_keep(file);
    assert_int_equal(data_unlink(&data, "open"), 0);
    data_unref(file);
    assert_true(has_backing(number));
    adopted = number;
    stop();
    start();
    adopted = 0;
    assert_content(kept_file, "12345");
    assert_usage(5, 0);
    data_unref(kept_file);
    assert_false(has_backing(number));
    assert_usage(0, 0);
}

/* … also when another file has its name by then. */
static void test_kept_and_replaced(void **unused)
{
    (void)unused;
    uint64_t number = put("open", "12345"), new = put("new", "123");
    struct data_file *file = data_find(&data, "open");
    data_keep(file);
    assert_int_equal(data_rename(&data, "new", "open", false), 0);
    data_unref(file);
    wait_state();
    assert_true(has_backing(number));
    assert_file("open", new, "123");
}

/* Rows that vgpufs did not write: what cannot be a file is none, and then no bytes are removed. */
static void test_rows_of_no_sense(void **unused)
{
    (void)unused;
    enum { STRANGE = 100, LATER = 5000, NAMELESS = 4711 };
    uint64_t kept = put("kept", "12345"), far = STATE_MAX_NUMBER + 1;
    const uint64_t bytes[] = {far, STRANGE, LATER, NAMELESS};
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        make_bytes(backing_path(bytes[i]));
    state_put_file(state, VM, far, "far");
    state_put_file(state, VM, STRANGE, "a/b");
    state_put_file(state, VM, LATER, "later"); /* than the numbers that were reserved */
    restart();
    assert_file("kept", kept, "12345");
    assert_file("later", LATER, "bytes");
    assert_no_file("far");
    assert_no_file("a/b");
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        assert_true(has_backing(bytes[i]));
    assert_int_equal(put("new", ""), LATER + 1);
    /* Bytes that are left so are not handed to the next file. */
    struct data_file *file;
    make_bytes(backing_path(LATER + 2));
    assert_int_equal(data_create(&data, "next", false, &file), EEXIST);
    assert_int_equal(put("next", ""), LATER + 3);
}

/* A link among the bytes, which nobody but an administrator can make, is not followed. */
static void test_no_link_is_followed(void **unused)
{
    (void)unused;
    uint64_t number = put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    make_bytes(scratch_path("elsewhere"));
    assert_int_equal(unlink(backing_path(number)), 0);
    assert_int_equal(symlink(scratch_path("elsewhere"), backing_path(number)), 0);
    assert_int_equal(data_open_backing(file, O_RDONLY), -1);
    assert_int_equal(errno, ELOOP);
    data_unref(file);
}

/* While the disk refuses, what a VM may still ask for is bounded, and names are a part of it. */
static void test_behind(void **unused)
{
    (void)unused;
    struct data_file *file;
    put("a", "12345");
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

/* A number that nothing lies under, or that was never used, is nothing to find. */
static void test_nothing_to_adopt(void **unused)
{
    (void)unused;
    uint64_t number = put("named", "12345");
    data_adopt(&data, number);
    data_adopt(&data, number + 1);
    data_adopt(&data, UINT64_MAX);
    assert_null(data_get(&data, number + 1));
    make_bytes(backing_path(number + 1)); /* whosever they are */
    data_adopt(&data, number + 1);
    assert_null(data_get(&data, number + 1));
    assert_int_equal(unlink(backing_path(number + 1)), 0);
    uint64_t folder = put("folder", "");
    assert_int_equal(data_unlink(&data, "folder"), 0);
    assert_int_equal(mkdir(backing_path(folder), 0700), 0);
    data_adopt(&data, folder);
    assert_null(data_get(&data, folder));
    assert_usage(5, 1);
    data_sweep(&data);
    assert_file("named", number, "12345");
}

/* A damaged table of names is no reason to remove all bytes: they are set aside with it. */
static void test_no_sweep_without_names(void **unused)
{
    (void)unused;
    char path[64];
    snprintf(path, sizeof(path), "data/%u/%" PRIu64, VM, put("a", "12345"));
    stop();
    damage_table("file");
    start();
    assert_int_equal(access(aside_path(path), F_OK), 0);
}

static void test_purge(void **unused)
{
    (void)unused;
    uint64_t first = put("a", "12345"), second = put("b", "123");
    struct data_file *open = data_find(&data, "a");
    uint64_t changed = nanoseconds(data.changed);
    data_purge(&data);
    assert_true(nanoseconds(data.changed) > changed);
    assert_no_file("a");
    assert_no_file("b");
    assert_false(has_backing(second));
    assert_content(open, "12345");
    assert_usage(5, 0);
    assert_saved(0);
    data_unref(open);
    assert_usage(0, 0);
    assert_false(has_backing(first));
    restart();
    assert_usage(0, 0);
    assert_true(put("a", "") > second); /* numbers go on */
}

static void test_file_limit(void **unused)
{
    (void)unused;
    struct data_file *file;
    put("a", "");
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
                data_install(file, to);
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
    restart();
    assert_usage(sum, usage.files);
}

#define DATA_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_create),
        DATA_TEST(test_unlink),
        DATA_TEST(test_rename),
        DATA_TEST(test_rename_replaces),
        DATA_TEST(test_rename_not_written),
        DATA_TEST(test_unlink_on_full_disk),
        DATA_TEST(test_quota),
        DATA_TEST(test_settle),
        DATA_TEST(test_truncate),
        DATA_TEST(test_times),
        DATA_TEST(test_outputs),
        DATA_TEST(test_each),
        DATA_TEST(test_reload),
        DATA_TEST(test_numbers),
        DATA_TEST(test_sweep),
        DATA_TEST(test_kept),
        DATA_TEST(test_kept_and_replaced),
        DATA_TEST(test_nothing_to_adopt),
        DATA_TEST(test_rows_of_no_sense),
        DATA_TEST(test_no_link_is_followed),
        DATA_TEST(test_behind),
        DATA_TEST(test_no_sweep_without_names),
        DATA_TEST(test_purge),
        DATA_TEST(test_file_limit),
        DATA_TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
