/* vgpuctl, run as a program against a made-up mount of plain files. */
#include "ctl/register.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define OUTPUT_SIZE 65536
#define MAX_WORDS   8
#define UID_NOBODY  65534

static const char stats[] =
    "version 1\n"
    "vgpufs state=running uptime_s=86 submitted=9 done=7 failed=1\n"
    "pool A state=running order=fifo queued=2 running=1 done=5 failed=1 device_us=2210\n"
    "pool Big state=running order=fifo queued=0 running=0 done=0 failed=0 device_us=0\n"
    "slot A.0 state=busy backend=cpu device=\"AMD EPYC\" host=localhost pid=4711\n"
    "vm 3 pool=A priority=2 queued=1 running=1 done=4 failed=0 data_bytes=0\n";
static const char stats_json[] = "{\"version\":1, \"vms\":[]}\n";
static const char queue[] = "A 2 vm3 17 fft1 running 12ms VECTOR_ADD\n";
static const char config[] = "[vgpufs]\nvms = 1-3\n"
                             "[pool A]\n[pool B]\n[pool Big]\n"
                             "[vm 1]\npool = B\npriority = 2\n"
                             "[vm 2]\npools = B\nmax_priority = 0\n"
                             "[vm 4]\npool = Big\n"
                             "[vm 300]\npool = A\n";

/* Each test runs in a directory of its own; its mount is "mnt". */
struct fixture {
    char directory[64];
    char out[OUTPUT_SIZE], err[OUTPUT_SIZE]; /* of the last run */
};

static void file_write(const char *path, const char *content)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static size_t file_read(const char *path, char *bytes, size_t size)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t length = fread(bytes, 1, size - 1, file);
    bytes[length] = '\0';
    fclose(file);
    return length;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    strcpy(fixture->directory, "/tmp/test-vgpuctl.XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    assert_int_equal(chmod(fixture->directory, 0777), 0);
    assert_int_equal(chdir(fixture->directory), 0);
    assert_int_equal(mkdir("mnt", 0755), 0);
    file_write("mnt/stats", stats);
    file_write("mnt/stats.json", stats_json);
    file_write("mnt/queue", queue);
    file_write("mnt/ctl", "");
    file_write("conf", config);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    static const char *const files[] = {"mnt/stats", "mnt/stats.json", "mnt/queue", "mnt/ctl",
                                        "conf",      "page",           "out",       "err"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        unlink(files[i]);
    rmdir("mnt");
    int result = chdir("/") || rmdir(fixture->directory); /* fails if something was left behind */
    free(fixture);
    return result;
}

/* execute never returns: exit code 127 means that the program could not be started. */
static void execute(const char *line, uid_t uid)
{
    char name[] = "vgpuctl", copy[256], *words[MAX_WORDS + 2] = {name};
    snprintf(copy, sizeof(copy), "%s", line);
    char *word = strtok(copy, " ");
    for (int count = 1; word && count <= MAX_WORDS; count++, word = strtok(NULL, " "))
        words[count] = word;
    setenv("LC_ALL", "C", 1);
    setenv("TERM", "xterm", 1);
    /* That user may not be able to reach the build directory. */
    int program = open(VGPUCTL_EXE, O_RDONLY | O_CLOEXEC);
    if (program >= 0 && (uid == getuid() || setresuid(uid, uid, uid) == 0))
        fexecve(program, words, environ);
    _exit(127);
}

static int exit_code(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* run_as runs "vgpuctl LINE" with no terminal, and returns its exit code. */
static int run_as(struct fixture *fixture, uid_t uid, const char *line)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_RDONLY);
        int out = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int err = open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
            _exit(127);
        execute(line, uid);
    }
    int code = exit_code(child);
    file_read("out", fixture->out, sizeof(fixture->out));
    file_read("err", fixture->err, sizeof(fixture->err));
    return code;
}

static int run(struct fixture *fixture, const char *line)
{
    return run_as(fixture, getuid(), line);
}

/* run_on_terminal types `input` once something has been printed, and keeps what is printed. */
static int run_on_terminal(struct fixture *fixture, const char *line, const char *input)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    int terminal;
    pid_t child = forkpty(&terminal, NULL, NULL, &size);
    assert_true(child >= 0);
    if (child == 0)
        execute(line, getuid());
    size_t length = 0;
    bool typed = !*input;
    struct pollfd ready = {.fd = terminal, .events = POLLIN};
    while (length < sizeof(fixture->out) - 1 && poll(&ready, 1, 20000) > 0) {
        ssize_t more = read(terminal, fixture->out + length, sizeof(fixture->out) - 1 - length);
        if (more <= 0)
            break; /* EIO: the program has ended */
        length += (size_t)more;
        if (!typed)
            assert_int_equal(write(terminal, input, strlen(input)), strlen(input));
        typed = true;
    }
    fixture->out[length] = '\0';
    close(terminal);
    return exit_code(child);
}

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" is not in \"%s\"", part, text);
}

