/* vm_touch: which times change when something of a VM does; the clock is the test's own. */
#include "vm_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* after the headers that it needs */

#define SECOND UINT64_C(1000000)

static uint64_t now_us;

uint64_t __wrap_clock_now_us(void); /* the linker has vm.c call it: see --wrap in ld(1) */
uint64_t __wrap_clock_now_us(void)
{
    return now_us;
}

static bool equal(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* touch_at: something changes at that time. Is it a change of the directory too? */
static bool touch_at(struct vm *vm, uint64_t us)
{
    struct timespec before = vm->changed, listed = vm->list_changed;
    now_us = us;
    vm_touch(vm);
    assert_false(equal(&before, &vm->changed));
    return !equal(&listed, &vm->list_changed);
}

static void list_at(struct vm *vm, uint64_t us)
{
    now_us = us;
    vm_note_listing(vm);
}

static void test_a_directory_that_nobody_lists(void **unused)
{
    (void)unused;
    struct vm vm = {0};
    for (uint64_t us = 1; us < 5 * SECOND; us += SECOND / 4)
        assert_false(touch_at(&vm, us));
}

/* A guest lists in several requests, and asks for the directory's time beside them: whichever time
 * it keeps with the names, a change that comes while it is at it has to show as another one. */
static void test_each_change_beside_a_listing(void **unused)
{
    (void)unused;
    struct vm vm = {0};
    list_at(&vm, 10 * SECOND);
    assert_true(touch_at(&vm, 10 * SECOND));
    assert_true(touch_at(&vm, 10 * SECOND + 1));
    assert_true(touch_at(&vm, 10 * SECOND + SECOND / 2));
    assert_true(touch_at(&vm, 11 * SECOND));
}

/* The first change behind it shows, however late; then the guest has dropped what it kept. */
static void test_one_change_after_a_listing(void **unused)
{
    (void)unused;
    struct vm vm = {0};
    list_at(&vm, 10 * SECOND);
    assert_true(touch_at(&vm, 3600 * SECOND));
    assert_false(touch_at(&vm, 3600 * SECOND + 1));
    assert_false(touch_at(&vm, 3601 * SECOND));
    list_at(&vm, 3700 * SECOND);
    assert_true(touch_at(&vm, 3700 * SECOND + 1));
    assert_true(touch_at(&vm, 3702 * SECOND)); /* the one before may have been beside it */
    assert_false(touch_at(&vm, 3702 * SECOND + 1));
}

/* A listing by another guest's process starts it anew. */
static void test_a_second_listing(void **unused)
{
    (void)unused;
    struct vm vm = {0};
    list_at(&vm, 10 * SECOND);
    list_at(&vm, 12 * SECOND);
    assert_true(touch_at(&vm, 12 * SECOND + SECOND / 2));
    assert_true(touch_at(&vm, 13 * SECOND));
    assert_true(touch_at(&vm, 14 * SECOND));
    assert_false(touch_at(&vm, 14 * SECOND + 1));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_directory_that_nobody_lists),
        cmocka_unit_test(test_each_change_beside_a_listing),
        cmocka_unit_test(test_one_change_after_a_listing),
        cmocka_unit_test(test_a_second_listing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
