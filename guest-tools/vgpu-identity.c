/*
 * vgpu-identity: reads this guest's identity from the registers of its vGPU
 * stub and claims it in the mounted vgpufs. vgpu-identity(8).
 */
#include "stub.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_SET = 0, EXIT_ERROR = 1, EXIT_NO_STUB = 2 };

enum { WAIT_STEP_MS = 100 };

struct options {
    const char *mount;
    struct stub_query query;
    bool print;
    int64_t wait_ms;
};

static const char help_text[] =
    "usage: vgpu-identity [option ...]\n"
    "Reads pool, priority and vm_id from this guest's vGPU stub and sets them in vgpufs.\n"
    "\n"
    "  --mount=DIR         where vgpufs is mounted (" TOOL_DEFAULT_MOUNT ")\n"
    "  --device=ADDRESS    the stub's PCI address, as 0000:00:06.0 (searched)\n"
    "  --bar=N             the BAR with the registers (0; 2 for ivshmem)\n"
    "  --sysfs=DIR         where sysfs is mounted (" STUB_DEFAULT_SYSFS ")\n"
    "  --print             print the identity, set nothing\n"
    "  --wait=SECONDS      wait so long for the mount\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 set, 1 error, 2 no stub (the VM runs as pool A, priority 1).\n";

/* options_parse returns -1 to go on, else the exit status. */
static int options_parse(struct options *options, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"mount", required_argument, NULL, 'm'},
        {"device", required_argument, NULL, 'd'},
        {"bar", required_argument, NULL, 'b'},
        {"sysfs", required_argument, NULL, 's'},
        {"print", no_argument, NULL, 'p'},
        {"wait", required_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    int option;
    uint32_t bar;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
        switch (option) {
        case 'm':
            options->mount = optarg;
            break;
        case 'd':
            options->query.device = optarg;
            break;
        case 'b':
            if (tool_number(optarg, 0, STUB_MAX_BAR, &bar) != 0) {
                tool_error("--bar=%s: give a number from 0 to %u", optarg, STUB_MAX_BAR);
                return EXIT_ERROR;
            }
            options->query.bar = (int)bar;
            break;
        case 's':
            options->query.sysfs = optarg;
            break;
        case 'p':
            options->print = true;
            break;
        case 'w':
            if (tool_seconds(optarg, &options->wait_ms) != 0) {
                tool_error("--wait=%s: give seconds, as 30 or 0.5", optarg);
                return EXIT_ERROR;
            }
            break;
        case 'h':
            fputs(help_text, stdout);
            return fflush(stdout) == 0 ? EXIT_SET : EXIT_ERROR;
        case 'V':
            printf("vgpu-identity %s\n", VGPUFS_VERSION);
            return fflush(stdout) == 0 ? EXIT_SET : EXIT_ERROR;
        default:
            tool_bad_option(option, argv);
            return EXIT_ERROR;
        }
    }
    if (optind < argc) {
        tool_error("argument %s is not expected: see --help", argv[optind]);
        return EXIT_ERROR;
    }
    return -1;
}

/* identity_write writes the claim, again and again until the deadline while the mount is away. */
static int identity_write(const char *path, const char *line, int64_t wait_ms, enum tool_step *step)
{
    int64_t deadline = tool_now_ms() + wait_ms;
    while (tool_write_file(path, line, strlen(line), step) != 0) {
        int error = errno;
        bool away = tool_is_outage(error) || (error == ENOENT && *step == TOOL_OPEN);
        if (!away || tool_now_ms() >= deadline) {
            errno = error;
            return -1;
        }
        tool_sleep_ms(WAIT_STEP_MS);
    }
    return 0;
}

static void explain_refusal(const char *path, const struct stub *stub, enum tool_step step,
                            int error)
{
    char reason[PATH_MAX + 128];
    snprintf(reason, sizeof(reason), "cannot %s %s: %s", step == TOOL_OPEN ? "open" : "write", path,
             strerror(error));
    if (error == EACCES && step == TOOL_OPEN)
        tool_error("%s: run as the owner of vm%u (over NFS: as root), and check that vm_id %u is "
                   "this guest's number in the host's exports",
                   reason, stub->vm_id, stub->vm_id);
    else if (error == EACCES)
        tool_error("%s: the host's configuration ([vm %u] pool, priority, pools, max_priority) "
                   "does not allow pool=%c priority=%u: change it or the stub's registers",
                   reason, stub->vm_id, stub->pool, stub->priority);
    else if (error == EINVAL)
        tool_error("%s: the host does not know this identity: see last_error in vm%u/status and "
                   "check that it has a pool %c",
                   reason, stub->vm_id, stub->pool);
    else if (error == ENOENT)
        tool_error("%s: mount vgpufs first (or use --wait), and check that the host has a VM %u",
                   reason, stub->vm_id);
    else if (tool_is_outage(error))
        tool_error("%s: the host's daemon is away: start it there, mount again if this stays, or "
                   "use --wait",
                   reason);
    else
        tool_error("%s: see vgpufs(7), TROUBLESHOOTING", reason);
}

static int identity_set(const struct options *options, const struct stub *stub)
{
    char path[PATH_MAX], line[64];
    enum tool_step step;
    if (tool_path(path, sizeof(path), "%s/vm%u/identity", options->mount, stub->vm_id) != 0) {
        tool_error("--mount=%s: the path is too long: give a shorter one", options->mount);
        return EXIT_ERROR;
    }
    snprintf(line, sizeof(line), "pool=%c priority=%u vm_id=%u\n", stub->pool, stub->priority,
             stub->vm_id);
    if (identity_write(path, line, options->wait_ms, &step) != 0) {
        explain_refusal(path, stub, step, errno);
        return EXIT_ERROR;
    }
    return EXIT_SET;
}

int main(int argc, char **argv)
{
    struct options options = {.mount = TOOL_DEFAULT_MOUNT,
                              .query = {.sysfs = STUB_DEFAULT_SYSFS, .bar = -1}};
    struct stub stub;
    char message[STUB_MESSAGE_SIZE];

    tool_init("vgpu-identity");
    int status = options_parse(&options, argc, argv);
    if (status >= 0)
        return status;

    switch (stub_find(&options.query, &stub, message, sizeof(message))) {
    case STUB_NONE:
        tool_error("%s: nothing set; this VM runs as pool A, priority 1, unless [vm N] on the host "
                   "says otherwise",
                   message);
        return EXIT_NO_STUB;
    case STUB_ERROR:
        tool_error("%s", message);
        return EXIT_ERROR;
    case STUB_FOUND:
        break;
    }
    if (!options.print && (status = identity_set(&options, &stub)) > 0)
        return status;
    printf("pool=%c priority=%u vm_id=%u device=%s/bus/pci/devices/%s bar=%u\n", stub.pool,
           stub.priority, stub.vm_id, options.query.sysfs, stub.device, stub.bar);
    if (fflush(stdout) != 0) {
        tool_error("cannot write to standard output: %s: check where it goes", strerror(errno));
        return EXIT_ERROR;
    }
    return EXIT_SET;
}
