/* command: every rule of a line, each with a line that breaks it, and 200,000 broken ones. */
#include "command.h"

#include "common/text.h"
#include "executor/catalogue.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

/* A command of the tests' own, with what the catalogue may not have at any time. */
static const struct workload_param all_params[] = {
    {.name = "count", .type = PARAM_UINT, .min = 2, .max = 9},
    {.name = "scale", .type = PARAM_REAL, .real_min = -1.5, .real_max = 2.5},
    {.name = "mode", .type = PARAM_CHOICE, .choices = "slow|fast|fastest"},
    {.name = "in", .type = PARAM_FILE_IN},
    {.name = "out_2", .type = PARAM_FILE_OUT},
};
static const struct workload_info own_workloads[] = {
    {.name = "NOP"},
    {.name = "ALL_KINDS", .params = all_params, .param_count = 5},
};
static const struct catalogue own = {own_workloads, 2};

/* parse_exact hands over a copy of exactly that size, so that a sanitizer sees any read beyond. */
static int parse_exact(struct command *command, const struct catalogue *catalogue, const char *line,
                       size_t size, char *error)
{
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, line, size);
    memset(error, '?', COMMAND_MAX_ERROR);
    int result = command_parse(command, catalogue, copy, size, error);
    free(copy);
    return result;
}

static int parse(struct command *command, const char *line)
{
    char error[COMMAND_MAX_ERROR];
    return parse_exact(command, &own, line, strlen(line), error);
}

/* assert_refused: EINVAL, and the words hold `piece`. */
static void assert_refused(const struct catalogue *catalogue, const char *line, size_t size,
                           const char *piece)
{
    static struct command command;
    char error[COMMAND_MAX_ERROR];
    int result = parse_exact(&command, catalogue, line, size, error);
    if (result != EINVAL)
        fail_msg("accepted: %s", line);
    assert_non_null(memchr(error, '\0', sizeof(error)));
    if (!strstr(error, piece))
        fail_msg("%s: \"%s\" says nothing of \"%s\"", line, error, piece);
}

static const char *value_of(const struct command *command, const char *name)
{
    for (size_t i = 0; i < command->argument_count; i++)
        if (strcmp(command->arguments[i].param->name, name) == 0)
            return command->arguments[i].value;
    return NULL;
}

