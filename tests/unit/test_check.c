/*
 * check and exports: each finding of `vgpufs --check` on a machine that is a folder, with the
 * command that mends it; the lines of `vgpufs --exports`.
 */
#include "check.h"
#include "nfs_exports.h"

#include "scratch.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

#define TWO_GUESTS                                                                                 \
    "[vgpufs]\nmountpoint = /mnt/vgpu\nstate_dir = /tmp\nvms = 1-9\n"                              \
    "[vm 3]\naddress = 10.0.0.3\n[vm 4]\naddress = gpu4.lan\nuid = 777\n"                          \
    "[nfs]\nthreads = 32\n"
#define NO_GUESTS "[vgpufs]\nmountpoint = /mnt/vgpu\nstate_dir = /tmp\n"
#define OPTIONS_3                                                                                  \
    "rw,sync,wdelay,hide,nocrossmnt,secure,root_squash,all_squash,no_subtree_check,secure_locks,"  \
    "acl,no_pnfs,fsid=790877044,anonuid=20003,anongid=20003,sec=sys,rw,secure,root_squash,"        \
    "all_squash"
#define ETAB_3 "/mnt/vgpu\t10.0.0.3(" OPTIONS_3 ")\n"
#define ETAB_4                                                                                     \
    "/mnt/vgpu\tgpu4.lan(rw,sync,all_squash,no_subtree_check,fsid=790877044,anonuid=777,"          \
    "anongid=777)\n"
#define WITH_CUDA    "Devices:\n  cuda 0  NVIDIA H100  GPU-1\n  cpu 0  AMD EPYC\n"
#define WITHOUT_CUDA "Devices:\n  cuda    none: no libcuda.so.1\n  cpu 0  AMD EPYC\n"

static struct config *parse(const char *content)
{
    struct text error = {0};
    struct config *config = config_parse(content, "/etc/t.conf", false, &error);
    if (!config)
        print_error("refused: %s\n", error.data);
    assert_non_null(config);
    text_finish(&error);
    return config;
}

/* --- a machine --- */

static const char *listed; /* what every executor prints; NULL: it fails */
static char listed_as[32]; /* the user that the last one was run as; "": this process's */
static const char *silent; /* the address that does not answer */
static bool is_root;       /* so that executors can be tried as another user */
static unsigned asked;     /* how many addresses were tried */

static int list(const char *command, const struct user *user, struct text *out)
{
    assert_string_equal(command, "vgpu-executor");
    snprintf(listed_as, sizeof(listed_as), "%s", user ? user->name : "");
    text_puts(out, listed ? listed : "No such file or directory");
    return listed ? 0 : -1;
}

static void reach(const char *const *addresses, bool *answers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        answers[i] = addresses[i] && (!silent || strcmp(addresses[i], silent) != 0);
        asked += addresses[i] != NULL;
    }
}

