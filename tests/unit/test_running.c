#include "running.h"

#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PLACES 8192

static struct running *open_running(void)
{
    struct text error = {0};
    struct running *running = running_open(scratch_path(""), &error);
    assert_non_null(running);
    text_finish(&error);
    return running;
}

static void test_what_ran_is_known(void **state)
{
    (void)state;
    struct running *first = open_running();
    assert_false(running_was(first, 3, 7));
    unsigned ended = running_note(first, 3, 6);
    assert_int_not_equal(running_note(first, 3, 7), ended);
    running_note(first, 65535, (UINT64_C(1) << 40) - 1);
    running_clear(first, ended);
    running_clear(first, 0);
    assert_false(running_was(first, 3, 7)); /* what this process notes is none of its business */

    /* A second map is what the next process sees, however the first one ends. */
    struct running *second = open_running();
    assert_true(running_was(second, 3, 7));
    assert_true(running_was(second, 65535, (UINT64_C(1) << 40) - 1));
    assert_false(running_was(second, 3, 6));
    assert_false(running_was(second, 4, 7));
    running_forget(second);
    assert_false(running_was(second, 3, 7));
    running_close(first);
    running_close(second);

    struct running *third = open_running();
    assert_false(running_was(third, 3, 7));
    running_close(third);
}

static void test_no_place_is_left(void **state)
{
    (void)state;
    struct running *running = open_running();
    for (unsigned i = 1; i <= PLACES; i++)
        assert_int_equal(running_note(running, 1, i), i);
    assert_int_equal(running_note(running, 1, PLACES + 1), 0);
    running_clear(running, 17);
    assert_int_equal(running_note(running, 1, PLACES + 1), 17);
    running_forget(running);
    running_close(running);
}

static void test_no_folder(void **state)
{
    (void)state;
    struct text error = {0};
    assert_null(running_open(scratch_path("missing"), &error));
    assert_non_null(strstr(error.data, "missing/running: No such file"));
    text_finish(&error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_ran_is_known),
        cmocka_unit_test(test_no_place_is_left),
        cmocka_unit_test(test_no_folder),
    };
    return cmocka_run_group_tests(tests, scratch_enter, scratch_leave);
}
