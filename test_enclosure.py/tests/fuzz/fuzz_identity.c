/*
 * identity: what a guest says of itself is refused with words, or it is a claim inside its bounds
 * that reads the same when it is written out in either of its two forms.
 */
#include "fuzz.h"
#include "identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_again(const struct claim *claim, const char *line)
{
    char error[256];
    struct claim again;
    CHECK(identity_parse(line, &again, error, sizeof(error)) == 0);
    CHECK(strcmp(again.pool, claim->pool) == 0);
    CHECK(again.priority == claim->priority && again.vm_id == claim->vm_id);
}

static void check_claim(const struct claim *claim)
{
    CHECK(claim->pool[0] && memchr(claim->pool, '\0', sizeof(claim->pool)));
    CHECK(claim->priority <= 2 && claim->vm_id <= CONFIG_MAX_VM_ID);
    char line[128];
    snprintf(line, sizeof(line), "%s:%u:%u", claim->pool, claim->priority, claim->vm_id);
    check_again(claim, line);
    snprintf(line, sizeof(line), "pool=%s priority=%u vm_id=%u", claim->pool, claim->priority,
             claim->vm_id);
    check_again(claim, line);
}

static void check_prefix(const char *line)
{
    struct claim claim;
    char error[256] = "";
    const char *rest = NULL;
    int failed = claim_parse(line, &claim, &rest, error, sizeof(error));
    CHECK(failed == 0 || (failed == EINVAL && error[0]));
    if (failed)
        return;
    CHECK(rest > line && rest <= line + strlen(line) && strchr(": \t", *rest));
    check_claim(&claim);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct claim claim;
    char error[256] = "";
    char *line = fuzz_copy(data, size);
    int failed = identity_parse(line, &claim, error, sizeof(error));
    CHECK(failed == 0 || (failed == EINVAL && error[0]));
    if (!failed)
        check_claim(&claim);
    check_prefix(line);
    free(line);
    return 0;
}
