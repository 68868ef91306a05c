#include "list.h"

#include "backend.h"

#include <inttypes.h>
#include <string.h>

/* In the order of enum param_type. */
static const struct {
    const char *c_name, *value_name;
} types[] = {
    [PARAM_UINT] = {"PARAM_UINT", "NUMBER"},       [PARAM_REAL] = {"PARAM_REAL", "REAL"},
    [PARAM_CHOICE] = {"PARAM_CHOICE", "WORD"},     [PARAM_FILE_IN] = {"PARAM_FILE_IN", "FILE"},
    [PARAM_FILE_OUT] = {"PARAM_FILE_OUT", "FILE"},
};

/* print_bounds says in words which values a parameter takes, and what it has by default. */
static void print_bounds(FILE *out, const struct workload_param *param)
{
    if (param->type == PARAM_UINT && param->max == UINT64_MAX && param->min == 0)
        fprintf(out, "A whole number of 64 bits");
    else if (param->type == PARAM_UINT)
        fprintf(out, "From %" PRIu64 " to %" PRIu64, param->min, param->max);
    else if (param->type == PARAM_REAL)
        fprintf(out, "From %g to %g", param->real_min, param->real_max);
    else if (param->type == PARAM_CHOICE)
        fprintf(out, "One of %s", param->choices);
    else
        fprintf(out, "A plain name in data/");
    if (param->default_value)
        fprintf(out, ", by default %s", param->default_value);
    fprintf(out, ".");
}

static void print_human_workload(FILE *out, const struct workload_info *info)
{
    fprintf(out, "  %s\n      %s\n", info->name, info->summary);
    for (size_t i = 0; i < info->param_count; i++) {
        const struct workload_param *param = &info->params[i];
        char key[80];
        snprintf(key, sizeof(key), "%s=%s", param->name, types[param->type].value_name);
        fprintf(out, "      %-12s  %s ", key, param->help);
        print_bounds(out, param);
        fprintf(out, "\n");
    }
}

static void list_human(FILE *out)
{
    fprintf(out, "Devices:\n");
    for (size_t i = 0; i < backend_count; i++)
        backends[i]->list(out);
    fprintf(out, "Workloads:\n");
    for (size_t i = 0; i < workload_count; i++)
        print_human_workload(out, &workloads[i]->info);
}

/* print_c_string prints a C literal; octal escapes, because a hexadecimal one has no end. */
static void print_c_string(FILE *out, const char *string)
{
    if (!string) {
        fprintf(out, "NULL");
        return;
    }
    putc('"', out);
    for (const char *s = string; *s; s++) {
        unsigned char byte = (unsigned char)*s;
        if (byte < 0x20 || byte >= 0x7f || strchr("\"\\?", byte))
            fprintf(out, "\\%03o", byte);
        else
            putc(byte, out);
    }
    putc('"', out);
}

static void print_c_params(FILE *out, const struct workload_info *info, size_t number)
{
    if (info->param_count == 0)
        return;
    fprintf(out, "\nstatic const struct workload_param params_%zu[] = {\n", number);
    for (size_t i = 0; i < info->param_count; i++) {
        const struct workload_param *param = &info->params[i];
        fprintf(out, "    {.name = ");
        print_c_string(out, param->name);
        fprintf(out, ", .type = %s, .min = %" PRIu64 "u, .max = %" PRIu64 "u,\n",
                types[param->type].c_name, param->min, param->max);
        fprintf(out, "     .real_min = %a, .real_max = %a,\n     .choices = ", param->real_min,
                param->real_max);
        print_c_string(out, param->choices);
        fprintf(out, ", .default_value = ");
        print_c_string(out, param->default_value);
        fprintf(out, ",\n     .help = ");
        print_c_string(out, param->help);
        fprintf(out, "},\n");
    }
    fprintf(out, "};\n");
}

static void list_c(FILE *out)
{
    fprintf(out, "/* Printed by vgpu-executor --list=c. */\n#include \"executor/catalogue.h\"\n");
    for (size_t i = 0; i < workload_count; i++)
        print_c_params(out, &workloads[i]->info, i);
    fprintf(out, "\nconst struct workload_info workload_catalogue[] = {\n");
    for (size_t i = 0; i < workload_count; i++) {
        const struct workload_info *info = &workloads[i]->info;
        fprintf(out, "    {.name = ");
        print_c_string(out, info->name);
        fprintf(out, ",\n     .summary = ");
        print_c_string(out, info->summary);
        if (info->param_count)
            fprintf(out, ",\n     .params = params_%zu, .param_count = %zu", i, info->param_count);
        fprintf(out, "},\n");
    }
    fprintf(out, "};\nconst size_t workload_catalogue_size = %zu;\n", workload_count);
}

/* print_mdoc_text prints text that no roff reads as a request or an escape (mandoc_char(7)). */
static void print_mdoc_text(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fprintf(out, "\\&");
    for (; *text; text++) {
        if (*text == '\\')
            fprintf(out, "\\e");
        else if (*text == '-')
            fprintf(out, "\\-");
        else
            putc(*text, out);
    }
    fprintf(out, "\n");
}

static void print_mdoc_param(FILE *out, const struct workload_param *param)
{
    fprintf(out, ".It Cm %s Ns = Ns Ar ", param->name);
    for (const char *s = types[param->type].value_name; *s; s++)
        putc(*s | 0x20, out); /* in lower case, as arguments are written in man pages */
    fprintf(out, "\n");
    print_mdoc_text(out, param->help);
    print_bounds(out, param);
    fprintf(out, "\n");
}

static void list_mdoc(FILE *out)
{
    fprintf(out, ".Bl -tag -width Ds\n");
    for (size_t i = 0; i < workload_count; i++) {
        const struct workload_info *info = &workloads[i]->info;
        fprintf(out, ".It Cm %s\n", info->name);
        print_mdoc_text(out, info->summary);
        if (info->param_count)
            fprintf(out, ".Bl -tag -width \"seed=number\" -compact\n");
        for (size_t j = 0; j < info->param_count; j++)
            print_mdoc_param(out, &info->params[j]);
        if (info->param_count)
            fprintf(out, ".El\n");
    }
    fprintf(out, ".El\n");
}

int list_print(FILE *out, const char *format)
{
    static const struct {
        const char *format;
        void (*print)(FILE *out);
    } lists[] = {{"c", list_c}, {"mdoc", list_mdoc}};
    if (!format) {
        list_human(out);
        return 0;
    }
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        if (strcmp(lists[i].format, format) != 0)
            continue;
        lists[i].print(out);
        return 0;
    }
    return -1;
}