/* One line, that begins with the program's name. */
static void assert_error(const struct fixture *fixture, const char *part)
{
    assert_int_equal(strncmp(fixture->err, "vgpuctl: ", 9), 0);
    assert_ptr_equal(strchr(fixture->err, '\n'), fixture->err + strlen(fixture->err) - 1);
    assert_contains(fixture->err, part);
}

static void assert_ctl(const char *content)
{
    char bytes[256];
    file_read("mnt/ctl", bytes, sizeof(bytes));
    assert_string_equal(bytes, content);
    file_write("mnt/ctl", "");
}

static void test_help_and_version(void **state)
{
    struct fixture *fixture = *state;
    static const char *const commands[] = {"status",
                                           "top",
                                           "queue",
                                           "hold",
                                           "release",
                                           "drain",
                                           "resume",
                                           "cancel",
                                           "priority",
                                           "purge",
                                           "register-page FILE vm N"};
    assert_int_equal(run(fixture, "--help"), 0);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        assert_contains(fixture->out, commands[i]);
    assert_int_equal(run(fixture, "--version"), 0);
    assert_string_equal(fixture->out, "vgpuctl " VGPUFS_VERSION "\n");
}

static void test_usage_errors(void **state)
{
    struct fixture *fixture = *state;
    static const char *const lines[] = {
        "",
        "--bogus status",
        "--mount",
        "nonsense",
        "--mount=mnt hold",
        "--mount=mnt hold A B",
        "--mount=mnt hold 65536",
        "--mount=mnt drain now",
        "--mount=mnt cancel vm3",
        "--mount=mnt cancel x3 17",
        "--mount=mnt cancel vm65536 17",
        "--mount=mnt priority vm3 17 3",
        "--mount=mnt priority vm3 17 high",
        "--mount=mnt purge all",
        "--mount=mnt status --yes",
        "--mount=mnt top --delay=0",
        "register-page page",
        "register-page page pool 3",
        "register-page page vm x",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(run(fixture, lines[i]), 2);
        assert_error(fixture, "");
        assert_string_equal(fixture->out, "");
        assert_ctl("");
    }
}

static void test_status(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(run(fixture, "--mount=mnt status"), 0);
    assert_contains(fixture->out, "vgpufs running for 1m26s; 9 submitted, 7 done, 1 failed\n");
    assert_contains(fixture->out, "\nA.0   busy   cpu      AMD EPYC  localhost  4711\n");
    assert_int_equal(run(fixture, "--mount=mnt status --json"), 0);
    assert_string_equal(fixture->out, stats_json);
}

static void test_queue(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(run(fixture, "-m mnt queue"), 0);
    assert_string_equal(fixture->out, queue);
    assert_int_equal(run_on_terminal(fixture, "-m mnt queue", ""), 0);
    assert_contains(fixture->out, "TAG              STATE");
    assert_contains(fixture->out, "fft1             running        12ms VECTOR_ADD\r\n");
}

static void test_top(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(run(fixture, "-m mnt top"), 0);
    assert_contains(fixture->out, "\nPOOL  STATE");
    assert_contains(fixture->out, "VECTOR_ADD\n");
    assert_int_equal(run_on_terminal(fixture, "-m mnt top -d 0.5", "q"), 0);
    assert_contains(fixture->out, "POOL  STATE");
}

static void test_no_mount(void **state)
{
    struct fixture *fixture = *state;
    static const char *const commands[] = {"status", "top", "queue", "drain", "status --json"};
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        char line[64];
        snprintf(line, sizeof(line), "--mount=nowhere %s", commands[i]);
        assert_int_equal(run(fixture, line), 1);
        assert_error(fixture, "no vgpufs is mounted there; start vgpufs or name its mountpoint");
    }
    file_write("mnt/stats", "something else\n");
    assert_int_equal(run(fixture, "--mount=mnt status"), 1);
    assert_error(fixture, "not the statistics of a vgpufs");
    file_write("mnt/stats", "vgpufs state=\"run\n");
    assert_int_equal(run(fixture, "--mount=mnt status"), 1);
    assert_error(fixture, "mnt/stats, line 1: Invalid argument");
}

static void test_requests(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *line, *written;
    } cases[] = {
        {"hold A", "hold A\n"},
        {"hold vm3", "hold vm3\n"},
        {"release Big", "release Big\n"},
        {"release 3", "release vm3\n"},
        {"drain", "drain\n"},
        {"resume", "resume\n"},
        {"cancel vm3 17", "cancel vm3 17\n"},
        {"cancel 3 all", "cancel vm3 all\n"},
        {"priority vm3 fft1 2", "priority vm3 fft1 2\n"},
        {"purge vm3", "purge vm3\n"},
        {"purge --yes 3", "purge vm3\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[64];
        snprintf(line, sizeof(line), "-m mnt %s", cases[i].line);
        assert_int_equal(run(fixture, line), 0);
        assert_string_equal(fixture->out, "");
        assert_string_equal(fixture->err, "");
        assert_ctl(cases[i].written);
    }
}

