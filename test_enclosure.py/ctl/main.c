/*
 * vgpuctl: the administrator's view of a mounted vgpufs, and its ctl file in words.
 */
#include "common/number.h"
#include "ctl/register.h"
#include "ctl/request.h"
#include "ctl/snapshot.h"
#include "ctl/top.h"
#include "ctl/view.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DEFAULT_MOUNT       "/mnt/vgpu"
#define DEFAULT_INTERVAL_MS 1000

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* Options that belong to some commands only. */
enum { OPTION_JSON = 1, OPTION_INTERVAL = 2, OPTION_CONFIG = 4, OPTION_YES = 8 };

struct command;

/* What the command line says. */
struct invocation {
    const struct command *command;
    const char *mount;
    const char *config_file;
    unsigned interval_ms;
    unsigned options; /* OPTION_ bits that were given */
    char **words;     /* behind the command's name; NULL-terminated */
};

struct command {
    const char *name;
    const char *words; /* for people */
    const char *kinds; /* for request_make; NULL: no line for ctl */
    int min_words, max_words;
    unsigned options;
    int (*run)(const struct invocation *invocation);
    const char *help;
};

static int fail(const struct text *error)
{
    fprintf(stderr, "vgpuctl: %s\n", error->size ? error->data : "out of memory");
    return EXIT_FAILED;
}

static int usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("vgpuctl: ", stderr);
    vfprintf(stderr, format, args);
    fputs(": see vgpuctl --help\n", stderr);
    va_end(args);
    return EXIT_USAGE;
}

/* terminal_width is 0 where standard output is no terminal. */
static unsigned terminal_width(void)
{
    struct winsize size;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        return size.ws_col;
    return 0;
}

static int file_copy(const char *mount, const char *name)
{
    struct text error = {0};
    char bytes[65536];
    size_t size;
    FILE *stream = mount_stream(mount, name, &error);
    int result = EXIT_OK;
    if (stream) {
        while ((size = fread(bytes, 1, sizeof(bytes), stream)) > 0)
            fwrite(bytes, 1, size, stdout);
        if (ferror(stream))
            text_printf(&error, "%s/%s: cannot read: see the log of vgpufs", mount, name);
        fclose(stream);
    }
    if (error.size)
        result = fail(&error);
    text_finish(&error);
    return result;
}

static int run_status(const struct invocation *invocation)
{
    if (invocation->options & OPTION_JSON)
        return file_copy(invocation->mount, "stats.json");
    struct text error = {0}, out = {0};
    struct snapshot snapshot;
    int result = EXIT_OK;
    if (snapshot_read(&snapshot, invocation->mount, &error) != 0) {
        result = fail(&error);
    } else {
        view_render(&(struct view){&snapshot, NULL, terminal_width()}, &out);
        fwrite(out.data, 1, out.size, stdout);
        snapshot_finish(&snapshot);
    }
    text_finish(&error);
    text_finish(&out);
    return result;
}

static int run_top(const struct invocation *invocation)
{
    struct text error = {0};
    int result = EXIT_OK;
    if (top_run(invocation->mount, invocation->interval_ms, &error) != 0)
        result = fail(&error);
    text_finish(&error);
    return result;
}

static void queue_print(const char *line, size_t size)
{
    struct text out = {0};
    view_queue_line(line, size, &out);
    fwrite(out.data, 1, out.size, stdout);
    text_finish(&out);
}

/* run_queue: columns and a heading for a person; the file as it is for a program. */
static int run_queue(const struct invocation *invocation)
{
    if (!isatty(STDOUT_FILENO))
        return file_copy(invocation->mount, "queue");
    struct text error = {0};
    FILE *stream = mount_stream(invocation->mount, "queue", &error);
    int result = EXIT_OK;
    if (stream) {
        char *line = NULL;
        size_t capacity = 0;
        ssize_t length;
        queue_print(VIEW_QUEUE_HEADING, strlen(VIEW_QUEUE_HEADING));
        while ((length = getline(&line, &capacity, stream)) > 0)
            queue_print(line, (size_t)length - (line[length - 1] == '\n'));
        free(line);
        fclose(stream);
    } else {
        result = fail(&error);
    }
    text_finish(&error);
    return result;
}