static void test_refused(void **state)
{
    (void)state;
#define TAG_63 "abcdefghijklmnopqrstuvwxyz-0123456789_ABCDEFGHIJKLMNOPQRSTUVWXY"
    static const struct {
        const char *line, *piece;
    } rows[] = {
        {"", "unknown command"},
        {"BOGUS", "unknown command BOGUS; commands: NOP, ALL_KINDS"},
        {"nop", "unknown command nop"},
        {"NO", "unknown command NO;"},
        {"NOPE", "unknown command NOPE;"},
        {"NOP=1", "unknown command NOP=1"},
        {"\"NOP\"", "unknown command \"NOP\""},
        {"NOP x=1", "unknown key x; keys of NOP: tag, timeout, deadline"},
        {"ALL_KINDS x=1", "keys of ALL_KINDS: count, scale, mode, in, out_2, tag, timeout"},
        {"ALL_KINDS coun=3", "unknown key coun;"},
        {"ALL_KINDS counts=3", "unknown key counts;"},
        {"ALL_KINDS count", "key=value"},
        {"ALL_KINDS count =3", "key=value"},
        {"ALL_KINDS =3", "key=value"},
        {"ALL_KINDS = 3", "key=value"},
        {"ALL_KINDS COUNT=3", "key=value"},
        {"ALL_KINDS count=3 tail", "key=value"},
        {"ALL_KINDS count=", "count= takes a whole number from 2 to 9"},
        {"ALL_KINDS count= 3", "count= takes a whole number from 2 to 9"},
        {"ALL_KINDS count=1", "from 2 to 9"},
        {"ALL_KINDS count=10", "from 2 to 9"},
        {"ALL_KINDS count=-3", "from 2 to 9"},
        {"ALL_KINDS count=+3", "from 2 to 9"},
        {"ALL_KINDS count=0x3", "from 2 to 9"},
        {"ALL_KINDS count=3.0", "from 2 to 9"},
        {"ALL_KINDS count=\" 3\"", "from 2 to 9"},
        {"ALL_KINDS count=18446744073709551619", "from 2 to 9"}, /* 3 modulo 2^64 */
        {"ALL_KINDS scale=2.6", "scale= takes a number from -1.5 to 2.5"},
        {"ALL_KINDS scale=-1.6", "from -1.5 to 2.5"},
        {"ALL_KINDS scale=nan", "from -1.5 to 2.5"},
        {"ALL_KINDS scale=inf", "from -1.5 to 2.5"},
        {"ALL_KINDS scale=1e999", "from -1.5 to 2.5"},
        {"ALL_KINDS scale=", "from -1.5 to 2.5"},
        {"ALL_KINDS scale=1x", "from -1.5 to 2.5"},
        {"ALL_KINDS mode=fas", "mode= takes one of slow|fast|fastest"},
        {"ALL_KINDS mode=FAST", "mode= takes one of"},
        {"ALL_KINDS mode=slow|fast", "mode= takes one of"},
        {"ALL_KINDS mode=", "mode= takes one of"},
        {"ALL_KINDS in=", "in= takes the plain name of a file in data/"},
        {"ALL_KINDS in=.", "in= takes the plain name"},
        {"ALL_KINDS in=..", "in= takes the plain name"},
        {"ALL_KINDS in=a/b", "in= takes the plain name"},
        {"ALL_KINDS out_2=/etc/passwd", "out_2= takes the plain name"},
        {"ALL_KINDS out_2=../x", "out_2= takes the plain name"},
        {"ALL_KINDS count=3 count=3", "count= stands twice"},
        {"ALL_KINDS in=a count=3 in=b", "in= stands twice"},
        {"NOP tag=a tag=a", "tag= stands twice"},
        {"NOP timeout=1 tag=a timeout=1", "timeout= stands twice"},
        {"NOP deadline=1 deadline=2", "deadline= stands twice"},
        {"ALL_KINDS in=\"a", "in= has a value with a double quote that does not end"},
        {"ALL_KINDS in=\"", "double quote"},
        {"ALL_KINDS in=\"a\\\"", "double quote"},
        {"ALL_KINDS in=\"a\"b", "double quote"},
        {"ALL_KINDS in=\"a\"\"b\"", "double quote"},
        {"ALL_KINDS in=a\"b", "double quote"},
        {"ALL_KINDS in=a\"", "double quote"},
        {"NOP tag=", "tag= takes a letter and up to 63"},
        {"NOP tag=all", "tag= takes a letter"},
        {"NOP tag=1", "tag= takes a letter"},
        {"NOP tag=17a", "tag= takes a letter"},
        {"NOP tag=.a", "tag= takes a letter"},
        {"NOP tag=-a", "tag= takes a letter"},
        {"NOP tag=_a", "tag= takes a letter"},
        {"NOP tag=a/b", "tag= takes a letter"},
        {"NOP tag=a:b", "tag= takes a letter"},
        {"NOP tag=\"a b\"", "tag= takes a letter"},
        {"NOP tag=\xc3\xa4", "tag= takes a letter"},
        {"NOP tag=" TAG_63 "xx", "tag= takes a letter"},
        {"NOP timeout=0", "timeout= takes seconds, above 0"},
        {"NOP timeout=-1", "timeout= takes seconds"},
        {"NOP timeout=", "timeout= takes seconds"},
        {"NOP timeout=1x", "timeout= takes seconds"},
        {"NOP timeout=2592001", "timeout= takes seconds, above 0 and at most 30 days"},
        {"NOP timeout=18446744073709551616", "timeout= takes seconds"},
        {"NOP timeout=1e3", "timeout= takes seconds"},
        {"NOP deadline=0", "deadline= takes seconds, above 0"},
        {"NOP deadline=0.0001", "deadline= takes seconds"},
        {"NOP deadline=2592001", "deadline= takes seconds, above 0 and at most 30 days"},
        {"NOP\n", "byte 4 of the line is the control character 0x0a"},
        {"NOP\r", "byte 4 of the line is the control character 0x0d"},
        {"NOP \x1b[31m", "byte 5 of the line is the control character 0x1b"},
        {"NOP tag=a\x7f", "byte 10 of the line is the control character 0x7f"},
        {":2:3:NOP", "pool= takes the name of a pool"},
        {"A:", "priority= takes 0, 1 or 2"},
        {"A:2", "POOL:PRIORITY:VM_ID"},
        {"A:2:", "vm_id= takes a number from 1 to 65535"},
        {"A:2:3", "a command must follow the claim"},
        {"A:2:3 NOP", "a command must follow the claim"},
        {"A:2:3:", "unknown command ;"},
        {"A:2:3: NOP", "unknown command ;"},
        {"A:2:3:4:NOP", "unknown command 4:NOP"},
        {"A:3:3:NOP", "priority= takes 0, 1 or 2"},
        {"A:-1:3:NOP", "priority= takes 0, 1 or 2"},
        {"A:x:3:NOP", "priority= takes 0, 1 or 2"},
        {"A: 2:3:NOP", "priority= takes 0, 1 or 2"},
        {"A:2:0:NOP", "vm_id= takes a number from 1 to 65535"},
        {"A:2:65536:NOP", "vm_id= takes a number from 1 to 65535"},
        {"A:2:4294967299:NOP", "vm_id= takes"}, /* 3 modulo 2^32 */
        {"A:2:3x:NOP", "vm_id= takes"},
        {"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345:2:3:NOP", "POOL:PRIORITY:VM_ID"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_refused(&own, rows[i].line, strlen(rows[i].line), rows[i].piece);
    assert_refused(&own, "NOP\0tag=a", 9, "byte 4 of the line is the control character 0x00");
    assert_refused(&own, "\0", 1, "byte 1 of the line is the control character 0x00");
}

static void test_accepted(void **state)
{
    (void)state;
    static struct command command;
    assert_int_equal(parse(&command, "NOP"), 0);
    assert_ptr_equal(command.workload, &own_workloads[0]);
    assert_int_equal(command.argument_count, 0);
    assert_null(command.tag);
    assert_int_equal(command.timeout_ms, 0);
    assert_int_equal(command.deadline_ms, 0);
    assert_false(command.has_claim);

    assert_int_equal(parse(&command, " \tALL_KINDS\t count=2  mode=fast scale=-1.5 in=a.bin "
                                     "out_2=x\ttag=Run-7.b_c timeout=1.5 deadline=30 \t"),
                     0);
    assert_ptr_equal(command.workload, &own_workloads[1]);
    assert_int_equal(command.argument_count, 5);
    assert_string_equal(value_of(&command, "count"), "2");
    assert_string_equal(value_of(&command, "mode"), "fast");
    assert_string_equal(value_of(&command, "scale"), "-1.5");
    assert_string_equal(value_of(&command, "in"), "a.bin");
    assert_string_equal(value_of(&command, "out_2"), "x");
    assert_string_equal(command.tag, "Run-7.b_c");
    assert_int_equal(command.timeout_ms, 1500);
    assert_int_equal(command.deadline_ms, 30000);

    /* What an earlier line left is gone. */
    assert_int_equal(parse(&command, "NOP"), 0);
    assert_int_equal(command.argument_count, 0);
    assert_null(command.tag);
    assert_int_equal(command.timeout_ms + command.deadline_ms, 0);
}

static void test_quoting(void **state)
{
    (void)state;
    static const struct {
        const char *written, *value;
    } rows[] = {
        {"plain", "plain"},   {"\"plain\"", "plain"}, {"\"two words\"", "two words"},
        {"\"a\tb\"", "a\tb"}, {"\" \"", " "},         {"\"say \\\"hi\\\"\"", "say \"hi\""},
        {"\"\\\\\"", "\\"},   {"\"a\\b\"", "a\\b"},   {"\"\\n\"", "\\n"},
        {"a\\b", "a\\b"},     {"a=b", "a=b"},         {"\"in=x\"", "in=x"},
        {"#", "#"},           {"'a'", "'a'"},         {"\xc3\xa4\xff", "\xc3\xa4\xff"},
        {"...", "..."},
    };
    static struct command command;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char line[128];
        snprintf(line, sizeof(line), "ALL_KINDS in=%s count=5", rows[i].written);
        assert_int_equal(parse(&command, line), 0);
        assert_string_equal(value_of(&command, "in"), rows[i].value);
        assert_string_equal(value_of(&command, "count"), "5");
        snprintf(line, sizeof(line), "ALL_KINDS in=%s", rows[i].written);
        assert_int_equal(parse(&command, line), 0);
        assert_string_equal(value_of(&command, "in"), rows[i].value);
    }
}

static void test_claims(void **state)
{
    (void)state;
    static struct command command;
    assert_int_equal(parse(&command, "B:0:65535:ALL_KINDS in=a:b"), 0);
    assert_true(command.has_claim);
    assert_string_equal(command.claim.pool, "B");
    assert_int_equal(command.claim.priority, 0);
    assert_int_equal(command.claim.vm_id, 65535);
    assert_string_equal(value_of(&command, "in"), "a:b");
    /* 31 bytes, the longest name of a pool. */
    assert_int_equal(parse(&command, "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234:2:1:NOP"), 0);
    assert_string_equal(command.claim.pool, "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234");
    assert_int_equal(command.claim.vm_id, 1);
    /* A ':' behind the first word makes no claim. */
    assert_int_equal(parse(&command, "ALL_KINDS in=A:2:3:NOP"), 0);
    assert_false(command.has_claim);
}

static void test_tags(void **state)
{
    (void)state;
    static struct command command;
    assert_int_equal(parse(&command, "NOP tag=" TAG_63 "x"), 0);
    assert_int_equal(strlen(command.tag), COMMAND_MAX_TAG);
    assert_false(command_tag_is_valid(TAG_63 "xx"));
    assert_int_equal(parse(&command, "NOP tag=\"a\""), 0);
    assert_string_equal(command.tag, "a");
    assert_true(command_tag_is_valid("allx"));
    assert_true(command_tag_is_valid("All"));
    assert_false(command_tag_is_valid("all"));
    assert_false(command_tag_is_valid(""));
    for (unsigned value = 1; value < 256; value++) {
        bool letter = (value >= 'a' && value <= 'z') || (value >= 'A' && value <= 'Z');
        bool other = (value >= '0' && value <= '9') || strchr("._-", (int)value) != NULL;
        assert_int_equal(command_tag_is_valid((char[]){(char)value, '\0'}), letter);
        assert_int_equal(command_tag_is_valid((char[]){'x', (char)value, '\0'}), letter || other);
    }
}

static void test_times(void **state)
{
    (void)state;
    static struct command command;
    assert_int_equal(parse(&command, "NOP timeout=0.001 deadline=2592000"), 0);
    assert_int_equal(command.timeout_ms, 1);
    assert_int_equal(command.deadline_ms, COMMAND_MAX_TIME_MS);
    assert_int_equal(parse(&command, "NOP deadline=250ms timeout=\"60\""), 0);
    assert_int_equal(command.deadline_ms, 250);
    assert_int_equal(command.timeout_ms, 60000);
}

static void test_line_limit(void **state)
{
    (void)state;
    static struct command command;
    char line[LINES_MAX_LINE + 100], error[COMMAND_MAX_ERROR];
    memset(line, ' ', sizeof(line));
    memcpy(line + 50, "NOP", 3);
    memcpy(line + 50 + LINES_MAX_LINE - 5, "tag=a", 5);
    assert_int_equal(parse_exact(&command, &own, line + 50, LINES_MAX_LINE, error), 0);
    assert_string_equal(command.tag, "a");
    /* Blanks around it do not count. */
    assert_int_equal(parse_exact(&command, &own, line, sizeof(line), error), 0);
    line[50 + LINES_MAX_LINE] = 'b';
    assert_refused(&own, line + 50, LINES_MAX_LINE + 1, "a line has at most 4095 bytes");

    /* A file name of the longest length, and one more. */
    memset(line, 'x', sizeof(line));
    memcpy(line, "ALL_KINDS in=", 13);
    assert_int_equal(parse_exact(&command, &own, line, 13 + WORKLOAD_MAX_FILE_NAME, error), 0);
    assert_refused(&own, line, 13 + WORKLOAD_MAX_FILE_NAME + 1, "in= takes the plain name");

    /* Words as long as the line: the error is cut, not the memory. */
    assert_refused(&own, line + 13, LINES_MAX_LINE, "unknown command xxxx");
    memset(line, 'x', sizeof(line));
    memcpy(line, "NOP ", 4);
    line[LINES_MAX_LINE - 1] = '=';
    assert_refused(&own, line, LINES_MAX_LINE, "unknown key xxxx");
}

/* More names than an error has room for: those that fit, and whole. */
static void test_many_names(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    static struct workload_info infos[COUNT];
    static struct workload_param params[COUNT];
    static char names[COUNT][32], keys[COUNT][32];
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "A_WORKLOAD_OF_NUMBER_%02d", i);
        snprintf(keys[i], sizeof(keys[i]), "a_parameter_of_number_%02d", i);
        params[i] = (struct workload_param){.name = keys[i], .type = PARAM_FILE_IN};
        infos[i] = (struct workload_info){.name = names[i], .params = params, .param_count = COUNT};
    }
    const struct catalogue many = {infos, COUNT};
    assert_refused(&many, "X", 1, "A_WORKLOAD_OF_NUMBER_00, A_WORKLOAD_OF_NUMBER_01, A_WORK");
    assert_refused(&many, "A_WORKLOAD_OF_NUMBER_07 x=1", 27, "a_parameter_of_number_01, a_param");
    /* More keys than a job may have, were a workload ever to declare so many. */
    struct text line = {0};
    text_puts(&line, names[0]);
    for (int i = 0; i < COUNT; i++)
        text_printf(&line, " %s=x", keys[i]);
    assert_refused(&many, line.data, line.size, "more than 32 keys");
    text_finish(&line);
}