/* A word cannot bring a second line or further words. */
static void test_request_words(void **state)
{
    struct fixture *fixture = *state;
    static const char *const lines[] = {"-m mnt hold A\npurge\tvm3", "-m mnt cancel vm3 1\n",
                                        "-m mnt hold \x01"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(run(fixture, lines[i]), 2);
        assert_error(fixture, "is not ");
        assert_ctl("");
    }
}

/* Files of /proc that refuse a word as the daemon would. */
static void test_request_errors(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(unlink("mnt/ctl"), 0);
    assert_int_equal(symlink("/proc/self/oom_score_adj", "mnt/ctl"), 0);
    assert_int_equal(run(fixture, "-m mnt hold C"), 1);
    assert_error(fixture, "hold C: Invalid argument: ");
    assert_error(fixture, "pools: A Big;");
    assert_int_equal(run(fixture, "-m mnt cancel vm3 17"), 1);
    assert_error(fixture, "vgpuctl queue");
    assert_int_equal(unlink("mnt/ctl"), 0);
    assert_int_equal(symlink("/dev/full", "mnt/ctl"), 0);
    assert_int_equal(run(fixture, "-m mnt drain"), 1);
    assert_error(fixture, "drain: No space left on device: ");
}

static void test_not_root(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(chmod("mnt/ctl", 0), 0);
    int code = run_as(fixture, getuid() == 0 ? UID_NOBODY : getuid(), "-m mnt drain");
    assert_int_equal(chmod("mnt/ctl", 0600), 0);
    assert_int_equal(code, 1);
    assert_error(fixture, "mnt/ctl: Permission denied: run vgpuctl as root");
}

static void test_purge_asks(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(run_on_terminal(fixture, "-m mnt purge 3", "n\n"), 1);
    assert_contains(fixture->out, "identity of vm3? [y/N]");
    assert_contains(fixture->out, "nothing was deleted");
    assert_ctl("");
    assert_int_equal(run_on_terminal(fixture, "-m mnt purge 3", "\n"), 1);
    assert_ctl("");
    assert_int_equal(run_on_terminal(fixture, "-m mnt purge 3", "y\n"), 0);
    assert_ctl("purge vm3\n");
    assert_int_equal(run_on_terminal(fixture, "-m mnt purge 3 -y", ""), 0);
    assert_string_equal(fixture->out, "");
    assert_ctl("purge vm3\n");
}

/* page_check: the page is as interface says, and nothing else is in it. */
static void page_check(char pool, unsigned priority, unsigned id)
{
    char page[REGISTER_PAGE_SIZE + 2];
    char expected[REGISTER_PAGE_SIZE] = {0};
    expected[0x008] = pool;
    expected[0x00C] = (char)priority;
    expected[0x010] = (char)(id & 0xff);
    expected[0x011] = (char)(id >> 8);
    assert_int_equal(file_read("page", page, sizeof(page)), REGISTER_PAGE_SIZE);
    assert_memory_equal(page, expected, REGISTER_PAGE_SIZE);
}

static void test_register_page(void **state)
{
    struct fixture *fixture = *state;
    struct stat before, after;
    file_write("page", "older");
    assert_int_equal(chmod("page", 0644), 0);
    assert_int_equal(stat("page", &before), 0);
    assert_int_equal(run(fixture, "-c conf register-page page vm 1"), 0);
    assert_string_equal(fixture->err, "");
    page_check('B', 2, 1);
    assert_int_equal(stat("page", &after), 0);
    assert_int_equal(after.st_mode & 07777, 0600);
    assert_int_not_equal(before.st_ino, after.st_ino);
    assert_int_equal(run(fixture, "-c conf register-page page vm2"), 0);
    page_check('B', 0, 2);
    assert_int_equal(run(fixture, "-c conf register-page page vm 3"), 0);
    page_check('A', 1, 3);
    assert_int_equal(run(fixture, "-c conf register-page page vm 300"), 0);
    page_check('A', 1, 300);
}

static void test_register_page_errors(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"-c conf register-page page vm 5", "there is no VM 5"},
        {"-c conf register-page page vm 4",
         "pool Big of vm 4: the register holds one capital letter"},
        {"-c nowhere register-page page vm 1", "nowhere"},
        {"-c conf register-page none/page vm 1", "none/page: "},
        {"-c conf register-page /dev/null vm 1", "/dev/null: not a plain file"},
        {"-c conf register-page mnt vm 1", "mnt: not a plain file"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(run(fixture, cases[i].line), 1);
        assert_error(fixture, cases[i].error);
        assert_int_equal(access("page", F_OK), -1);
    }
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_help_and_version),
        TEST(test_usage_errors),
        TEST(test_status),
        TEST(test_queue),
        TEST(test_top),
        TEST(test_no_mount),
        TEST(test_requests),
        TEST(test_request_words),
        TEST(test_request_errors),
        TEST(test_not_root),
        TEST(test_purge_asks),
        TEST(test_register_page),
        TEST(test_register_page_errors),
    };
    return cmocka_run_group_tests_name("vgpuctl", tests, NULL, NULL);
}