static int run_request(const struct invocation *invocation)
{
    struct text line = {0}, error = {0};
    const struct command *command = invocation->command;
    int result = EXIT_OK;
    if (request_make(&line, command->name, command->kinds, invocation->words, &error) != 0)
        result = usage("%s", error.size ? error.data : "out of memory");
    else if (request_send(invocation->mount, &line, command->kinds, &error) != 0)
        result = fail(&error);
    text_finish(&line);
    text_finish(&error);
    return result;
}

/* confirmed asks a person; a script has no one to ask. */
static bool confirmed(const char *vm)
{
    unsigned id;
    char answer[16];
    if (!isatty(STDIN_FILENO) || request_parse_vm(vm, &id) != 0)
        return true;
    fprintf(stderr, "Delete all jobs, results and data files and the identity of vm%u? [y/N] ", id);
    if (!fgets(answer, sizeof(answer), stdin))
        return false;
    answer[strcspn(answer, "\n")] = '\0';
    return strcasecmp(answer, "y") == 0 || strcasecmp(answer, "yes") == 0;
}

static int run_purge(const struct invocation *invocation)
{
    if (!(invocation->options & OPTION_YES) && !confirmed(invocation->words[0])) {
        fprintf(stderr, "vgpuctl: purge %s: not confirmed: nothing was deleted\n",
                invocation->words[0]);
        return EXIT_FAILED;
    }
    return run_request(invocation);
}

static int run_register_page(const struct invocation *invocation)
{
    const char *path = invocation->words[0], *name = invocation->words[1];
    /* "vm 3", as in the configuration; "vm3", as in the mount */
    if (invocation->words[2]) {
        if (strcmp(name, "vm") != 0)
            return usage("register-page: \"%s\" should be vm", name);
        name = invocation->words[2];
    }
    unsigned id;
    if (request_parse_vm(name, &id) != 0)
        return usage("register-page: \"%s\" is not the number of a VM", name);

    unsigned char page[REGISTER_PAGE_SIZE];
    struct text error = {0};
    int result = EXIT_FAILED;
    struct config *config = config_load(invocation->config_file, geteuid() != 0, &error);
    if (config && register_page_fill(page, config, id, &error) == 0 &&
        register_page_write(page, path, &error) == 0)
        result = EXIT_OK;
    else
        fail(&error);
    config_destroy(config);
    text_finish(&error);
    return result;
}