static void test_trim(void **state)
{
    (void)state;
    static const struct {
        const char *line, *trimmed;
    } rows[] = {{"", ""},       {" \t ", ""},     {"a", "a"},      {" a b ", "a b"},
                {"\ta\t", "a"}, {"\n a", "\n a"}, {"a \r", "a \r"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct line line = command_trim(rows[i].line, strlen(rows[i].line));
        assert_int_equal(line.size, strlen(rows[i].trimmed));
        assert_memory_equal(line.bytes, rows[i].trimmed, line.size);
    }
}

/* The catalogue: each parameter at its bounds, and next to them. */

static struct catalogue built_in(void)
{
    return (struct catalogue){workload_catalogue, workload_catalogue_size};
}

static void assert_value(const struct workload_info *info, const struct workload_param *param,
                         const char *value, bool allowed)
{
    static struct command command;
    struct catalogue catalogue = built_in();
    char line[512], error[COMMAND_MAX_ERROR];
    snprintf(line, sizeof(line), "%s %s=\"%s\"", info->name, param->name, value);
    if (!allowed) {
        assert_refused(&catalogue, line, strlen(line), param->name);
        return;
    }
    if (parse_exact(&command, &catalogue, line, strlen(line), error) != 0)
        fail_msg("%s: %s", line, error);
    assert_ptr_equal(command.workload, info);
    assert_int_equal(command.argument_count, 1);
    assert_ptr_equal(command.arguments[0].param, param);
    assert_string_equal(command.arguments[0].value, value);
}

static void check_number(const struct workload_info *info, const struct workload_param *param,
                         uint64_t number, bool allowed)
{
    char value[32];
    snprintf(value, sizeof(value), "%" PRIu64, number);
    assert_value(info, param, value, allowed);
}

static void check_bounds(const struct workload_info *info, const struct workload_param *param)
{
    char value[64];
    switch (param->type) {
    case PARAM_UINT:
        check_number(info, param, param->min, true);
        check_number(info, param, param->max, true);
        if (param->min > 0)
            check_number(info, param, param->min - 1, false);
        if (param->max < UINT64_MAX)
            check_number(info, param, param->max + 1, false);
        assert_value(info, param, "18446744073709551616", false);
        assert_value(info, param, "-1", false);
        break;
    case PARAM_REAL:
        snprintf(value, sizeof(value), "%.17g", param->real_min);
        assert_value(info, param, value, true);
        snprintf(value, sizeof(value), "%.17g", param->real_max);
        assert_value(info, param, value, true);
        snprintf(value, sizeof(value), "%.17g", param->real_max * 2 + 1);
        assert_value(info, param, value, false);
        assert_value(info, param, "nan", false);
        break;
    case PARAM_CHOICE:
        for (const char *choice = param->choices; *choice;) {
            size_t size = strcspn(choice, "|");
            snprintf(value, sizeof(value), "%.*s", (int)size, choice);
            assert_value(info, param, value, true);
            snprintf(value, sizeof(value), "%.*sx", (int)size, choice);
            assert_value(info, param, value, false);
            choice += size + (choice[size] == '|');
        }
        assert_value(info, param, "", false);
        break;
    case PARAM_FILE_IN:
    case PARAM_FILE_OUT:
        assert_value(info, param, "a b.bin", true);
        assert_value(info, param, "a/b", false);
        assert_value(info, param, "..", false);
        assert_value(info, param, "", false);
    }
}

static void test_catalogue(void **state)
{
    (void)state;
    static struct command command;
    struct catalogue catalogue = built_in();
    char error[COMMAND_MAX_ERROR];
    assert_true(catalogue.count >= 3);
    for (size_t i = 0; i < catalogue.count; i++) {
        const struct workload_info *info = &catalogue.workloads[i];
        assert_int_equal(parse_exact(&command, &catalogue, info->name, strlen(info->name), error),
                         0);
        assert_ptr_equal(command.workload, info);
        for (size_t k = 0; k < info->param_count; k++) {
            check_bounds(info, &info->params[k]);
            if (info->params[k].default_value)
                assert_value(info, &info->params[k], info->params[k].default_value, true);
        }
        char line[128];
        snprintf(line, sizeof(line), "%s no_such_key=1", info->name);
        assert_refused(&catalogue, line, strlen(line), "unknown key no_such_key");
    }
}

/* Mutations. What is accepted is written out anew, every value quoted, and must mean the same. */

static void put_pair(struct text *text, const char *key, const char *value)
{
    text_printf(text, " %s=\"", key);
    for (; *value; value++)
        text_printf(text, "%s%c", *value == '"' || *value == '\\' ? "\\" : "", *value);
    text_puts(text, "\"");
}

static void put_time(struct text *text, const char *key, uint64_t ms)
{
    if (ms)
        text_printf(text, " %s=%" PRIu64 "ms", key, ms);
}

static void put_command(struct text *text, const struct command *command)
{
    text_clear(text);
    if (command->has_claim)
        text_printf(text, "%s:%u:%u:", command->claim.pool, command->claim.priority,
                    command->claim.vm_id);
    text_puts(text, command->workload->name);
    for (size_t i = 0; i < command->argument_count; i++)
        put_pair(text, command->arguments[i].param->name, command->arguments[i].value);
    if (command->tag)
        put_pair(text, "tag", command->tag);
    put_time(text, "timeout", command->timeout_ms);
    put_time(text, "deadline", command->deadline_ms);
    assert_false(text->failed);
}

static void assert_same(const struct command *a, const struct command *b)
{
    assert_ptr_equal(a->workload, b->workload);
    assert_int_equal(a->argument_count, b->argument_count);
    for (size_t i = 0; i < a->argument_count; i++) {
        assert_ptr_equal(a->arguments[i].param, b->arguments[i].param);
        assert_string_equal(a->arguments[i].value, b->arguments[i].value);
    }
    assert_int_equal(a->tag != NULL, b->tag != NULL);
    if (a->tag)
        assert_string_equal(a->tag, b->tag);
    assert_int_equal(a->timeout_ms, b->timeout_ms);
    assert_int_equal(a->deadline_ms, b->deadline_ms);
    assert_int_equal(a->has_claim, b->has_claim);
    if (a->has_claim) {
        assert_string_equal(a->claim.pool, b->claim.pool);
        assert_int_equal(a->claim.priority, b->claim.priority);
        assert_int_equal(a->claim.vm_id, b->claim.vm_id);
    }
}

/* Every pointer leads into the storage or the catalogue. */
static void assert_inside(const struct command *command)
{
    const char *end = command->storage + sizeof(command->storage);
    for (size_t i = 0; i < command->argument_count; i++) {
        const char *value = command->arguments[i].value;
        assert_true(value >= command->storage && value + strlen(value) < end);
    }
    if (command->tag)
        assert_true(command->tag >= command->storage && command->tag + strlen(command->tag) < end);
}

/* The words of an error hold no control character, and end. */
static void assert_words(const char *error)
{
    size_t length = strnlen(error, COMMAND_MAX_ERROR);
    assert_true(length > 0 && length < COMMAND_MAX_ERROR);
    for (size_t i = 0; i < length; i++)
        assert_true((unsigned char)error[i] >= 0x20 && error[i] != 0x7f);
}

static uint64_t seed = 88172645463325252u;

static uint64_t random_below(uint64_t limit)
{
    seed ^= seed << 13; /* xorshift64, Marsaglia 2003 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % limit;
}

#define MUTANT_SIZE 600

/* mutate changes, inserts, removes or doubles something; returns the new size. */
static size_t mutate(char *line, size_t size)
{
    static const char *const pieces[] = {
        " ",      "\t",      "=",          "\"",          "\\",        "\\\"",       ":",
        "A:2:3:", "tag=",    "tag=a",      "n=1",         "timeout=1", " in=a",      "0",
        "9",      "-",       "count=3",    "NOP",         "mode=",     " deadline=", "scale=",
        "1e308",  "\xff",    "\xc3\xa4",   "\n",          "\x7f",      "../",        "fast",
        "out_2=", "\"a b\"", "ALL_KINDS ", "999999999999"};
    size_t at = (size_t)random_below(size + 1);
    const char *piece = pieces[random_below(sizeof(pieces) / sizeof(pieces[0]))];
    size_t length = strlen(piece);
    switch (random_below(5)) {
    case 0:
        if (at < size)
            line[at] = (char)random_below(256);
        return size;
    case 1: /* cut some out */
        length = (size_t)random_below(size - at + 1) % 8;
        memmove(line + at, line + at + length, size - at - length);
        return size - length;
    case 2: /* double some */
        length = (size_t)random_below(size - at + 1) % 32;
        memmove(line + at + length, line + at, size - at);
        return size + length;
    case 3: /* over what is there */
        length = length < size - at ? length : size - at;
        memcpy(line + at, piece, length);
        return size;
    default:
        memmove(line + at + length, line + at, size - at);
        memcpy(line + at, piece, length);
        return size + length;
    }
}

static void test_mutations(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        "NOP",
        "NOP tag=x timeout=5 deadline=1.5",
        "A:2:3:ALL_KINDS count=3 scale=0.5",
        "ALL_KINDS in=\"a \\\"b\\\" \\\\c\" out_2=x mode=fastest tag=t-1",
        "  ALL_KINDS\tscale=-1e-3 count=9 in=f  ",
    };
    static struct command command, again;
    struct text text = {0};
    char line[MUTANT_SIZE + 64], error[COMMAND_MAX_ERROR];
    unsigned accepted = 0, rejected = 0;
    for (unsigned i = 0; i < 200000; i++) {
        const char *start = seeds[random_below(sizeof(seeds) / sizeof(seeds[0]))];
        size_t size = strlen(start);
        memcpy(line, start, size);
        for (uint64_t changes = random_below(6); changes > 0 && size < MUTANT_SIZE; changes--)
            size = mutate(line, size);
        if (parse_exact(&command, &own, line, size, error) != 0) {
            assert_words(error);
            rejected++;
            continue;
        }
        accepted++;
        assert_inside(&command);
        put_command(&text, &command);
        if (parse_exact(&again, &own, text.data, text.size, error) != 0)
            fail_msg("%s: %s", text.data, error);
        assert_same(&command, &again);
    }
    text_finish(&text);
    /* Else the mutations would try next to nothing. */
    assert_true(accepted > 20000 && rejected > 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_quoting),    cmocka_unit_test(test_claims),
        cmocka_unit_test(test_tags),       cmocka_unit_test(test_times),
        cmocka_unit_test(test_line_limit), cmocka_unit_test(test_trim),
        cmocka_unit_test(test_catalogue),  cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
