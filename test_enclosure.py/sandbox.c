#include "sandbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

struct sandbox {
    struct sock_fprog program;
};

/*
 * Names, since not every machine has each; libseccomp knows the numbers. What ssh, srun and
 * bubblewrap need is not among them: mount, unshare, setns, pivot_root, keyctl (Kerberos).
 */
static const char *const denied[] = {
    /* The kernel itself, and what it watches. */
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "bpf",
    "perf_event_open",
    "syslog",
    "lookup_dcookie",
    "acct",
    "fanotify_init",
    "iopl",
    "ioperm",
    /* The machine's clock, swap and quotas. */
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "stime",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    /* Other processes of the same user: the daemon. */
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    /* Ways around permissions on paths, and favourites of exploits. */
    "open_by_handle_at",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "uselib",
    "vmsplice",
};

/* rules_add: 0, or a negative errno as libseccomp gives them. */
static int rules_add(scmp_filter_ctx context)
{
    for (size_t i = 0; i < sizeof(denied) / sizeof(denied[0]); i++) {
        int number = seccomp_syscall_resolve_name(denied[i]);
        if (number == __NR_SCMP_ERROR)
            continue; /* newer than this libseccomp */
        int result = seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), number, 0);
        if (result < 0)
            return result;
    }
    /* Typing on the terminal of whoever started the daemon. */
    return seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                            SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, TIOCSTI));
}

/* filter_build: the 32-bit calls of the machine are under the same rules. */
static int filter_build(scmp_filter_ctx context)
{
#ifdef __x86_64__
    int added = seccomp_arch_add(context, SCMP_ARCH_X86);
    if (added < 0)
        return added;
#endif
    int result = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
    /* sandbox_enter sets it: loading is not libseccomp's here. */
    return result < 0 ? result : rules_add(context);
}

/* program_read takes the compiled filter out of the file. 0, or an errno. */
static int program_read(struct sandbox *sandbox, int file)
{
    off_t size = lseek(file, 0, SEEK_END);
    if (size <= 0 || (size_t)size % sizeof(struct sock_filter) ||
        (size_t)size / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return EINVAL;
    sandbox->program.filter = malloc((size_t)size);
    if (!sandbox->program.filter)
        return ENOMEM;
    if (pread(file, sandbox->program.filter, (size_t)size, 0) != size)
        return EIO;
    sandbox->program.len = (unsigned short)((size_t)size / sizeof(struct sock_filter));
    return 0;
}

/* filter_compile: 0, or an errno. libseccomp writes the program to a descriptor only. */
static int filter_compile(struct sandbox *sandbox, scmp_filter_ctx context)
{
    int result = -filter_build(context);
    if (result)
        return result;
    int file = memfd_create("vgpufs-sandbox", MFD_CLOEXEC);
    if (file < 0)
        return errno;
    result = -seccomp_export_bpf(context, file);
    if (!result)
        result = program_read(sandbox, file);
    close(file);
    return result;
}

struct sandbox *sandbox_create(struct text *error)
{
    struct sandbox *sandbox = calloc(1, sizeof(*sandbox));
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
    int failed = sandbox && context ? filter_compile(sandbox, context) : ENOMEM;
    if (context)
        seccomp_release(context);
    if (!failed)
        return sandbox;
    text_printf(error,
                "cannot make the executors' system-call filter: %s: set `sandbox = no' for the "
                "pools to run without it",
                strerror(failed));
    sandbox_destroy(sandbox);
    return NULL;
}

void sandbox_destroy(struct sandbox *sandbox)
{
    if (sandbox)
        free(sandbox->program.filter);
    free(sandbox);
}

int sandbox_enter(const struct sandbox *sandbox)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &sandbox->program, 0, 0);
}