static const struct command commands[] = {
    {"status", "", NULL, 0, 0, OPTION_JSON, run_status, "pools, slots and active VMs"},
    {"top", "", NULL, 0, 0, OPTION_INTERVAL, run_top, "the same, redrawn; q ends, arrows scroll"},
    {"queue", "", NULL, 0, 0, 0, run_queue, "running and queued jobs in the order of running"},
    {"hold", "POOL|VM", "t", 1, 1, 0, run_request, "start no more of its jobs"},
    {"release", "POOL|VM", "t", 1, 1, 0, run_request, "end a hold"},
    {"drain", "", "", 0, 0, 0, run_request, "accept no more jobs; those accepted run"},
    {"resume", "", "", 0, 0, 0, run_request, "end a drain"},
    {"cancel", "VM JOB|all", "vj", 2, 2, 0, run_request, "cancel a job by number or tag, or all"},
    {"priority", "VM JOB 0|1|2", "vjp", 3, 3, 0, run_request, "give a queued job that priority"},
    {"purge", "VM", "v", 1, 1, OPTION_YES, run_purge, "delete a VM's jobs, data and identity"},
    {"register-page", "FILE vm N", NULL, 2, 3, OPTION_CONFIG, run_register_page,
     "write the VM's vGPU registers for QEMU's ivshmem"},
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_help(void)
{
    puts("usage: vgpuctl [--mount=DIR] COMMAND [WORD ...]\n"
         "Shows and steers a mounted vgpufs.\n"
         "\n"
         "Commands:");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("  %-13s %-13s %s\n", commands[i].name, commands[i].words, commands[i].help);
    puts("\n"
         "Options:\n"
         "  -m, --mount=DIR         where vgpufs is mounted; default " DEFAULT_MOUNT "\n"
         "  -j, --json              status: print stats.json as it is\n"
         "  -d, --delay=SECONDS     top: time between two frames; default 1\n"
         "  -c, --config=FILE       register-page: default " CONFIG_DEFAULT_FILE "\n"
         "  -y, --yes               purge: do not ask\n"
         "  -h, --help              print this\n"
         "  -V, --version           print the version\n"
         "\n"
         "A VM is written vm3 or 3, a pool by its name.\n"
         "Exit status: 0 done, 1 failed, 2 wrong usage. See vgpuctl(8).");
}

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* option_given returns EXIT_OK, or EXIT_USAGE after a message. */
static int option_given(struct invocation *invocation, int option)
{
    uint64_t ms;
    switch (option) {
    case 'm':
        invocation->mount = optarg;
        return EXIT_OK;
    case 'j':
        invocation->options |= OPTION_JSON;
        return EXIT_OK;
    case 'd':
        invocation->options |= OPTION_INTERVAL;
        if (number_parse_ms(optarg, 100, 3600 * 1000, &ms) != 0)
            return usage("--delay=%s: not a time from 0.1 to 3600 seconds", optarg);
        invocation->interval_ms = (unsigned)ms;
        return EXIT_OK;
    case 'c':
        invocation->options |= OPTION_CONFIG;
        invocation->config_file = optarg;
        return EXIT_OK;
    case 'y':
        invocation->options |= OPTION_YES;
        return EXIT_OK;
    default:
        return usage("an unknown option, or one without its value");
    }
}

static const struct option long_options[] = {
    {"mount", required_argument, NULL, 'm'}, {"json", no_argument, NULL, 'j'},
    {"delay", required_argument, NULL, 'd'}, {"config", required_argument, NULL, 'c'},
    {"yes", no_argument, NULL, 'y'},         {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},     {0},
};

static int command_check(const struct invocation *invocation, int word_count)
{
    const struct command *command = invocation->command;
    if (word_count < command->min_words || word_count > command->max_words)
        return usage("%s: wrong number of words: %s%s%s", command->name, command->name,
                     *command->words ? " " : "", command->words);
    if (invocation->options & ~command->options)
        return usage("%s: an option was given that belongs to another command", command->name);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    struct invocation invocation = {.mount = DEFAULT_MOUNT,
                                    .config_file = CONFIG_DEFAULT_FILE,
                                    .interval_ms = DEFAULT_INTERVAL_MS};
    int option, result;
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C"); /* numbers read and print the same everywhere */
    opterr = 0;                 /* option_given says it in this program's way */
    while ((option = getopt_long(argc, argv, "m:jd:c:yhV", long_options, NULL)) != -1) {
        if (option == 'h') {
            print_help();
            return EXIT_OK;
        }
        if (option == 'V') {
            puts("vgpuctl " VGPUFS_VERSION);
            return EXIT_OK;
        }
        if (option_given(&invocation, option) != EXIT_OK)
            return EXIT_USAGE;
    }
    if (optind == argc)
        return usage("no command");
    invocation.command = command_find(argv[optind]);
    if (!invocation.command)
        return usage("there is no command \"%s\"", argv[optind]);
    invocation.words = argv + optind + 1;
    result = command_check(&invocation, argc - optind - 1);
    if (result == EXIT_OK)
        result = invocation.command->run(&invocation);
    if ((fflush(stdout) != 0 || ferror(stdout)) && result == EXIT_OK) {
        fprintf(stderr, "vgpuctl: cannot write standard output: %s: check where it goes\n",
                strerror(errno));
        result = EXIT_FAILED;
    }
    return result;
}