/* put makes a file of the machine, with the folders that it is in. */
static void put(const char *name, const char *content)
{
    char path[512];
    snprintf(path, sizeof(path), "%s", scratch_path(name));
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void take_away(const char *name)
{
    assert_int_equal(unlink(scratch_path(name)), 0);
}

/* A machine on which nothing is wrong. */
static int machine_make(void **state)
{
    (void)state;
    scratch_make();
    put("dev/fuse", "");
    put("proc/sys/fs/fuse/default_request_timeout", "0\n");
    put("proc/sys/fs/fuse/max_request_timeout", "0\n");
    put("proc/sys/fs/leases-enable", "0\n");
    put("proc/fs/nfsd/threads", "32\n");
    put("var/lib/nfs/etab", ETAB_3 ETAB_4);
    listed = WITH_CUDA;
    silent = NULL;
    asked = 0;
    is_root = true;
    return 0;
}

static int machine_remove(void **state)
{
    (void)state;
    scratch_remove();
    return 0;
}

/* run_check returns what --check prints, the caller's to free. */
static char *run_check(const char *content, const char *mount_socket, unsigned *errors)
{
    char *printed = NULL, root[512];
    size_t size;
    FILE *out = open_memstream(&printed, &size);
    struct config *config = parse(content);
    snprintf(root, sizeof(root), "%s", scratch_path(""));
    root[strlen(root) - 1] = '\0';
    struct check_machine machine = {.root = root,
                                    .mount_socket = mount_socket,
                                    .list = list,
                                    .reach = reach,
                                    .is_root = is_root};
    *errors = check_run(config, &machine, out);
    config_destroy(config);
    fclose(out);
    return printed;
}

/* assert_finding: that line, and no other than `ok`; errors are as many as lines of them. */
static void assert_finding(const char *content, unsigned errors, const char *line)
{
    unsigned found;
    char *printed = run_check(content, NULL, &found), *rest = printed;
    bool seen = line == NULL;
    for (char *each; (each = strsep(&rest, "\n")) && *each;) {
        if (line && strcmp(each, line) == 0)
            seen = true;
        else if (strncmp(each, "ok ", 3) != 0)
            fail_msg("not expected: '%s'; expected: '%s'", each, line ? line : "");
    }
    if (!seen)
        fail_msg("not printed: '%s'", line);
    assert_int_equal(found, errors);
    free(printed);
}

static void test_nothing_wrong(void **state)
{
    (void)state;
    unsigned errors;
    char *printed = run_check(TWO_GUESTS, NULL, &errors);
    assert_string_equal(printed, "ok       state_dir\nok       fuse\nok       fuse timeouts\n"
                                 "ok       executors\nok       leases\nok       NFS threads\n"
                                 "ok       exports\nok       guests\n");
    assert_int_equal(errors, 0);
    assert_int_equal(asked, 2);
    free(printed);
}

/* Where no VM has an address nobody uses NFS, and nothing of it is looked at. */
static void test_without_guests(void **state)
{
    (void)state;
    put("proc/sys/fs/leases-enable", "1\n");
    put("proc/fs/nfsd/threads", "8\n");
    take_away("var/lib/nfs/etab");
    assert_finding(NO_GUESTS, 0, NULL);
    assert_int_equal(asked, 0);
}

static void test_sysctls(void **state)
{
    (void)state;
    put("proc/sys/fs/leases-enable", "1\n");
    assert_finding(TWO_GUESTS, 1,
                   "error    leases: fs.leases-enable is 1, so that guests (NFSv4) may see an old "
                   "result for ever: run 'sysctl -w fs.leases-enable=0', and install "
                   "config/vgpufs.sysctl");
    put("proc/sys/fs/leases-enable", "0\n");
    put("proc/sys/fs/fuse/max_request_timeout", "600\n");
    assert_finding(
        NO_GUESTS, 1,
        "error    fuse timeouts: fs.fuse.max_request_timeout is 600, so that a long wait "
        "for a result ends the mount: run 'sysctl -w fs.fuse.max_request_timeout=0', and "
        "install config/vgpufs.sysctl");
    take_away("proc/sys/fs/fuse/max_request_timeout"); /* an older kernel has none */
    assert_finding(NO_GUESTS, 0, NULL);
    put("proc/sys/fs/fuse/default_request_timeout", "60\n");
    assert_finding(NO_GUESTS, 1,
                   "error    fuse timeouts: fs.fuse.default_request_timeout is 60, so that a long "
                   "wait for a result ends the mount: run 'sysctl -w "
                   "fs.fuse.default_request_timeout=0', and install config/vgpufs.sysctl");
}

static void test_threads(void **state)
{
    (void)state;
    put("proc/fs/nfsd/threads", "8\n");
    assert_finding(
        TWO_GUESTS, 1,
        "error    NFS threads: the NFS server has 8 threads, and threads of [nfs] is 32: "
        "run 'rpc.nfsd 32', and write threads=32 below [nfsd] in /etc/nfs.conf");
    put("proc/fs/nfsd/threads", "0\n");
    assert_finding(TWO_GUESTS, 1,
                   "error    NFS threads: the NFS server does not run: run 'systemctl enable --now "
                   "nfs-server'");
    take_away("proc/fs/nfsd/threads");
    assert_finding(TWO_GUESTS, 1,
                   "error    NFS threads: the NFS server does not run: run 'systemctl enable --now "
                   "nfs-server'");
    put("proc/fs/nfsd/threads", "many\n");
    assert_finding(
        TWO_GUESTS, 0,
        "warning  NFS threads: /proc/fs/nfsd/threads: Invalid argument: run this as root");
}

static void test_places(void **state)
{
    (void)state;
    put("proc/fs/nfsd/threads", "3\n");
    assert_finding(
        NO_GUESTS "[vm 3]\naddress = 10.0.0.3\n[vm 4]\naddress = gpu4.lan\nuid = 777\n"
                  "[nfs]\nthreads = 3\n",
        0,
        "warning  NFS threads: 2 guests, and no more than 1 of them can wait for jobs at once: the "
        "others see results some seconds late: set threads = 4 in [nfs], and threads=4 below "
        "[nfsd] in /etc/nfs.conf");
}

#define MEND                                                                                       \
    ": run 'mkdir -p /etc/exports.d && vgpufs --exports > /etc/exports.d/vgpufs.exports && "       \
    "exportfs -ra'"

static void test_exports_of_the_machine(void **state)
{
    (void)state;
    static const struct {
        const char *etab, *line;
    } cases[] = {
        {ETAB_3, "error    exports: /mnt/vgpu is not exported to vm4 (gpu4.lan)" MEND},
        {ETAB_3 "/mnt/vgpu2\tgpu4.lan(rw)\n/mnt/vgpu\tgpu4.lan.org(rw)\n",
         "error    exports: /mnt/vgpu is not exported to vm4 (gpu4.lan)" MEND},
        {ETAB_3 "/mnt/vgpu\tgpu4.lan(rw,async,all_squash,no_subtree_check,fsid=790877044,"
                "anonuid=777,anongid=777)\n",
         "error    exports: the export to vm4 (gpu4.lan) lacks sync" MEND},
        {ETAB_3 "/mnt/vgpu\tgpu4.lan(rw,sync,all_squash,no_subtree_check,fsid=79087704,"
                "anonuid=777,anongid=777)\n",
         "error    exports: the export to vm4 (gpu4.lan) lacks fsid=790877044" MEND},
        {ETAB_3 "/mnt/vgpu\tgpu4.lan(rw,sync,all_squash,no_subtree_check,fsid=790877044,"
                "anonuid=7777,anongid=777)\n",
         "error    exports: the export to vm4 (gpu4.lan) lacks anonuid=777" MEND},
        {ETAB_3 "/mnt/vgpu\tgpu4.lan(rw,sync,root_squash,no_subtree_check,fsid=790877044,"
                "anonuid=777,anongid=777)",
         "error    exports: the export to vm4 (gpu4.lan) lacks all_squash" MEND},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put("var/lib/nfs/etab", cases[i].etab);
        assert_finding(TWO_GUESTS, 1, cases[i].line);
    }
    unsigned errors;
    take_away("var/lib/nfs/etab");
    free(run_check(TWO_GUESTS, NULL, &errors));
    assert_int_equal(errors, 2);
}

static void test_guests(void **state)
{
    (void)state;
    silent = "gpu4.lan";
    assert_finding(
        TWO_GUESTS, 0,
        "warning  guests: vm4 (gpu4.lan) does not answer: is it running? 'ping -c 1 gpu4.lan'");
    asked = 0;
    free(run_check("[vgpufs]\nstate_dir = /tmp\n[vm 3]\naddress = 10.0.0.0/24\n", NULL,
                   &(unsigned){0}));
    assert_int_equal(asked, 0); /* a network is nobody */
}

static void test_executors(void **state)
{
    (void)state;
    static const char cuda[] = "[vgpufs]\nstate_dir = /tmp\n[pool B]\nbackend = cuda\n"
                               "[pool A]\nbackend = cpu\n";
    static const char automatic[] = "[vgpufs]\nstate_dir = /tmp\n[pool B]\nbackend = auto\n"
                                    "[pool A]\nbackend = cpu\n";
    assert_finding(cuda, 0, NULL);
    listed = WITHOUT_CUDA;
    assert_finding(cuda, 1, "error    executors: pool B has no CUDA device: none: no libcuda.so.1");
    assert_finding(automatic, 0,
                   "warning  executors: pool B computes on the CPU, as backend = cpu would say: "
                   "none: no libcuda.so.1");
    listed = "";
    assert_finding(cuda, 1, "error    executors: pool B has no CUDA device: none listed");
    unsigned errors;
    listed = NULL;
    char *printed = run_check(cuda, NULL, &errors);
    assert_non_null(strstr(printed, "error    executors: pool A: 'vgpu-executor --list': No such "
                                    "file or directory: see 'executor' of [pool A]\n"));
    assert_int_equal(errors, 2);
    free(printed);
}

/* `daemon` is a user of every Debian, whose home is a folder of root's: base-passwd(8). */
static void test_executor_user(void **state)
{
    (void)state;
    static const char other[] = NO_GUESTS "executor_user = daemon\n";
    assert_finding(NO_GUESTS, 0, NULL);
    assert_string_equal(listed_as, "");
    assert_finding(
        other, 0,
        "warning  executors: daemon has no folder of its own at /usr/sbin: CUDA compiles "
        "kernels anew at each start, and ssh finds no key: run 'install -d -m 0700 -o "
        "daemon /var/lib/daemon && usermod -d /var/lib/daemon daemon' as root");
    assert_string_equal(listed_as, "daemon");
    is_root = false;
    assert_finding(other, 0,
                   "warning  executors: executors are to run as daemon; here they were tried as "
                   "you: run this as root");
    assert_string_equal(listed_as, "");
    assert_finding(
        NO_GUESTS "executor_user = nobody-at-all\n", 1,
        "error    executors: executor_user = 'nobody-at-all': there is no such user: make "
        "it, as systemd-sysusers(8) does with vgpufs' file, or name another");
    assert_string_equal(listed_as, "");
}

static void test_fuse(void **state)
{
    (void)state;
    unsigned errors;
    take_away("dev/fuse");
    assert_finding(NO_GUESTS, 1,
                   "error    fuse: there is no /dev/fuse: run 'modprobe fuse' as root");
    put("run/file", ""); /* no socket */
    char *printed = run_check(NO_GUESTS, "/run/file", &errors);
    assert_non_null(strstr(printed, "error    fuse: vgpufs-mount does not listen on /run/file: run "
                                    "'systemctl start vgpufs-mount'\n"));
    assert_int_equal(errors, 1);
    free(printed);
}

static void test_state_dir(void **state)
{
    (void)state;
    char content[1200], path[512];
    snprintf(path, sizeof(path), "%s", scratch_path("state"));
    snprintf(content, sizeof(content), "[vgpufs]\nstate_dir = %s\n", path);
    assert_finding(content, 0, NULL); /* not there, and can be made */
    put("state", "");
    char line[700];
    snprintf(line, sizeof(line), "error    state_dir: %s is no folder: name another state_dir",
             path);
    assert_finding(content, 1, line);
    snprintf(content, sizeof(content), "[vgpufs]\nstate_dir = /nonexistent/folder\n");
    assert_finding(content, 1,
                   "error    state_dir: /nonexistent/folder: No such file or directory: run "
                   "'install -d -m 0700 /nonexistent/folder' as root, and give it to the user who "
                   "runs vgpufs");
}

/* --- asking the real machine --- */

static void assert_listed(const char *command, int result, const char *expected)
{
    struct text out = {0};
    assert_int_equal(check_list(command, NULL, &out), result);
    assert_string_equal(out.data, expected);
    text_finish(&out);
}

static void test_list(void **state)
{
    (void)state;
    assert_listed("sh -c 'echo \"$0 and more\"; echo end'", 0, "--list and more\nend\n");
    assert_listed("sh -c 'echo why; echo more; exit 3'", -1, "why");
    assert_listed("sh -c 'echo why >&2; exit 3'", -1, "why");
    assert_listed("sh -c 'exit 3'", -1, "it fails and says nothing");
    assert_listed("/nonexistent/vgpu-executor", -1, "No such file or directory");
    /* Without an end of its output: the limit here is that of its size. */
    assert_listed("sh -c 'exec yes'", -1, "no end within 15 seconds");
}

/* As another user for good: what the executor would be. */
static void test_list_as_another(void **state)
{
    (void)state;
    struct text out = {0};
    struct user user;
    assert_int_equal(user_wanted("daemon", &user, &out), 1);
    int result =
        check_list("sh -c 'echo $(id -un) $(id -u) $(id -ru) $(id -Gn) $HOME'", &user, &out);
    if (geteuid() == 0) {
        assert_int_equal(result, 0);
        assert_string_equal(out.data, "daemon 1 1 daemon /usr/sbin\n");
    } else {
        assert_int_equal(result, -1);
        assert_string_equal(out.data, "Operation not permitted");
    }
    user_finish(&user);
    text_finish(&out);
}

static void test_reach(void **state)
{
    (void)state;
    /* This machine, and a name that is none (RFC 6761). What an address says that nobody has is
     * the network's business. */
    const char *addresses[] = {"127.0.0.1", NULL, "vm.invalid"};
    bool answers[3] = {false, false, false};
    check_reach(addresses, answers, 3);
    assert_true(answers[0]);
    assert_false(answers[1] || answers[2]);
}

/* --- vgpufs --exports --- */

static void assert_exports(const char *content, const char *expected, const char *message)
{
    char *printed = NULL;
    size_t size;
    struct text error = {0};
    FILE *out = open_memstream(&printed, &size);
    struct config *config = parse(content);
    assert_int_equal(nfs_exports_print(config, out, &error), message ? -1 : 0);
    config_destroy(config);
    fclose(out);
    assert_string_equal(printed, expected);
    assert_string_equal(error.data ? error.data : "", message ? message : "");
    text_finish(&error);
    free(printed);
}

static void test_export_lines(void **state)
{
    (void)state;
    assert_exports(TWO_GUESTS,
                   "/mnt/vgpu 10.0.0.3(rw,sync,no_subtree_check,fsid=790877044,all_squash,"
                   "anonuid=20003,anongid=20003)\n"
                   "/mnt/vgpu gpu4.lan(rw,sync,no_subtree_check,fsid=790877044,all_squash,"
                   "anonuid=777,anongid=777)\n"
                   "# not exported: vm1-2 vm5-9: no address = in their [vm N]\n",
                   NULL);
    assert_exports("[vgpufs]\nvms = none\n[vm 8]\naddress = fd00::8\n[defaults]\nuid_base = 100\n",
                   "/mnt/vgpu fd00::8(rw,sync,no_subtree_check,fsid=790877044,all_squash,"
                   "anonuid=108,anongid=108)\n",
                   NULL);
    assert_exports("[vgpufs]\nmountpoint = /m n#t\nvms = 7 9\n[vm 8]\naddress = a\n",
                   "/m\\040n\\043t a(rw,sync,no_subtree_check,fsid=1656639776,all_squash,"
                   "anonuid=20008,anongid=20008)\n"
                   "# not exported: vm7 vm9: no address = in their [vm N]\n",
                   NULL);
}

static void test_export_mistakes(void **state)
{
    (void)state;
    assert_exports(
        "[vgpufs]\nvms = 1-3\n", "",
        "/etc/t.conf: no VM has an address: write 'address = 192.0.2.3' into its [vm N]");
    assert_exports("[vm 3]\naddress = Same\n[vm 5]\naddress = same\n", "",
                   "vm3 and vm5 have the same address Same: give each VM its own");
}

/* It is part of every file handle that guests keep: these values may never change. */
static void test_fsid(void **state)
{
    (void)state;
    assert_int_equal(nfs_exports_fsid("/mnt/vgpu"), 790877044);
    assert_int_not_equal(nfs_exports_fsid("/mnt/vgpu2"), nfs_exports_fsid("/mnt/vgpu"));
    for (unsigned i = 0; i < 1000; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/mnt/%u", i);
        assert_in_range(nfs_exports_fsid(path), 1, INT32_MAX);
    }
}

int main(void)
{
#define ON_MACHINE(test) cmocka_unit_test_setup_teardown(test, machine_make, machine_remove)
    const struct CMUnitTest tests[] = {
        ON_MACHINE(test_nothing_wrong),
        ON_MACHINE(test_without_guests),
        ON_MACHINE(test_sysctls),
        ON_MACHINE(test_threads),
        ON_MACHINE(test_places),
        ON_MACHINE(test_exports_of_the_machine),
        ON_MACHINE(test_guests),
        ON_MACHINE(test_executors),
        ON_MACHINE(test_executor_user),
        ON_MACHINE(test_fuse),
        ON_MACHINE(test_state_dir),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_list_as_another),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_export_lines),
        cmocka_unit_test(test_export_mistakes),
        cmocka_unit_test(test_fsid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
