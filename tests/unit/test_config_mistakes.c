/*
 * config: every kind of mistake with its exact message, and a few thousand damaged copies of the
 * sample.
 */
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

#define MANY_LINES 120000

static void test_mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *content, *message;
    } cases[] = {
        {"\n[vm 3]\nmax_quued = 1\n",
         "t.conf:3: unknown key 'max_quued' in [vm 3]: did you mean 'max_queued'?"},
        {"[vm 3]\nxyzzy = 1\n", "t.conf:2: unknown key 'xyzzy' in [vm 3]: remove it (vgpufs "
                                "--help-config lists the keys)"},
        {"[vm 3]\n = 1\n",
         "t.conf:2: unknown key '' in [vm 3]: remove it (vgpufs --help-config lists the keys)"},
        {"[vm 3]\nmax_wait = 1\n",
         "t.conf:2: unknown key 'max_wait' in [vm 3]: it belongs in [pool NAME]"},
        {"[defaults]\nuid = 1\n",
         "t.conf:2: unknown key 'uid' in [defaults]: it belongs in [vm N]"},
        {"[vm 2]\nuid_base = 1\n",
         "t.conf:2: unknown key 'uid_base' in [vm 2]: it belongs in [defaults]"},
        {"[pool A]\nretry = 1\n",
         "t.conf:2: key 'retry' is not supported by this version: remove it"},
        {"[vgpufs]\nhold = 20s\n", "t.conf:2: unknown key 'hold' in [vgpufs]: it belongs in [nfs]"},
        {"[nfs]\nthreads = 0\n", "t.conf:2: threads = '0': takes a whole number from 1 to 65536"},
        {"[nfs]\nhold = 0\n",
         "t.conf:2: hold = '0': takes a time from 100ms to 10m, as 250ms, 20s, 5m, 1h or 2d; "
         "seconds without a unit"},
        {"[workload X]\n", "t.conf:1: section [workload X] is not supported by this version: "
                           "remove it and its keys"},
        {"[vgpuf]\n", "t.conf:1: unknown section [vgpuf]: did you mean [vgpufs]?"},
        {"[vm3]\n", "t.conf:1: unknown section [vm3]: did you mean [vm N]?"},
        {"[]\n",
         "t.conf:1: unknown section []: there are [vgpufs], [nfs], [defaults], [vm N] and [pool "
         "NAME]"},
        {"[a\"\xff]\n", "t.conf:1: unknown section [a\\\"\\xFF]: there are [vgpufs], [nfs], "
                        "[defaults], [vm N] and [pool NAME]"},
        {"[vgpufs x]\n", "t.conf:1: [vgpufs] takes no name: remove 'x'"},
        {"[vm]\n", "t.conf:1: [vm N] with N = '': takes a number from 1 to 65535"},
        {"[vm 65536]\n", "t.conf:1: [vm N] with N = '65536': takes a number from 1 to 65535"},
        {"[pool vm3]\n", "t.conf:1: [pool NAME] with NAME = 'vm3': takes a capital letter, then at "
                         "most 30 letters, digits, '_' or '-'"},
        {"[pool ABCDEFGHIJKLMNOPQRSTUVWXYZ123456]\n",
         "t.conf:1: [pool NAME] with NAME = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ123456': takes a capital "
         "letter, then at most 30 letters, digits, '_' or '-'"},
        {"[vm 3]\n\n[vm 03]\n",
         "t.conf:3: [vm 3] stands at line 1 already: make one section of both"},
        {"[pool A]\n[pool B]\n[pool A]\n",
         "t.conf:3: [pool A] stands at line 1 already: make one section of both"},
        {"[vgpufs]\n[vgpufs]\n",
         "t.conf:2: [vgpufs] stands at line 1 already: make one section of both"},
        {"[vm 3]\nuid = 1\nuid = 1\n",
         "t.conf:3: key 'uid' stands at line 2 already: remove one of them"},
        {"vms = 1\n[vgpufs]\n", "t.conf:1: key 'vms' stands before any section: put it under "
                                "[vgpufs], [defaults], [vm N] or [pool NAME]"},
        {"[vgpufs]\nvms\n",
         "t.conf:2: neither a [section] nor a 'key = value': correct it, or make "
         "it a comment with '#' (a value has one line)"},
        {"[pool A]\nexecutor = ssh x\n  vgpu-executor\nslots = 0\n",
         "t.conf:3: neither a [section] nor a 'key = value': correct it, or make it a comment with "
         "'#' (a value has one line)"},
        {"[vm 3\n", "t.conf:1: '[' without ']': close the heading"},
        {"[vm 3] uid = 4\n", "t.conf:1: text behind ']': put it on a line of its own"},
        {"[vgpufs]\nvms = 1 # one\n",
         "t.conf:2: vms: a comment behind a value begins with ' ;': replace the '#'"},
        {"[vgpufs]\nvms = 1\x01\n", "t.conf:2: a control character (\\x01): remove it"},
        {"[vm 3]\nmax_queued = abc\n",
         "t.conf:2: max_queued = 'abc': takes a whole number from 1 to 1000000"},
        {"[vm 3]\nmax_queued = 0\n",
         "t.conf:2: max_queued = '0': takes a whole number from 1 to 1000000"},
        {"[vm 3]\nmax_queued = \n",
         "t.conf:2: max_queued = '': takes a whole number from 1 to 1000000"},
        {"[vgpufs]\non_restart = fial\n",
         "t.conf:2: on_restart = 'fial': takes rerun or fail: did you mean 'fail'?"},
        {"[vgpufs]\nlog_level = x\n",
         "t.conf:2: log_level = 'x': takes error, warning, info or debug"},
        {"[vgpufs]\nlog_jobs = on\n", "t.conf:2: log_jobs = 'on': takes no or yes"},
        {"[vgpufs]\nstop_timeout = 2h\n",
         "t.conf:2: stop_timeout = '2h': takes a time from 0 to 1h, as 250ms, 20s, 5m, 1h or 2d; "
         "seconds without a unit"},
        {"[pool A]\nmax_run = 0\n",
         "t.conf:2: max_run = '0': takes a time from 1ms to 30d, as 250ms, 20s, 5m, 1h or 2d; "
         "seconds without a unit"},
        {"[pool A]\nmax_result = 1\n", "t.conf:2: max_result = '1': takes a size from 1K to 512M "
                                       "bytes, with an optional K, M, G or T"},
        {"[vm 3]\ndevice_share = 0%\n",
         "t.conf:2: device_share = '0%': takes a percentage from 1% to 100%"},
        {"[vm 3]\ndevice_share = 1000000000%\n",
         "t.conf:2: device_share = '1000000000%': takes a percentage from 1% to 100%"},
        {"[vgpufs]\nstats_mode = 0644\n",
         "t.conf:2: stats_mode = '0644': takes an octal mode of read permissions, as 0444 or 0440"},
        {"[vgpufs]\nstats_mode = 9\n",
         "t.conf:2: stats_mode = '9': takes an octal mode of read permissions, as 0444 or 0440"},
        {"[vgpufs]\ndurability = group\n",
         "t.conf:2: durability = 'group': takes sync, group with a time from 1ms to 10s, as group "
         "50ms, or none"},
        {"[vgpufs]\ndurability = group 0\n", "t.conf:2: durability = 'group 0': takes sync, group "
                                             "with a time from 1ms to 10s, as group "
                                             "50ms, or none"},
        {"[vgpufs]\nvms = 1-70000\n", "t.conf:2: vms = '1-70000': takes numbers and ranges from 1 "
                                      "to 65535, as 1-10 200, or none"},
        {"[vgpufs]\nvms = 9-3\n",
         "t.conf:2: vms = '9-3': takes numbers and ranges from 1 to 65535, "
         "as 1-10 200, or none"},
        {"[vgpufs]\nvms = , ,\n",
         "t.conf:2: vms = ', ,': takes numbers and ranges from 1 to 65535, "
         "as 1-10 200, or none"},
        {"[vgpufs]\nmountpoint =\n", "t.conf:2: mountpoint = '': takes a path, without quotes"},
        {"[vgpufs]\nmountpoint = \"/a b\"\n",
         "t.conf:2: mountpoint = '\\\"/a b\\\"': takes a path, without quotes"},
        {"[vgpufs]\nmountpoint = /a\nstate_dir = /a/b\n",
         "t.conf:3: state_dir lies in the mountpoint, which hides it: choose another directory"},
        {"[vgpufs]\nmountpoint = /var/lib\n",
         "t.conf:2: state_dir lies in the mountpoint, which hides it: choose another directory"},
        {"[vm 3]\npriority = 3\n", "t.conf:2: priority = '3': takes 2, 1, 0 or any"},
        {"[vm 3]\npool = b\n", "t.conf:2: pool = 'b': takes the name of a pool, as A, or any"},
        {"[vm 3]\npools =\n", "t.conf:2: pools = '': takes names of pools, as A B, or all"},
        {"[vm 3]\npool = Slow\n[pool Slwo]\n",
         "t.conf:2: pool = 'Slow': there is no [pool Slow]: did you mean 'Slwo'?"},
        {"[vm 3]\npools = A Q\n", "t.conf:2: pools = 'A Q': there is no [pool Q]: add that section "
                                  "or name another pool"},
        {"[pool A]\nbackend = cudaa\n",
         "t.conf:2: backend = 'cudaa': takes auto, cpu or cuda: did you mean 'cuda'?"},
        {"[pool A]\ndevice = nvidia0\n",
         "t.conf:2: device = 'nvidia0': takes a number from 0 to 255, GPU-uuid or MIG-uuid"},
        {"[pool A]\nexecutor = sh -c 'x\n",
         "t.conf:2: executor = 'sh -c 'x': takes a command line whose quotes are closed"},
        {"[vgpufs]\nexecutor_user = 65534\n",
         "t.conf:2: executor_user = '65534': takes the name of a user"},
        {"[vgpufs]\nexecutor_user = a:b\n",
         "t.conf:2: executor_user = 'a:b': takes the name of a user"},
        {"[vm 3]\naddress = a(rw)\n",
         "t.conf:2: address = 'a(rw)': takes a host name, an IP address or a network, as 192.0.2.3 "
         "or 192.0.2.0/24"},
        {"[vm 3]\nuid = 4294967295\n",
         "t.conf:2: uid = '4294967295': takes a whole number from 0 to 4294967294"},
        {"[vm 3]\npool = B\npools = A\n",
         "t.conf:2: [vm 3] has the fixed pool B, which its pools do not allow: add it there or "
         "choose another"},
        {"[vm 3]\npools = A\n[defaults]\npool = B\n",
         "t.conf:2: [vm 3] has the fixed pool B, which its pools do not allow: add it there or "
         "choose another"},
        {"[vm 3]\npriority = 2\nmax_priority = 1\n",
         "t.conf:2: [vm 3] has the fixed priority 2, which exceeds its max_priority 1: lower the "
         "one or raise the other"},
        {"[defaults]\nmax_priority = 1\npriority = 2\n",
         "t.conf:3: [defaults] has the fixed priority 2, which exceeds its max_priority 1: lower "
         "the one or raise the other"},
        /* the first of two mistakes is reported, whoever notices it */
        {"[vgpufs]\nnonsense\nvms = x\n", "t.conf:2: neither a [section] nor a 'key = value': "
                                          "correct it, or make it a comment with '#' (a value has "
                                          "one line)"},
        {"[vm 3]\npool = Q\n[pool C]\nslots = 0\n",
         "t.conf:4: slots = '0': takes a whole number from 1 to 256"},
        {"[vm 4]\npool = Q\n[vm 3]\npool = P\n",
         "t.conf:2: pool = 'Q': there is no [pool Q]: add that section or name another pool"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(cases[i].content, cases[i].message);
}

static void test_every_unsupported_key(void **state)
{
    (void)state;
    static const char *const names[] = {"own_kernels", "idle_stop", "retry", "data_shared"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char content[64], message[128];
        snprintf(content, sizeof(content), "[pool A]\n%s = 1\n", names[i]);
        snprintf(message, sizeof(message),
                 "t.conf:2: key '%s' is not supported by this version: remove it", names[i]);
        assert_refused(content, message);
    }
}

static void test_too_many_pools(void **state)
{
    (void)state;
    struct text content = {0};
    text_puts(&content, "[pool A]\n[pool B]\n");
    for (int i = 0; i < 62; i++)
        text_printf(&content, "[pool P%d]\n", i);
    struct config *config = parse(content.data);
    assert_int_equal(config->pool_count, 64);
    assert_true(config->vms[0].allowed_pools == UINT64_MAX);
    config_destroy(config);
    text_puts(&content, "[pool P62]\n");
    assert_refused(content.data,
                   "t.conf:65: [pool P62] is one too many: at most 64 pools, A and B among them");
    text_finish(&content);
}

/* The longest line that is taken is taken whole; a comment may be longer. */
static void test_long_lines(void **state)
{
    (void)state;
    static const char begin[] = "executor = ";
    static char comment[9000], value[4096];
    struct text content = {0};
    size_t longest = 0;
    memset(comment, 'c', sizeof(comment));
    memset(value, 'x', sizeof(value));
    for (size_t size = sizeof(begin); !longest; size++) {
        text_clear(&content);
        text_puts(&content, "# ");
        text_append(&content, comment, sizeof(comment));
        text_puts(&content, "\n[pool A]\n");
        text_puts(&content, begin);
        text_append(&content, value, size - strlen(begin));
        text_puts(&content, "\n[vm 20]\n");
        struct text error = {0};
        struct config *config = config_parse(content.data, "t.conf", false, &error);
        if (config) {
            assert_int_equal(strlen(config->pools[0].executor), size - strlen(begin));
            assert_non_null(config_find_vm(config, 20));
        } else {
            char message[80];
            longest = size - 1;
            snprintf(message, sizeof(message),
                     "t.conf:3: the line has %zu bytes: shorten it to %zu", size, longest);
            assert_string_equal(error.data, message);
        }
        config_destroy(config);
        text_finish(&error);
    }
    assert_true(longest == 199 || longest == 4095); /* as inih was built */
    text_finish(&content);
}

static uint64_t random_next(uint64_t *seed)
{
    /* xorshift64 (Marsaglia 2003) */
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* damage changes, doubles, drops or inserts a few pieces of the text. */
static void damage(char *text, size_t *size, size_t capacity, uint64_t *seed)
{
    static const char *const pieces[] = {"[",
                                         "]",
                                         "\n",
                                         "=",
                                         " ;",
                                         "[vm 65535]\n",
                                         "-",
                                         "\xef\xbb\xbf",
                                         "'",
                                         "\"",
                                         "\\",
                                         "\r\n",
                                         "pool = ",
                                         "pools = A ",
                                         "99999999999999999999",
                                         "\xff"};
    for (uint64_t edits = 1 + random_next(seed) % 6; edits; edits--) {
        size_t at = random_next(seed) % (*size + 1);
        size_t length = random_next(seed) % 40;
        const char *piece = pieces[random_next(seed) % (sizeof(pieces) / sizeof(pieces[0]))];
        char copy[40];
        switch (random_next(seed) % 4) {
        case 0:
            if (at < *size)
                text[at] = (char)(1 + random_next(seed) % 255);
            continue;
        case 1:
            length = length < *size - at ? length : *size - at;
            memmove(text + at, text + at + length, *size - at - length + 1);
            *size -= length;
            continue;
        case 2:
            length = length < *size - at ? length : *size - at;
            memcpy(copy, text + at, length);
            piece = copy;
            break;
        default:
            length = strlen(piece);
        }
        if (*size + length >= capacity)
            continue;
        at = random_next(seed) % (*size + 1);
        memmove(text + at + length, text + at, *size - at + 1);
        memcpy(text + at, piece, length);
        *size += length;
    }
}

static void test_damaged_samples(void **state)
{
    (void)state;
    char sample[8192], text[16384];
    FILE *file = fopen(SAMPLE_FILE, "r");
    assert_non_null(file);
    size_t sample_size = fread(sample, 1, sizeof(sample) - 1, file);
    fclose(file);
    uint64_t seed = 20240229;
    size_t taken = 0, runs = 4000;
    for (size_t i = 0; i < runs; i++) {
        size_t size = sample_size;
        memcpy(text, sample, size);
        text[size] = '\0';
        damage(text, &size, sizeof(text), &seed);
        struct text error = {0};
        struct config *config = config_parse(text, "t.conf", i % 2, &error);
        assert_true(config || error.size > strlen("t.conf:"));
        assert_true(config || !strpbrk(error.data, "\n\r\033"));
        taken += config != NULL;
        config_destroy(config);
        text_finish(&error);
    }
    assert_in_range(taken, 1, runs - 1); /* else it tests nothing */
}

/* A file at the limit of its size takes no quadratic time. */
static void test_many_lines(void **state)
{
    (void)state;
    struct text content = {0};
    for (unsigned i = 1; i <= CONFIG_MAX_VM_ID; i++)
        text_printf(&content, "[vm %u]\n", i);
    struct config *config = parse(content.data);
    assert_int_equal(config->vm_count, CONFIG_MAX_VM_ID);
    config_destroy(config);
    text_clear(&content);
    for (unsigned i = 0; i < MANY_LINES; i++)
        text_puts(&content, "rubbish\n");
    assert_refused(content.data,
                   "t.conf:1: neither a [section] nor a 'key = value': correct it, or "
                   "make it a comment with '#' (a value has one line)");
    text_finish(&content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),        cmocka_unit_test(test_every_unsupported_key),
        cmocka_unit_test(test_too_many_pools),  cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_damaged_samples), cmocka_unit_test(test_many_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
