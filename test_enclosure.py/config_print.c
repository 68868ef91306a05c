#include "config_keys.h"

static const struct {
    unsigned sections;
    const char *title;
} groups[] = {
    {SECTION_VGPUFS, "[vgpufs]"},          {SECTION_NFS, "[nfs]"},
    {SECTION_DEFAULTS, "[defaults] only"}, {SECTION_DEFAULTS | SECTION_VM, "[defaults], [vm N]"},
    {SECTION_VM, "[vm N] only"},           {SECTION_POOL, "[pool NAME]"},
};

static const char *key_default(const struct config_key *key)
{
    return key->default_note ? key->default_note : key->default_value;
}

/* How a list of keys is printed: `values` describes what the key takes. */
struct printer {
    void (*group_begin)(FILE *out, const char *title);
    void (*key)(FILE *out, const struct config_key *key, const char *values);
    void (*group_end)(FILE *out);
};

static void print_keys(FILE *out, const struct printer *printer)
{
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        printer->group_begin(out, groups[g].title);
        for (const struct config_key *key = NULL; (key = config_key_next(key));) {
            if (key->sections != groups[g].sections)
                continue;
            struct text values = {0};
            config_key_describe(key, &values);
            printer->key(out, key, values.failed ? "" : values.data);
            text_finish(&values);
        }
        printer->group_end(out);
    }
}

static void help_group_begin(FILE *out, const char *title)
{
    fprintf(out, "%s\n", title);
}

static void help_key(FILE *out, const struct config_key *key, const char *values)
{
    fprintf(out, "  %s = %s    (default: %s)\n      %s\n      Takes %s.\n", key->name,
            config_key_word(key), key_default(key), key->help, values);
}

static void help_group_end(FILE *out)
{
    fputc('\n', out);
}

void config_print_help(FILE *out)
{
    static const struct printer help = {help_group_begin, help_key, help_group_end};
    print_keys(out, &help);
}

/*
 * mdoc_text prints running text: each sentence on a line of its own (mdoc(7) sets the wider space
 * behind it), and nothing that roff would take for a request or an escape.
 */
static void mdoc_text(FILE *out, const char *text)
{
    bool line_start = true;
    for (const char *c = text; *c; c++) {
        if (line_start && (*c == '.' || *c == '\''))
            fputs("\\&", out);
        line_start = *c == '.' && c[1] == ' ';
        if (*c == '\\')
            fputs("\\e", out);
        else
            fputc(*c, out);
        if (line_start) {
            fputc('\n', out);
            c++;
        }
    }
    fputc('\n', out);
}

static void mdoc_group_begin(FILE *out, const char *title)
{
    fprintf(out, ".Ss %s\n.Bl -tag -width Ds\n", title);
}

static void mdoc_key(FILE *out, const struct config_key *key, const char *values)
{
    fprintf(out, ".It Ic %s No = Ar %s\n", key->name, config_key_word(key));
    mdoc_text(out, key->help);
    fputs("Takes\n", out);
    fprintf(out, "%s.\n", values);
    fputs("Default:\n", out);
    fprintf(out, "%s.\n", key_default(key));
    if (key->fixed)
        fputs("Cannot change while the daemon runs.\n", out);
}

static void mdoc_group_end(FILE *out)
{
    fputs(".El\n", out);
}

void config_print_mdoc(FILE *out)
{
    static const struct printer mdoc = {mdoc_group_begin, mdoc_key, mdoc_group_end};
    print_keys(out, &mdoc);
}
