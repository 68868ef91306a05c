#include "config_keys.h"

#include <string.h>

#define SECOND 1000ull /* ms */
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)
#define KIB    1024ull
#define TIB    (KIB * KIB * KIB * KIB)

#define IN_VM (SECTION_DEFAULTS | SECTION_VM)

#define VGPUFS(key, key_type)                                                                      \
    .name = key, .sections = SECTION_VGPUFS, .object = OBJECT_CONFIG, .type = key_type
#define VM(key, key_type) .name = key, .sections = IN_VM, .object = OBJECT_VM, .type = key_type
#define POOL(key, key_type)                                                                        \
    .name = key, .sections = SECTION_POOL, .object = OBJECT_POOL, .type = key_type

#define DEFAULT(value)   .default_value = value
#define RANGE(low, high) .min = low, .max = high

#define NFS(key, key_type)                                                                         \
    .name = key, .sections = SECTION_NFS, .object = OBJECT_CONFIG, .type = key_type

#define FIELD(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define OF_CONFIG(member)   FIELD(struct config, member)
#define OF_VM(member)       FIELD(struct config_vm, member)
#define OF_POOL(member)     FIELD(struct config_pool, member)

/* The order is that of the man page. */
static const struct config_key keys[] = {
    {VGPUFS("mountpoint", TYPE_PATH), DEFAULT("/mnt/vgpu"), .fixed = true, OF_CONFIG(mountpoint),
     .help = "Where the tree is mounted. A relative path is relative to this file."},
    {VGPUFS("state_dir", TYPE_PATH), DEFAULT("/var/lib/vgpufs"), .fixed = true,
     OF_CONFIG(state_dir),
     .help = "Where job numbers, identities and the VMs' files are kept. A relative path is "
             "relative to this file."},
    {VGPUFS("executor_user", TYPE_USER), .default_note = "the daemon's", .fixed = true,
     OF_CONFIG(executor_user),
     .help = "The user that executors run as. It takes a daemon that is root, or vgpufs.service, "
             "which may become that user but nobody else once it has started. Programs that "
             "pools name in executor must be that user's to execute."},
    {VGPUFS("vms", TYPE_VMS), DEFAULT("1-10"),
     .help = "VMs that exist without a section of their own, as in 1-10 200. A [vm N] section "
             "makes its VM exist too."},
    {VGPUFS("durability", TYPE_DURABILITY), DEFAULT("sync"), OF_CONFIG(durability),
     .help =
         "How safe a job is once it is accepted: sync, it is on the disk; group 50ms, it will be "
         "after that time at most; none, a power failure may lose it. See DURABILITY in "
         "vgpufs.conf(5)."},
    {VGPUFS("on_restart", TYPE_CHOICE), DEFAULT("rerun"), .choices = "rerun|fail",
     OF_CONFIG(on_restart),
     .help =
         "What becomes of a job that was running when the daemon ended: rerun, it is run again; "
         "fail, it has failed. Holds for jobs that are started from then on. With fail and "
         "durability = sync a job is started when the disk has noted that it is. Where the next "
         "daemon goes on with the mount (see vgpufs-mount(8)) it is run again in either case."},
    {VGPUFS("max_reruns", TYPE_COUNT), DEFAULT("3"), RANGE(0, 1000000), OF_CONFIG(max_reruns),
     .help = "How often a job is run again because the daemon crashed or was killed while it ran; "
             "then it has failed, since it may be what ends the daemon. 0: no limit. Planned "
             "restarts do not count."},
    {VGPUFS("stop_timeout", TYPE_DURATION), DEFAULT("10s"), RANGE(0, HOUR),
     OF_CONFIG(stop_timeout_ms), .help = "How long running jobs may still run after SIGTERM."},
    {VGPUFS("stats_log_interval", TYPE_DURATION), DEFAULT("60"), RANGE(0, DAY),
     OF_CONFIG(stats_log_interval_ms),
     .help = "How often a line of statistics is logged; 0: never."},
    {VGPUFS("log_level", TYPE_CHOICE), DEFAULT("info"), .choices = "error|warning|info|debug",
     OF_CONFIG(log_level), .help = "The least important messages that are logged."},
    {VGPUFS("log_jobs", TYPE_CHOICE), DEFAULT("yes"), .choices = "no|yes", OF_CONFIG(log_jobs),
     .help = "Log each job's way through the queue: at most 100 lines a second, then a count."},
    {VGPUFS("stats_mode", TYPE_MODE), DEFAULT("0444"), OF_CONFIG(stats_mode),
     .help = "The mode of stats, stats.json and metrics."},

    {NFS("hold", TYPE_DURATION), DEFAULT("20s"), RANGE(100, 10 * 60 * SECOND),
     OF_CONFIG(nfs_hold_ms),
     .help = "How long a request of an NFS server may wait for a job before the guest's kernel is "
             "told to ask again."},
    {NFS("threads", TYPE_COUNT), DEFAULT("32"), RANGE(1, 65536), OF_CONFIG(nfs_threads),
     .help = "How many threads the NFS server has. At most half as many requests wait for jobs, so "
             "that the others are answered meanwhile."},
    {NFS("waiting_per_vm", TYPE_COUNT), DEFAULT("4"), RANGE(1, 65536),
     OF_CONFIG(nfs_waiting_per_vm),
     .help = "How many requests of one VM may wait for jobs at the same time; fewer while many VMs "
             "wait."},

    {.name = "uid_base",
     .sections = SECTION_DEFAULTS,
     .object = OBJECT_CONFIG,
     .type = TYPE_COUNT,
     DEFAULT("20000"),
     .default_note = "20000 as root, 0 as a plain user",
     RANGE(0, UINT32_MAX - 1 - CONFIG_MAX_VM_ID),
     .fixed = true,
     OF_CONFIG(uid_base),
     .help = "vmN/ belongs to the uid uid_base + N; 0: all belong to the user who runs vgpufs, the "
             "only value that a plain user may choose."},

    {VM("pool", TYPE_POOL), DEFAULT("any"), OF_VM(fixed_pool),
     .help = "The pool in which all of the VM's jobs run. any: the VM's identity may claim one."},
    {VM("priority", TYPE_PRIORITY), DEFAULT("any"), RANGE(0, 2), OF_VM(fixed_priority),
     .help = "The priority of all of the VM's jobs: 2 high, 1 medium, 0 low. any: the VM's "
             "identity may claim one."},
    {VM("pools", TYPE_POOLS), DEFAULT("all"), OF_VM(allowed_pools),
     .help = "The pools that the VM may claim."},
    {VM("max_priority", TYPE_COUNT), DEFAULT("2"), RANGE(0, 2), OF_VM(max_priority),
     .help = "The highest priority that the VM may claim."},
    {VM("identity", TYPE_CHOICE), DEFAULT("optional"), .choices = "optional|required",
     OF_VM(identity_required),
     .help = "required: submissions are refused until the VM has set its identity. optional: it "
             "has pool A and priority 1 until then."},
    {VM("max_queued", TYPE_COUNT), DEFAULT("64"), RANGE(1, 1000000), OF_VM(max_queued),
     .help = "Jobs of the VM that may wait."},
    {VM("max_jobs", TYPE_COUNT), DEFAULT("2048"), RANGE(1, 1000000), OF_VM(max_jobs),
     .help = "Directories that the VM may have in jobs/."},
    {VM("max_running", TYPE_COUNT), DEFAULT("0"), RANGE(0, 1024), OF_VM(max_running),
     .help = "Jobs of the VM that may run at the same time; 0: as many as the pool has slots."},
    {VM("device_share", TYPE_PERCENT), DEFAULT("100%"), RANGE(1, 100), OF_VM(device_share_percent),
     .help = "The VM's share of its pool's device time over 60 s; above it the VM's jobs wait "
             "while another VM has any."},
    {VM("max_crashes", TYPE_COUNT), DEFAULT("5"), RANGE(0, 1000000), OF_VM(max_crashes),
     .help = "After this many crashes of the executor in a row the VM is held; 0: never."},
    {VM("data_quota", TYPE_BYTES), DEFAULT("1G"), RANGE(0, 1024 * TIB), OF_VM(data_quota_bytes),
     .help = "How much the VM may keep in data/."},
    {VM("max_data_files", TYPE_COUNT), DEFAULT("65536"), RANGE(1, 10000000), OF_VM(max_data_files),
     .help = "Files that the VM may have in data/."},
    {VM("max_data_open", TYPE_COUNT), DEFAULT("512"), RANGE(1, 1000000), OF_VM(max_data_open),
     .help = "Files of data/ that the VM may have open at the same time. Each is a descriptor of "
             "the daemon, of which all VMs together have as many as its hard limit says."},
    {VM("max_open", TYPE_COUNT), DEFAULT("4096"), RANGE(16, 1000000), OF_VM(max_open),
     .help = "Files and directories that the VM may have open at the same time, those of data/ "
             "too."},
    {VM("max_open_bytes", TYPE_BYTES), DEFAULT("64M"), RANGE(64 * KIB, TIB), OF_VM(max_open_bytes),
     .help = "How much of texts, listings and large results the daemon keeps in memory for what "
             "the VM has open. Beyond it results are read from the disk again, and other files "
             "cannot be opened."},
    {VM("max_waiting", TYPE_COUNT), DEFAULT("4096"), RANGE(1, 1000000), OF_VM(max_waiting),
     .help = "Local reads of the VM that may wait for results at the same time; for those of an "
             "NFS server see waiting_per_vm."},
    {VM("retain_jobs", TYPE_COUNT), DEFAULT("1024"), RANGE(0, 1000000), OF_VM(retain_jobs),
     .help = "Ended jobs of the VM that are kept; those that were read go first."},
    {VM("retain_for", TYPE_DURATION), DEFAULT("1h"), RANGE(0, 365 * DAY), OF_VM(retain_for_ms),
     .help = "How long an ended job is kept."},

    {.name = "uid",
     .sections = SECTION_VM,
     .object = OBJECT_VM,
     .type = TYPE_COUNT,
     .default_note = "uid_base + N",
     RANGE(0, UINT32_MAX - 1),
     OF_VM(uid),
     .help = "The owner of vmN/. VMs that have the same one are not kept apart."},
    {.name = "address",
     .sections = SECTION_VM,
     .object = OBJECT_VM,
     .type = TYPE_ADDRESS,
     .default_note = "none",
     OF_VM(address),
     .help = "The VM's host name, IP address or network, for the lines of vgpufs --exports."},

    {POOL("backend", TYPE_NAME), DEFAULT("auto"), .choices = "auto|cpu|cuda", .fixed = true,
     OF_POOL(backend),
     .help = "What the pool's executors compute with; auto: cuda where a device answers, else "
             "cpu."},
    {POOL("device", TYPE_DEVICE), DEFAULT("0"), .fixed = true, OF_POOL(device),
     .help = "The CUDA device: its number, or its GPU- or MIG-uuid as nvidia-smi -L shows it."},
    {POOL("slots", TYPE_COUNT), DEFAULT("1"), RANGE(1, 256), .fixed = true, OF_POOL(slots),
     .help = "How many executors the pool has, each of which runs one job at a time."},
    {POOL("executor", TYPE_COMMAND), DEFAULT("vgpu-executor"), .fixed = true, OF_POOL(executor),
     .help = "The command that starts an executor. Any command that ends in one will do, such as "
             "ssh gpu-vm vgpu-executor."},
    {POOL("order", TYPE_CHOICE), DEFAULT("fifo"), .choices = "fifo|fair", OF_POOL(order),
     .help = "Who is next inside one priority. fifo: the oldest job. fair: VMs take turns."},
    {POOL("max_wait", TYPE_DURATION), DEFAULT("0"), RANGE(0, 30 * DAY), OF_POOL(max_wait_ms),
     .help = "A job that has waited this long goes first whatever its priority; 0: priorities are "
             "strict."},
    {POOL("max_queued", TYPE_COUNT), DEFAULT("10000"), RANGE(1, 1000000), OF_POOL(max_queued),
     .help = "Jobs that may wait in the pool."},
    {POOL("max_run", TYPE_DURATION), DEFAULT("60s"), RANGE(1, 30 * DAY), OF_POOL(max_run_ms),
     .help = "How long a job may run before it is ended."},
    /* A row of SQLite's has 10^9 bytes at most: one that is larger could never be written. */
    {POOL("max_result", TYPE_BYTES), DEFAULT("1M"), RANGE(KIB, 512 * KIB * KIB),
     OF_POOL(max_result_bytes),
     .help = "How much of a job's output is kept; the rest is cut off (truncated=yes)."},
    {POOL("sandbox", TYPE_CHOICE), DEFAULT("yes"), .choices = "no|yes", .fixed = true,
     OF_POOL(sandbox),
     .help =
         "Start executors under a filter of system calls, without those that neither workloads, "
         "drivers, ssh nor srun need, and without set-uid programs."},
    {POOL("host_memory", TYPE_BYTES), DEFAULT("0"), RANGE(0, 1024 * TIB), .fixed = true,
     OF_POOL(host_memory_bytes),
     .help =
         "How much of the host's memory each executor may use with all that it starts; 0: no "
         "bound. Without a cgroup from the service manager it holds for each process by itself."},
    {POOL("max_processes", TYPE_COUNT), DEFAULT("4096"), RANGE(0, 1000000), .fixed = true,
     OF_POOL(max_processes),
     .help = "How many processes and threads each executor may be, with all that it starts; 0: no "
             "bound. Needs a cgroup from the service manager."},
    {POOL("scrub", TYPE_CHOICE), DEFAULT("yes"), .choices = "no|yes", .fixed = true, OF_POOL(scrub),
     .help =
         "Clear the device memory that a job gets, before and after it, so that no VM sees what "
         "another's job left there. cuda only."},
    {POOL("device_memory", TYPE_BYTES), DEFAULT("0"), RANGE(0, 1024 * TIB), .fixed = true,
     OF_POOL(device_memory_bytes),
     .help = "How much device memory a job may allocate, in each slot; 0: as much as the device "
             "has. The context, the kernels and libraries take some hundred MiB beyond that. cuda "
             "only."},
    {POOL("mps_percent", TYPE_PERCENT), DEFAULT("0%"), RANGE(0, 100), .fixed = true,
     OF_POOL(mps_percent),
     .help =
         "The share of the device's multiprocessors that each executor may use at a time, where "
         "NVIDIA's MPS control daemon runs; 0: as that daemon says. cuda only."},
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

/* In the design, and so in examples that people will find, but not in this version. */
static const struct {
    unsigned section;
    const char *name;
} unsupported_keys[] = {
    {SECTION_POOL, "own_kernels"},
    {SECTION_POOL, "idle_stop"},
    {SECTION_POOL, "retry"},
    {SECTION_POOL, "data_shared"},
};

static const char *const unsupported_sections[] = {"workload"};

const struct config_key *config_key_next(const struct config_key *key)
{
    key = key ? key + 1 : keys;
    return key < keys + KEY_COUNT ? key : NULL;
}

const struct config_key *config_key_find(enum config_section_kind kind, const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (keys[i].sections & kind && strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

bool config_key_is_unsupported(enum config_section_kind kind, const char *name)
{
    for (size_t i = 0; i < sizeof(unsupported_keys) / sizeof(unsupported_keys[0]); i++)
        if (unsupported_keys[i].section & kind && strcmp(unsupported_keys[i].name, name) == 0)
            return true;
    return false;
}

bool config_section_is_unsupported(const char *name)
{
    for (size_t i = 0; i < sizeof(unsupported_sections) / sizeof(unsupported_sections[0]); i++)
        if (strcmp(unsupported_sections[i], name) == 0)
            return true;
    return false;
}

const char *config_section_title(enum config_section_kind kind)
{
    switch (kind) {
    case SECTION_VGPUFS:
        return "[vgpufs]";
    case SECTION_DEFAULTS:
        return "[defaults]";
    case SECTION_VM:
        return "[vm N]";
    case SECTION_NFS:
        return "[nfs]";
    case SECTION_POOL:
        break;
    }
    return "[pool NAME]";
}
