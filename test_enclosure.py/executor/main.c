/* vgpu-executor: runs the jobs of one pool slot, on one backend. */
#include "list.h"
#include "serve.h"

#include "common/log.h"
#include "common/number.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2

static const char usage[] =
    "usage: vgpu-executor [--backend=auto|cuda|cpu] [--device=DEVICE] [--scrub=yes|no]\n"
    "                     [--device-memory=BYTES] [--mps-percent=PERCENT]\n"
    "       vgpu-executor --list[=c|mdoc]\n"
    "\n"
    "Runs the jobs of one vgpufs pool slot. The vgpufs daemon starts it and speaks to it on its\n"
    "standard input and output: see the key `executor' in vgpufs.conf(5).\n"
    "\n"
    "  --backend=NAME    what computes: auto (default), cuda, cpu\n"
    "  --device=DEVICE   which device: its number, GPU-uuid or MIG-uuid (default: the first)\n"
    "  --scrub=yes|no    clear the device memory that jobs get (default: yes)\n"
    "  --device-memory=BYTES\n"
    "                    the most device memory that a job may allocate (default: all)\n"
    "  --mps-percent=PERCENT\n"
    "                    the share of the device's multiprocessors, under NVIDIA's MPS\n"
    "  --list[=FORMAT]   print devices and workloads: for people, as C (c), for a man page (mdoc)\n"
    "  --help            print this\n"
    "  --version         print the version\n";

static const struct option options[] = {
    {"backend", required_argument, NULL, 'b'},
    {"device", required_argument, NULL, 'd'},
    {"scrub", required_argument, NULL, 's'},
    {"device-memory", required_argument, NULL, 'm'},
    {"mps-percent", required_argument, NULL, 'p'},
    {"list", optional_argument, NULL, 'l'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

static int print_list(const char *format)
{
    if (list_print(stdout, format) < 0) {
        log_error("--list=%s: no such format: take --list, --list=c or --list=mdoc", format);
        return EXIT_USAGE;
    }
    if (fflush(stdout) != 0) {
        log_error("standard output: %s: nothing more was printed", strerror(errno));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

static int run(const char *backend_name, const struct backend_options *chosen)
{
    if (isatty(STDIN_FILENO)) {
        log_error("standard input is a terminal: this program is started by the vgpufs daemon, "
                  "which speaks to it there; to see what it can do, try --list");
        return EXIT_USAGE;
    }
    char error[JOB_ERROR_SIZE];
    const struct backend *backend = backend_open(backend_name, chosen, error, sizeof(error));
    int status = serve(backend, error);
    if (backend)
        backend->close();
    return status;
}

static int parse_number(const char *option, const char *text, uint64_t most, uint64_t *number)
{
    if (number_parse(text, 1, most, number) == 0)
        return 0;
    log_error("--%s=%s: no whole number from 1 to %" PRIu64, option, text, most);
    return -1;
}

static int parse_scrub(const char *text, bool *keep_memory)
{
    *keep_memory = strcmp(text, "no") == 0;
    if (*keep_memory || strcmp(text, "yes") == 0)
        return 0;
    log_error("--scrub=%s: take yes or no", text);
    return -1;
}

int main(int argc, char **argv)
{
    const char *backend = "auto";
    struct backend_options chosen = {0};
    uint64_t percent;
    log_init("vgpu-executor", LOG_LEVEL_INFO);
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'b':
            backend = optarg;
            break;
        case 'd':
            chosen.device = optarg;
            break;
        case 's':
            if (parse_scrub(optarg, &chosen.keep_memory) < 0)
                return EXIT_USAGE;
            break;
        case 'm':
            if (parse_number("device-memory", optarg, INT64_MAX, &chosen.job_memory_bytes) < 0)
                return EXIT_USAGE;
            break;
        case 'p':
            if (parse_number("mps-percent", optarg, 100, &percent) < 0)
                return EXIT_USAGE;
            chosen.mps_percent = (unsigned)percent;
            break;
        case 'l':
            return print_list(optarg);
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        case 'V':
            printf("vgpu-executor %s\n", VGPUFS_VERSION);
            return EXIT_SUCCESS;
        default:
            log_error("%s: unknown option, or its value is missing: see --help", argv[optind - 1]);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        log_error("unexpected argument %s: see --help", argv[optind]);
        return EXIT_USAGE;
    }
    return run(backend, &chosen);
}
