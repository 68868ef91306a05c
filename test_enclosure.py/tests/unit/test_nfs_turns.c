/* nfs_turns: who may wait, and whose turn ends when another comes. */
#include "nfs_turns.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* after the headers that it needs */

#define VMS 20

static struct nfs_turns turns;
static struct nfs_waiting waiting[VMS];
static struct nfs_turn all[64];
static unsigned used;

static void begin(uint64_t threads, uint64_t per_vm)
{
    turns = (struct nfs_turns){.threads = threads, .per_vm = per_vm};
    for (unsigned i = 0; i < VMS; i++)
        waiting[i] = (struct nfs_waiting){0};
    used = 0;
}

static struct nfs_turn *enter(unsigned vm)
{
    struct nfs_turn *turn = &all[used];
    *turn = (struct nfs_turn){.vm = vm, .deadline_us = 1000 + used};
    int error = nfs_turns_enter(&turns, turn, &waiting[vm]);
    assert_true(error == 0 || error == EAGAIN);
    used += error == 0;
    return error ? NULL : turn;
}

static void test_one_vm_has_its_cap(void **unused)
{
    (void)unused;
    begin(32, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(enter(3));
    assert_null(enter(3));
    nfs_turns_leave(&turns, &all[1]);
    assert_non_null(enter(3));
    assert_null(enter(3));
}

static void test_half_of_the_threads(void **unused)
{
    (void)unused;
    begin(8, 8);
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(enter(3));
    assert_null(enter(3));
    assert_int_equal(turns.count, 4);
}

static void test_shares(void **unused)
{
    (void)unused;
    begin(32, 16); /* 16 places */
    for (unsigned i = 0; i < 3; i++)
        assert_non_null(enter(0));
    for (unsigned i = 0; i < 8; i++)
        assert_non_null(enter(1)); /* two wait: 8 each */
    assert_null(enter(1));
    assert_non_null(enter(2)); /* three: 5 each */
    assert_non_null(enter(0));
    assert_non_null(enter(0));
    assert_null(enter(0));
    assert_null(enter(1));
}

static void test_the_last_place(void **unused)
{
    (void)unused;
    begin(2, 4); /* one place */
    assert_non_null(enter(0));
    assert_null(enter(1));
    assert_int_equal(nfs_turns_next(&turns)->deadline_us, 1000); /* nobody has more than one */
    begin(1, 4);
    assert_non_null(enter(0));
    assert_null(enter(1));
}

static void test_a_newcomer_gets_a_place(void **unused)
{
    (void)unused;
    begin(8, 3);
    struct nfs_turn *oldest = enter(0);
    enter(0);
    enter(0);
    struct nfs_turn *other = enter(1);
    assert_null(enter(2));
    assert_ptr_equal(nfs_turns_next(&turns), oldest); /* of the VM that has most */
    assert_int_equal(oldest->deadline_us, 0);
    assert_null(enter(3)); /* the next one costs another turn, not the same again */
    assert_int_equal(all[1].deadline_us, 0);
    assert_int_not_equal(other->deadline_us, 0);
    nfs_turns_leave(&turns, oldest);
    assert_non_null(enter(2));
}

static void test_leaving(void **unused)
{
    (void)unused;
    begin(32, 4);
    struct nfs_turn none = {0};
    nfs_turns_leave(&turns, &none);
    struct nfs_turn *a = enter(0), *b = enter(1), *c = enter(2);
    assert_int_equal(turns.vms, 3);
    assert_ptr_equal(nfs_turns_next(&turns), a);
    nfs_turns_leave(&turns, b);
    nfs_turns_leave(&turns, b); /* twice is once */
    assert_int_equal(turns.vms, 2);
    assert_int_equal(turns.count, 2);
    nfs_turns_leave(&turns, a);
    assert_ptr_equal(nfs_turns_next(&turns), c);
    nfs_turns_leave(&turns, c);
    assert_null(nfs_turns_next(&turns));
    assert_null(turns.last);
    assert_int_equal(turns.vms, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_vm_has_its_cap),
        cmocka_unit_test(test_half_of_the_threads),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_the_last_place),
        cmocka_unit_test(test_a_newcomer_gets_a_place),
        cmocka_unit_test(test_leaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
