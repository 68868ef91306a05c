/* data: what a VM's files are to the next daemon, also after damage. */
#include "data_fixture.h"
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

static void test_reload(void **unused)
{
    (void)unused;
    static const char *const names[] = {"a", "name with \"quotes\"", "\xff\xfe", "B", "b", "1"};
    char content[8];
    for (size_t i = 0; i < 6; i++) {
        snprintf(content, sizeof(content), "%0*zu", (int)i + 1, i);
        assert_int_equal(file_put(names[i], content), i + 1);
    }
    data_unlink(&data, "B");
    files_restart();
    for (size_t i = 0; i < 6; i++) {
        snprintf(content, sizeof(content), "%0*zu", (int)i + 1, i);
        if (i != 3)
            assert_file(names[i], i + 1, content);
    }
    assert_no_file("B");
    assert_usage(1 + 2 + 3 + 5 + 6, 5);
    assert_int_equal(data_rename(&data, "a", "b", false), 0);
    files_restart();
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
            uint64_t number = file_put("a", "");
            assert_true(number > last);
            last = number;
            data_unlink(&data, "a");
        }
        files_restart();
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
    uint64_t kept = file_put("kept", "12345"), lost = file_put("lost", "123");
    struct data_file *output;
    assert_int_equal(data_create_output(&data, &output), 0);
    uint64_t left = output->number;
    make_bytes(file_backing_path(4711));
    make_bytes(scratch_path("state/data/3/notes.txt")); /* an administrator's; not a number */
    assert_int_equal(unlink(file_backing_path(lost)), 0);
    files_stop(); /* with the reference to the output: it has no end */
    assert_true(file_has_backing(left));
    files_start();
    assert_file("kept", kept, "12345");
    assert_no_file("lost");
    assert_false(file_has_backing(left));
    assert_false(file_has_backing(4711));
    assert_int_equal(access(scratch_path("state/data/3/notes.txt"), F_OK), 0);
    assert_usage(5, 1);
    assert_saved(1);
    files_restart();
    assert_usage(5, 1);
}

/* What somebody has open lives on in the next daemon without a name, and counts, until it is closed
 * there. */
static void test_kept(void **unused)
{
    (void)unused;
    uint64_t number = file_put("open", "12345");
    struct data_file *file = data_find(&data, "open");
    data_keep(file);
    assert_int_equal(data_unlink(&data, "open"), 0);
    data_unref(file);
    assert_true(file_has_backing(number));
    adopted = number;
    files_stop();
    files_start();
    adopted = 0;
    assert_content(kept_file, "12345");
    assert_usage(5, 0);
    data_unref(kept_file);
    assert_false(file_has_backing(number));
    assert_usage(0, 0);
}

/* … also when another file has its name by then. */
static void test_kept_and_replaced(void **unused)
{
    (void)unused;
    uint64_t number = file_put("open", "12345"), new = file_put("new", "123");
    struct data_file *file = data_find(&data, "open");
    data_keep(file);
    assert_int_equal(data_rename(&data, "new", "open", false), 0);
    data_unref(file);
    wait_state();
    assert_true(file_has_backing(number));
    assert_file("open", new, "123");
}

/* Rows that vgpufs did not write: what cannot be a file is none, and then no bytes are removed. */
static void test_rows_of_no_sense(void **unused)
{
    (void)unused;
    enum { STRANGE = 100, LATER = 5000, NAMELESS = 4711 };
    uint64_t kept = file_put("kept", "12345"), far = STATE_MAX_NUMBER + 1;
    const uint64_t bytes[] = {far, STRANGE, LATER, NAMELESS};
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        make_bytes(file_backing_path(bytes[i]));
    state_put_file(state, VM, far, "far");
    state_put_file(state, VM, STRANGE, "a/b");
    state_put_file(state, VM, LATER, "later"); /* than the numbers that were reserved */
    files_restart();
    assert_file("kept", kept, "12345");
    assert_file("later", LATER, "bytes");
    assert_no_file("far");
    assert_no_file("a/b");
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        assert_true(file_has_backing(bytes[i]));
    assert_int_equal(file_put("new", ""), LATER + 1);
    /* Bytes that are left so are not handed to the next file. */
    struct data_file *file;
    make_bytes(file_backing_path(LATER + 2));
    assert_int_equal(data_create(&data, "next", false, &file), EEXIST);
    assert_int_equal(file_put("next", ""), LATER + 3);
}

/* A link among the bytes, which nobody but an administrator can make, is not followed. */
static void test_no_link_is_followed(void **unused)
{
    (void)unused;
    uint64_t number = file_put("a", "12345");
    struct data_file *file = data_find(&data, "a");
    make_bytes(scratch_path("elsewhere"));
    assert_int_equal(unlink(file_backing_path(number)), 0);
    assert_int_equal(symlink(scratch_path("elsewhere"), file_backing_path(number)), 0);
    assert_int_equal(data_open_backing(file, O_RDONLY), -1);
    assert_int_equal(errno, ELOOP);
    data_unref(file);
}

/* A number that nothing lies under, or that was never used, is nothing to find. */
static void test_nothing_to_adopt(void **unused)
{
    (void)unused;
    uint64_t number = file_put("named", "12345");
    data_adopt(&data, number);
    data_adopt(&data, number + 1);
    data_adopt(&data, UINT64_MAX);
    assert_null(data_get(&data, number + 1));
    make_bytes(file_backing_path(number + 1)); /* whosever they are */
    data_adopt(&data, number + 1);
    assert_null(data_get(&data, number + 1));
    assert_int_equal(unlink(file_backing_path(number + 1)), 0);
    uint64_t folder = file_put("folder", "");
    assert_int_equal(data_unlink(&data, "folder"), 0);
    assert_int_equal(mkdir(file_backing_path(folder), 0700), 0);
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
    snprintf(path, sizeof(path), "data/%u/%" PRIu64, VM, file_put("a", "12345"));
    files_stop();
    damage_table("file");
    files_start();
    assert_int_equal(access(aside_path(path), F_OK), 0);
}

#define DATA_TEST(test) cmocka_unit_test_setup_teardown(test, files_setup, files_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_reload),
        DATA_TEST(test_numbers),
        DATA_TEST(test_sweep),
        DATA_TEST(test_kept),
        DATA_TEST(test_kept_and_replaced),
        DATA_TEST(test_nothing_to_adopt),
        DATA_TEST(test_rows_of_no_sense),
        DATA_TEST(test_no_link_is_followed),
        DATA_TEST(test_no_sweep_without_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
