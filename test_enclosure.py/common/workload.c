#include "workload.h"

#include "number.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct workload_param *workload_find_param(const struct workload_info *info, const char *name)
{
    for (size_t i = 0; i < info->param_count; i++)
        if (strcmp(info->params[i].name, name) == 0)
            return &info->params[i];
    return NULL;
}

bool workload_name_is_plain(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= WORKLOAD_MAX_FILE_NAME && !strchr(name, '/') &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool choice_contains(const char *choices, const char *value)
{
    size_t length = strlen(value);
    for (const char *choice = choices; *choice;) {
        size_t size = strcspn(choice, "|");
        if (size == length && memcmp(choice, value, size) == 0)
            return true;
        choice += size + (choice[size] == '|');
    }
    return false;
}

int workload_param_check(const struct workload_param *param, const char *value, char *error,
                         size_t size)
{
    uint64_t number;
    double real;
    switch (param->type) {
    case PARAM_UINT:
        if (number_parse(value, param->min, param->max, &number) == 0)
            return 0;
        snprintf(error, size, "%s= takes a whole number from %" PRIu64 " to %" PRIu64, param->name,
                 param->min, param->max);
        return -1;
    case PARAM_REAL:
        if (number_parse_real(value, param->real_min, param->real_max, &real) == 0)
            return 0;
        snprintf(error, size, "%s= takes a number from %g to %g", param->name, param->real_min,
                 param->real_max);
        return -1;
    case PARAM_CHOICE:
        if (choice_contains(param->choices, value))
            return 0;
        snprintf(error, size, "%s= takes one of %s", param->name, param->choices);
        return -1;
    case PARAM_FILE_IN:
    case PARAM_FILE_OUT:
        if (workload_name_is_plain(value))
            return 0;
        snprintf(error, size, "%s= takes the plain name of a file in data/", param->name);
        return -1;
    }
    return -1;
}
