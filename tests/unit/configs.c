#include "configs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs some of the above */
#include <cmocka.h>

struct config *parse_as(const char *content, bool plain_user)
{
    struct text error = {0};
    struct config *config = config_parse(content, "t.conf", plain_user, &error);
    if (!config)
        print_error("refused: %s\n", error.data);
    assert_non_null(config);
    text_finish(&error);
    return config;
}

struct config *parse(const char *content)
{
    return parse_as(content, false);
}

void assert_refused_as(const char *content, bool plain_user, const char *message)
{
    struct text error = {0};
    struct config *config = config_parse(content, "t.conf", plain_user, &error);
    assert_null(config);
    assert_string_equal(error.data, message);
    text_finish(&error);
}

void assert_refused(const char *content, const char *message)
{
    assert_refused_as(content, false, message);
}
