/* identity: what a guest may say of itself, and what the configuration makes of it. */
#include "identity.h"

#include "common/text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

#define ERROR_SIZE 128

static void test_parse(void **state)
{
    (void)state;
    static const struct {
        const char *line, *pool;
        unsigned priority, vm_id;
    } rows[] = {
        {"pool=A priority=2 vm_id=3", "A", 2, 3},
        {"vm_id=65535\tpool=B  priority=0", "B", 0, 65535},
        {"  priority=1 vm_id=1 pool=long-name_1  ", "long-name_1", 1, 1},
        {"A:2:3", "A", 2, 3},
        {" \tB:0:65535 \t", "B", 0, 65535},
        {"pool=ABCDEFGHIJKLMNOPQRSTUVWXYZ01234 priority=1 vm_id=1",
         "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234", 1, 1},
        {"ABCDEFGHIJKLMNOPQRSTUVWXYZ01234:1:1", "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234", 1, 1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct claim claim;
        char error[ERROR_SIZE];
        assert_int_equal(identity_parse(rows[i].line, &claim, error, sizeof(error)), 0);
        assert_string_equal(claim.pool, rows[i].pool);
        assert_int_equal(claim.priority, rows[i].priority);
        assert_int_equal(claim.vm_id, rows[i].vm_id);
    }
}

static void test_parse_refused(void **state)
{
    (void)state;
    static const struct {
        const char *line, *piece;
    } rows[] = {
        {"", "pool= takes"},
        {" ", "pool= takes"},
        {"A", "POOL:PRIORITY:VM_ID"},
        {"A:2", "POOL:PRIORITY:VM_ID"},
        {"A:2:", "vm_id= takes a number from 1 to 65535"},
        {"A:2:3:", "something follows the identity"},
        {"A:2:3:NOP", "something follows the identity"},
        {"A:2:3 x", "something follows the identity"},
        {"A 2 3", "POOL:PRIORITY:VM_ID"},
        {"A: 2:3", "priority= takes 0, 1 or 2"},
        {":2:3", "pool= takes the name of a pool"},
        {"A.B:2:3", "pool= takes the name of a pool"},
        {"pool==A:A priority=2 vm_id=3", "pool= takes the name of a pool"},
        {"A:3:3", "priority= takes 0, 1 or 2"},
        {"A:-0:3", "priority= takes 0, 1 or 2"},
        {"A:2:0", "vm_id= takes a number from 1 to 65535"},
        {"A:2:65536", "vm_id= takes a number from 1 to 65535"},
        {"A:2:18446744073709551617", "vm_id= takes"}, /* 1 modulo 2^64 */
        {"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345:1:1", "POOL:PRIORITY:VM_ID"},
        {"pool=A", "needs all of"},
        {"pool=A priority=2", "needs all of"},
        {"priority=2 vm_id=3", "needs all of"},
        {"pool=A vm_id=3", "needs all of"},
        {"pool=A priority=2 vm_id=3 pool=A", "pool= stands twice"},
        {"pool=A priority=2 priority=2", "priority= stands twice"},
        {"vm_id=3 pool=A vm_id=3", "vm_id= stands twice"},
        {"pool=A priority=2 vm_id=3 x=1", "an identity is pool=, priority= and vm_id="},
        {"pool=A priority=2 vm_id=3 tail", "an identity is pool=A priority=2 vm_id=3"},
        {"pool= priority=2 vm_id=3", "pool= takes the name of a pool"},
        {"pool=A priority= vm_id=3", "priority= takes 0, 1 or 2"},
        {"pool=A priority=3 vm_id=3", "priority= takes 0, 1 or 2"},
        {"pool=A priority=2 vm_id=0", "vm_id= takes"},
        {"pool=A priority=2 vm_id=0x3", "vm_id= takes"},
        {"pool = A priority=2 vm_id=3", "an identity is pool=A"},
        {"pool=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 priority=1 vm_id=1", "an identity is"},
        {"a_key_of_many_bytes=1", "an identity is pool=A"},
        {"=", "an identity is pool="},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct claim claim;
        char error[ERROR_SIZE] = "";
        if (identity_parse(rows[i].line, &claim, error, sizeof(error)) != EINVAL)
            fail_msg("accepted: %s", rows[i].line);
        if (!strstr(error, rows[i].piece))
            fail_msg("%s: \"%s\" says nothing of \"%s\"", rows[i].line, error, rows[i].piece);
    }
}

static void test_claim_rest(void **state)
{
    (void)state;
    static const struct {
        const char *text, *rest;
    } rows[] = {{"A:2:3", ""}, {"A:2:3:NOP x=1", ":NOP x=1"}, {"A:2:3 ", " "}, {"A:2:3\tx", "\tx"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct claim claim;
        const char *rest;
        char error[ERROR_SIZE];
        assert_int_equal(claim_parse(rows[i].text, &claim, &rest, error, sizeof(error)), 0);
        assert_string_equal(rest, rows[i].rest);
        assert_string_equal(claim.pool, "A");
        assert_int_equal(claim.priority, 2);
        assert_int_equal(claim.vm_id, 3);
    }
}

/* vm1: all is free; vm2: fixed; vm3 and vm4: one of the two fixed; vm5: limits. */
static const char content[] = "[pool C]\n"
                              "[vm 2]\npool = B\npriority = 2\n"
                              "[vm 3]\npool = C\n"
                              "[vm 4]\npriority = 0\n"
                              "[vm 5]\npools = B C\nmax_priority = 0\n";

static struct config *config;

static int config_setup(void **state)
{
    (void)state;
    struct text error = {0};
    config = config_parse(content, "/vgpufs.conf", true, &error);
    if (!config)
        print_message("%s\n", error.data);
    text_finish(&error);
    return config ? 0 : -1;
}

static int config_teardown(void **state)
{
    (void)state;
    config_destroy(config);
    return 0;
}

static void test_judge(void **state)
{
    (void)state;
    static const struct {
        unsigned vm;
        const char *line, *piece; /* piece NULL: allowed */
    } rows[] = {
        {1, "A:0:1", NULL},
        {1, "B:2:1", NULL},
        {1, "C:1:1", NULL},
        {1, "D:1:1", "there is no pool D; pools: A B C"},
        {1, "a:1:1", "there is no pool a;"},
        {1, "A:1:2", "this is vm1: it cannot speak for vm2"},
        {2, "B:2:2", NULL},
        {2, "A:2:2", "the configuration puts vm2 into pool B"},
        {2, "B:1:2", "the configuration gives vm2 priority 2"},
        {2, "B:2:1", "this is vm2: it cannot speak for vm1"},
        {3, "C:0:3", NULL},
        {3, "C:2:3", NULL},
        {3, "A:1:3", "the configuration puts vm3 into pool C"},
        {4, "A:0:4", NULL},
        {4, "B:0:4", NULL},
        {4, "A:1:4", "the configuration gives vm4 priority 0"},
        {5, "B:0:5", NULL},
        {5, "C:0:5", NULL},
        {5, "A:0:5", "the configuration does not allow vm5 pool A"},
        {5, "B:1:5", "the configuration allows vm5 at most priority 0"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct claim claim;
        struct identity identity = {.pool = 77, .priority = 77};
        char error[ERROR_SIZE] = "";
        const struct config_vm *vm = config_find_vm(config, rows[i].vm);
        assert_non_null(vm);
        assert_int_equal(identity_parse(rows[i].line, &claim, error, sizeof(error)), 0);
        int result = identity_judge(config, vm, &claim, &identity, error, sizeof(error));
        if (result != (rows[i].piece ? EACCES : 0))
            fail_msg("vm%u %s: %d, %s", rows[i].vm, rows[i].line, result, error);
        if (rows[i].piece) {
            if (!strstr(error, rows[i].piece))
                fail_msg("vm%u %s: %s", rows[i].vm, rows[i].line, error);
            assert_int_equal(identity.pool, 77); /* as it was */
            continue;
        }
        assert_int_equal(identity.pool, claim.pool[0] - 'A');
        assert_int_equal(identity.priority, claim.priority);
        assert_int_equal(identity.source, rows[i].vm == 2 ? IDENTITY_CONFIG : IDENTITY_CLAIM);
    }
}

static void test_default(void **state)
{
    (void)state;
    static const struct {
        unsigned vm, pool, priority;
        enum identity_source source;
    } rows[] = {
        {1, 0, 1, IDENTITY_DEFAULT}, /* the older client's fallback */
        {2, 1, 2, IDENTITY_CONFIG},  {3, 2, 1, IDENTITY_DEFAULT},
        {4, 0, 0, IDENTITY_DEFAULT}, {5, 1, 0, IDENTITY_DEFAULT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct identity identity = identity_default(config, config_find_vm(config, rows[i].vm));
        assert_int_equal(identity.pool, rows[i].pool);
        assert_int_equal(identity.priority, rows[i].priority);
        assert_int_equal(identity.source, rows[i].source);
    }
    assert_string_equal(identity_source_name(IDENTITY_DEFAULT), "default");
    assert_string_equal(identity_source_name(IDENTITY_CLAIM), "claim");
    assert_string_equal(identity_source_name(IDENTITY_CONFIG), "config");
}

/* What holds by default would have been allowed as a claim too. */
static void test_default_is_allowed(void **state)
{
    (void)state;
    for (size_t i = 0; i < config->vm_count; i++) {
        const struct config_vm *vm = &config->vms[i];
        struct identity identity = identity_default(config, vm);
        struct claim claim = {.priority = identity.priority, .vm_id = vm->id};
        char error[ERROR_SIZE];
        strcpy(claim.pool, config->pools[identity.pool].name);
        assert_int_equal(identity_judge(config, vm, &claim, &identity, error, sizeof(error)), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),      cmocka_unit_test(test_parse_refused),
        cmocka_unit_test(test_claim_rest), cmocka_unit_test(test_judge),
        cmocka_unit_test(test_default),    cmocka_unit_test(test_default_is_allowed),
    };
    return cmocka_run_group_tests(tests, config_setup, config_teardown);
}
