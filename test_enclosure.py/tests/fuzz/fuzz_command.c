/*
 * command: a line is refused with words, or it is a command that means what it says: every value
 * passes the check of its parameter, and the command written out again is the same command. The
 * lines of the older protocol's request.txt are the same, with a claim in front.
 */
#include "command.h"
#include "fuzz.h"

#include "common/text.h"
#include "executor/catalogue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct catalogue *known(void)
{
    static struct catalogue catalogue;
    catalogue = (struct catalogue){workload_catalogue, workload_catalogue_size};
    return &catalogue;
}

static void check_argument(const struct command *command, size_t index)
{
    char error[COMMAND_MAX_ERROR];
    const struct command_argument *argument = &command->arguments[index];
    CHECK(argument->param && argument->value);
    CHECK(workload_find_param(command->workload, argument->param->name) == argument->param);
    CHECK(workload_param_check(argument->param, argument->value, error, sizeof(error)) == 0);
    for (size_t i = 0; i < index; i++)
        CHECK(command->arguments[i].param != argument->param);
}

static void check_command(const struct command *command)
{
    CHECK(command->workload);
    CHECK(command->argument_count <= WORKLOAD_MAX_PARAMS);
    for (size_t i = 0; i < command->argument_count; i++)
        check_argument(command, i);
    CHECK(!command->tag || command_tag_is_valid(command->tag));
    CHECK(command->timeout_ms <= COMMAND_MAX_TIME_MS);
    CHECK(command->deadline_ms <= COMMAND_MAX_TIME_MS);
    if (command->has_claim)
        CHECK(command->claim.priority <= 2 && command->claim.pool[0]);
}

static void write_value(struct text *line, const char *key, const char *value)
{
    text_printf(line, " %s=\"", key);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            text_puts(line, "\\");
        text_append(line, value, 1);
    }
    text_puts(line, "\"");
}

static void write_command(struct text *line, const struct command *command)
{
    if (command->has_claim)
        text_printf(line, "%s:%u:%u:", command->claim.pool, command->claim.priority,
                    command->claim.vm_id);
    text_puts(line, command->workload->name);
    if (command->timeout_ms)
        text_printf(line, " timeout=%" PRIu64 ".%03" PRIu64, command->timeout_ms / 1000,
                    command->timeout_ms % 1000);
    if (command->deadline_ms)
        text_printf(line, " deadline=%" PRIu64 ".%03" PRIu64, command->deadline_ms / 1000,
                    command->deadline_ms % 1000);
    if (command->tag)
        write_value(line, "tag", command->tag);
    for (size_t i = 0; i < command->argument_count; i++)
        write_value(line, command->arguments[i].param->name, command->arguments[i].value);
    CHECK(!line->failed);
}

static void check_same(const struct command *first, const struct command *again)
{
    CHECK(first->workload == again->workload);
    CHECK(first->timeout_ms == again->timeout_ms && first->deadline_ms == again->deadline_ms);
    CHECK(first->has_claim == again->has_claim);
    if (first->has_claim)
        CHECK(strcmp(first->claim.pool, again->claim.pool) == 0 &&
              first->claim.priority == again->claim.priority &&
              first->claim.vm_id == again->claim.vm_id);
    CHECK(!first->tag == !again->tag && (!first->tag || strcmp(first->tag, again->tag) == 0));
    CHECK(first->argument_count == again->argument_count);
    for (size_t i = 0; i < first->argument_count; i++) {
        CHECK(first->arguments[i].param == again->arguments[i].param);
        CHECK(strcmp(first->arguments[i].value, again->arguments[i].value) == 0);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct command command, again;
    char error[COMMAND_MAX_ERROR] = "";
    if (size > LINES_MAX_LINE)
        size = LINES_MAX_LINE;
    char *line = fuzz_copy(data, size);
    int failed = command_parse(&command, known(), line, size, error);
    free(line);
    if (failed) {
        CHECK(failed == EINVAL);
        CHECK(error[0] && memchr(error, '\0', sizeof(error)));
        return 0;
    }
    check_command(&command);
    struct text written = {0};
    write_command(&written, &command);
    if (written.size <= LINES_MAX_LINE) {
        CHECK(command_parse(&again, known(), written.data, written.size, error) == 0);
        check_same(&command, &again);
    }
    text_finish(&written);
    return 0;
}
