/*
 * vgpu-run on plain files (plain_mount.c); the test plays the daemon. The path
 * of that build of vgpu-run is the argument.
 */
#include "program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGUMENTS 12
#define RUNNING       "newest job=7 tag=x state=running position=- age_ms=4 progress="
#define QUEUED        "newest job=7 tag=x state=queued position=2 age_ms=4 progress=-\n"
#define DONE          "newest job=7 tag=x state=done position=- age_ms=4 progress=-\n"
#define HEADER                                                                                     \
    " job=7 tag=x command=NOP pool=A priority=2 backend=cpu device=\"AMD \\\"EPYC\\\" status=no\"" \
    " wait_us=3 run_us=4"
#define NOBODY 65534

static const char *program_path;
static char *mount;
static char job[300]; /* of the job that is there, below `mount` */

static int setup(void **state)
{
    (void)state;
    mount = directory_make();
    file_puts(mount, "vm3/status", "vm 3 pool=A\nnewest -\n");
    file_puts(mount, "vm3/jobs/.keep", "");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    directory_remove(mount);
    return 0;
}

static void pause_ms(long ms)
{
    const struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&span, NULL);
}

/* begin starts vgpu-run --mount=... with `line` split at blanks and then `last`, if not NULL. */
static struct program begin(const char *line, const char *last, const struct program_setup *how)
{
    char words[1024], mount_option[300];
    const char *arguments[MAX_ARGUMENTS + 1] = {program_path, mount_option};
    int count = 2;
    snprintf(mount_option, sizeof(mount_option), "--mount=%s", mount);
    snprintf(words, sizeof(words), "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        assert_true(count < MAX_ARGUMENTS - 1);
        arguments[count++] = word;
    }
    arguments[count] = last;
    return program_start(arguments, how);
}

static struct program_end run(const char *line, const char *last, const char *fault)
{
    struct program_setup how = {.setting = fault};
    struct program program = begin(line, last, &how);
    return program_wait(&program);
}

/* job_find looks for a directory in vm3/jobs and keeps its name. */
static bool job_find(void)
{
    char path[300];
    struct dirent *entry;
    bool found = false;
    snprintf(path, sizeof(path), "%s/vm3/jobs", mount);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while ((entry = readdir(directory)) && !found)
        if (entry->d_name[0] != '.') {
            snprintf(job, sizeof(job), "vm3/jobs/%s", entry->d_name);
            found = true;
        }
    closedir(directory);
    return found;
}

/* job_await waits until a command was written and returns its bytes. */
static const char *job_await(void)
{
    static char line[8192];
    char name[400];
    for (int left = 10000; left > 0; left--) {
        if (job_find()) {
            snprintf(name, sizeof(name), "%s/command", job);
            if (file_get(mount, name, line, sizeof(line)) && strchr(line, '\n'))
                return line;
        }
        pause_ms(2);
    }
    fail_msg("no command was written within 20 s");
    return NULL;
}

static void job_put(const char *file, const void *content, size_t size)
{
    char name[400];
    snprintf(name, sizeof(name), "%s/%s", job, file);
    file_put(mount, name, content, size);
}

static void job_puts(const char *file, const char *content)
{
    job_put(file, content, strlen(content));
}

/* One line that begins with the program's name and holds the words. */
static void assert_error(const struct program_end *end, int status, const char *words)
{
    if (end->status != status || !strstr(end->error, words))
        fail_msg("exit %d, not %d with '%s': %s", end->status, status, words, end->error);
    assert_ptr_equal(strstr(end->error, "vgpu-run: "), end->error);
    assert_ptr_equal(strchr(end->error, '\n'), end->error + strlen(end->error) - 1);
}

static void prints_the_output_unchanged(void **state)
{
    (void)state;
    static const char result[] = "status=done" HEADER " bytes=12\na=1\n\0\xff\r\ntail";
    struct program program = begin("--vm=3 NOP n=1", NULL, NULL);
    assert_string_equal(job_await(), "NOP n=1\n");
    assert_ptr_equal(strstr(job, "vm3/jobs/run-"), job);
    assert_int_equal(strlen(job), strlen("vm3/jobs/run-0123456789abcdef"));
    job_puts("status", QUEUED);
    pause_ms(60);
    job_put("result", result, sizeof(result) - 1);
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    assert_string_equal(end.error, "");
    assert_int_equal(end.status, 0);
    assert_int_equal(end.out_size, 12);
    assert_memory_equal(end.out, "a=1\n\0\xff\r\ntail", 12);
    assert_false(job_find());
}

static void quotes_values(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"src=my file", "CONVERT src=\"my file\"\n"},
        {"src=a\"b", "CONVERT src=\"a\\\"b\"\n"},
        {"src=a\\b", "CONVERT src=\"a\\\\b\"\n"},
        {"src=a=b", "CONVERT src=a=b\n"},
        {"src=", "CONVERT src=\"\"\n"},
        {"--x=1", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct program program = begin("--vm=3 CONVERT", cases[i][0], NULL);
        if (!cases[i][1]) {
            struct program_end end = program_wait(&program);
            assert_error(&end, 2, "--x=1 is not key=value");
            continue;
        }
        assert_string_equal(job_await(), cases[i][1]);
        job_puts("result", "status=done bytes=0\n");
        job_puts("status", DONE);
        assert_int_equal(program_wait(&program).status, 0);
    }
}

static void tells_why_a_job_failed(void **state)
{
    (void)state;
    static const struct {
        const char *state, *header, *words;
    } cases[] = {
        {"failed", " exit_code=- error=\"no \\\"x\\\" \\x1B status=done\"",
         " failed: no \"x\" \\x1B status=done"},
        {"failed", " error=\"\033[2J\"", " failed: ?[2J"},
        {"failed", " exit_code=3", " failed (exit code 3): no reason given"},
        {"cancelled", " error=\"by ctl\"", " was cancelled: by ctl"},
        {"timeout", " error=\"60 s\"", " ran into its time limit: 60 s"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[512];
        struct program program = begin("--vm=3 NOP", NULL, NULL);
        job_await();
        snprintf(text, sizeof(text), "status=%s" HEADER " bytes=4%s\npart", cases[i].state,
                 cases[i].header);
        job_puts("result", text);
        snprintf(text, sizeof(text), "newest job=7 tag=x state=%s position=-\n", cases[i].state);
        job_puts("status", text);
        struct program_end end = program_wait(&program);
        assert_error(&end, 1, cases[i].words);
        assert_string_equal(end.out, "part");
        assert_false(job_find());
    }
}

static void stops_waiting_at_the_timeout(void **state)
{
    (void)state;
    char words[700];
    struct program_end end = run("--vm=3 --timeout=0.2 NOP", NULL, NULL);
    assert_true(job_find());
    snprintf(words, sizeof(words), "goes on: fetch its result with: cat %s/%s/result", mount, job);
    assert_error(&end, 3, words);
}

static void cancels_at_the_timeout(void **state)
{
    (void)state;
    struct program_end end = run("--vm=3 --timeout=0.2 --cancel NOP", NULL, NULL);
    assert_error(&end, 3, "was cancelled");
    assert_false(job_find());
}

static void a_tag_keeps_the_job(void **state)
{
    (void)state;
    struct program program = begin("--vm=3 --tag=fft.1-a NOP", NULL, NULL);
    job_await();
    assert_string_equal(job, "vm3/jobs/fft.1-a");
    job_puts("result", "status=done bytes=5\nfirst");
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    assert_int_equal(end.status, 0);
    assert_true(job_find());
    end = run("--vm=3 --tag=fft.1-a NOP", NULL, NULL);
    assert_int_equal(end.status, 0);
    assert_string_equal(end.out, "first");
    assert_true(job_find());
    end = run("--vm=3 --tag=fft.1-a SLEEP", NULL, "VGPU_TEST_FAULT=close/command 17 0 1");
    assert_error(&end, 4, "choose another --tag");
    assert_true(job_find());
}

static void a_signal_cancels(void **state)
{
    (void)state;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct program program = begin("--vm=3 NOP", NULL, NULL);
        job_await();
        job_puts("status", QUEUED);
        pause_ms(100);
        kill(program.pid, signals[i]);
        struct program_end end = program_wait(&program);
        assert_int_equal(end.status, 130);
        assert_string_equal(end.out, "");
        assert_false(job_find());
    }
}

static void tells_why_it_cannot_submit(void **state)
{
    (void)state;
    static const struct {
        const char *fault, *words;
    } cases[] = {
        {"VGPU_TEST_FAULT=mkdir 122 0 1", "too many jobs"},
        {"VGPU_TEST_FAULT=mkdir 13 0 1", "may not do that"},
        {"VGPU_TEST_FAULT=mkdir 30 0 1", "the host drains"},
        {"VGPU_TEST_FAULT=write/command 28 0 1", "queue or the host's disk is full"},
        {"VGPU_TEST_FAULT=close/command 22 0 1", "cannot submit (EINVAL): unknown command \"X\""},
        {"VGPU_TEST_FAULT=open/command 13 0 1", "may not do that"},
    };
    file_puts(
        mount, "vm3/status",
        "vm 3 pool=A\nnewest -\n"
        "last_error time=1 errno=EINVAL line=\"text=no\" text=\"unknown command \\\"X\\\"\"\n");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct program_end end = run("--vm=3 NOP", NULL, cases[i].fault);
        assert_error(&end, 4, cases[i].words);
        assert_false(job_find());
    }
    struct program_end end = run("--vm=4 NOP", NULL, NULL);
    assert_error(&end, 4, "check that the host has this VM");
    end = run("--mount=/nonexistent NOP", NULL, NULL);
    assert_error(&end, 4, "cannot list /nonexistent");
}

static void a_rejected_line_is_no_job(void **state)
{
    (void)state;
    struct program program = begin("--vm=3 NOP", NULL, NULL);
    job_await();
    job_puts("status", "newest state=rejected error=\"bad key\"\n");
    struct program_end end = program_wait(&program);
    assert_error(&end, 4, "cannot submit: bad key");
    assert_false(job_find());
}

static void survives_a_restart_of_the_daemon(void **state)
{
    (void)state;
    static const char *const faults[] = {
        "VGPU_TEST_FAULT=open/status 5 1 3",   "VGPU_TEST_FAULT=open/status 107 0 3",
        "VGPU_TEST_FAULT=open/status 116 0 3", "VGPU_TEST_FAULT=open/result 5 0 3",
        "VGPU_TEST_FAULT=read/result 5 0 2",   "VGPU_TEST_FAULT=read/result 5 2 2",
        "VGPU_TEST_FAULT=getrandom 38 0 1",
    };
    /* More than one read brings, so that the third fault hits in the middle of the output. */
    static char result[70000];
    const size_t header_size =
        (size_t)snprintf(result, sizeof(result), "status=done bytes=69900\n");
    for (size_t i = header_size; i < sizeof(result); i++)
        result[i] = (char)('a' + i % 26);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct program_setup how = {.setting = faults[i]};
        struct program program = begin("--vm=3 NOP", NULL, &how);
        job_await();
        job_put("result", result, header_size + 69900);
        job_puts("status", DONE);
        struct program_end end = program_wait(&program);
        assert_string_equal(end.error, "");
        assert_int_equal(end.status, 0);
        assert_int_equal(end.out_size, 69900);
        assert_memory_equal(end.out, result + header_size, end.out_size);
        assert_false(job_find());
    }
}

static void a_job_that_is_gone_ends_it(void **state)
{
    (void)state;
    char line[700];
    struct program program = begin("--vm=3 NOP", NULL, NULL);
    job_await();
    snprintf(line, sizeof(line), "rm -r %s/%s", mount, job);
    assert_int_equal(system(line), 0);
    struct program_end end = program_wait(&program);
    assert_error(&end, 1, "is gone");
}

static void takes_nothing_for_granted(void **state)
{
    (void)state;
    static char endless[20000];
    static const struct {
        const char *result;
        int status;
        const char *words;
    } cases[] = {
        {"", 1, "is cut short"},
        {"status=done bytes=3", 1, "is cut short"},
        {endless, 1, "is cut short"},
        {"status=done bytes=99999999999999999\nab", 1, "is cut short"},
        {"status=idle\n", 1, "unknown status"},
        {"error=\"x status=done y\" bytes=0\n", 1, "unknown status"},
        {"status=rejected error=\"no\"\n", 4, "cannot submit: no"},
    };
    memset(endless, 's', sizeof(endless) - 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct program program = begin("--vm=3 NOP", NULL, NULL);
        job_await();
        job_puts("result", cases[i].result);
        job_puts("status", endless);
        pause_ms(20);
        job_puts("status", DONE);
        struct program_end end = program_wait(&program);
        assert_error(&end, cases[i].status, cases[i].words);
        char line[400];
        snprintf(line, sizeof(line), "rm -rf %s/%s", mount, job);
        assert_int_equal(system(line), 0);
    }
}

static void keeps_the_job_if_the_output_is_lost(void **state)
{
    (void)state;
    struct program_setup how = {.out = open("/dev/full", O_WRONLY)};
    struct program program = begin("--vm=3 NOP", NULL, &how);
    job_await();
    job_puts("result", "status=done bytes=2\nok");
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    close(how.out);
    assert_error(&end, 1, "cannot write to standard output");
    assert_true(job_find());
}

static void a_reader_that_leaves_leaves_no_job(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct program_setup how = {.out = ends[1]};
    close(ends[0]);
    struct program program = begin("--vm=3 NOP", NULL, &how);
    job_await();
    job_puts("result", "status=done bytes=2\nok");
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    close(ends[1]);
    assert_error(&end, 1, "closed by its reader");
    assert_false(job_find());
}

static void warns_of_truncated_output(void **state)
{
    (void)state;
    struct program program = begin("--vm=3 NOP", NULL, NULL);
    job_await();
    job_puts("result", "status=done bytes=2 truncated=yes\nok");
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    assert_error(&end, 0, "max_result");
    assert_string_equal(end.out, "ok");
}

static void checks_its_arguments(void **state)
{
    (void)state;
    static char long_value[5000];
    static const struct {
        const char *line, *last, *words;
    } cases[] = {
        {"", NULL, "no COMMAND"},
        {"--vm=0", "NOP", "--vm=0"},
        {"--vm=65536", "NOP", "--vm=65536"},
        {"--vm=03", "NOP", "--vm=03"},
        {"--vm=3 --timeout=-1", "NOP", "--timeout=-1"},
        {"--vm=3 --cancel", "NOP", "--cancel says what happens after --timeout"},
        {"--vm=3 --tag=all", "NOP", "--tag=all"},
        {"--vm=3 --tag=7", "NOP", "--tag=7"},
        {"--vm=3 --tag=a/b", "NOP", "--tag=a/b"},
        {"--vm=3 --nonsense", "NOP", "--nonsense is not known"},
        {"--vm=3", "TWO WORDS", "is no COMMAND"},
        {"--vm=3", "#NOP", "is no COMMAND"},
        {"--vm=3", "", "an empty word is no COMMAND"},
        {"--vm=3 NOP", "word", "word is not key=value"},
        {"--vm=3 NOP", "N=8", "N=8 is not key=value"},
        {"--vm=3 NOP", "tag=x", "use --tag"},
        {"--vm=3 NOP", "src=a\nNOP", "control character"},
        {"--vm=3 NOP", "src=\177", "control character"},
        {"--vm=3 NOP", long_value, "longer than 4095 bytes"},
    };
    memset(long_value, 'x', 4096 - strlen("NOP "));
    memcpy(long_value, "src=", 4);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct program_end end = run(cases[i].line, cases[i].last, NULL);
        assert_error(&end, 2, cases[i].words);
        assert_false(job_find());
    }
    long_value[4095 - strlen("NOP ")] = '\0';
    struct program program = begin("--vm=3 NOP", long_value, NULL);
    assert_int_equal(strlen(job_await()), 4095 + 1);
    kill(program.pid, SIGTERM);
    assert_int_equal(program_wait(&program).status, 130);
    struct program_end end = run("--help", NULL, NULL);
    assert_int_equal(end.status, 0);
    assert_non_null(strstr(end.out, "--timeout=SECONDS"));
    end = run("--version", NULL, NULL);
    assert_string_equal(end.out, "vgpu-run " VGPUFS_VERSION "\n");
}

static void finds_the_vm(void **state)
{
    (void)state;
    char path[300];
    struct program_setup how = {.uid = getuid() == 0 ? NOBODY : 0};
    struct program program = begin("NOP", NULL, NULL);
    assert_string_equal(job_await(), "NOP\n");
    kill(program.pid, SIGTERM);
    assert_int_equal(program_wait(&program).status, 130);

    /* vm4 is another VM's; vmx and vm03 are none. */
    file_puts(mount, "vm4/status", "");
    file_puts(mount, "vmx/status", "");
    file_puts(mount, "vm03/status", "");
    struct program_end end = run("NOP", NULL, NULL);
    assert_error(&end, 2, "2 of the 2 vm*");
    snprintf(path, sizeof(path), "%s/vm4", mount);
    assert_int_equal(chmod(path, getuid() == 0 ? 0700 : 0), 0);
    snprintf(path, sizeof(path), "%s/vm3/jobs", mount);
    assert_int_equal(chmod(path, 0777), 0);
    program = begin("NOP", NULL, &how);
    assert_string_equal(job_await(), "NOP\n");
    kill(program.pid, SIGTERM);
    assert_int_equal(program_wait(&program).status, 130);
    snprintf(path, sizeof(path), "%s/vm3", mount);
    assert_int_equal(chmod(path, getuid() == 0 ? 0700 : 0), 0);
    program = begin("NOP", NULL, &how);
    end = program_wait(&program);
    assert_int_equal(chmod(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/vm4", mount);
    assert_int_equal(chmod(path, 0700), 0);
    assert_error(&end, 2, "0 of the 2 vm*");
}

/* terminal_await reads what is drawn until `wanted` was, after all that was read before. */
static void terminal_await(int terminal, char *text, size_t size, const char *wanted)
{
    size_t length = strlen(text);
    while (!strstr(text, wanted)) {
        struct pollfd ready = {.fd = terminal, .events = POLLIN};
        assert_int_equal(poll(&ready, 1, 60000), 1);
        assert_true(length + 1 < size);
        ssize_t count = read(terminal, text + length, size - length - 1);
        assert_true(count > 0);
        length += (size_t)count;
        text[length] = '\0';
    }
}

static void draws_on_a_terminal(void **state)
{
    (void)state;
    static char text[65536];
    text[0] = '\0';
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal), 0);
    assert_int_equal(unlockpt(terminal), 0);
    int other = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(other >= 0);
    const struct winsize size = {.ws_col = 60, .ws_row = 24};
    assert_int_equal(ioctl(other, TIOCSWINSZ, &size), 0);
    struct program_setup how = {.error = other, .setting = "TERM=xterm"};
    struct program program = begin("--vm=3 --tag=drawn NOP", NULL, &how);
    job_await();
    job_puts("status", QUEUED);
    terminal_await(terminal, text, sizeof(text), "\r\033[Kdrawn: queued, position 2, 0:0");
    file_puts(mount, "vm3/status", "vm 3 pool=A held=yes crashes=5\nnewest -\n");
    terminal_await(terminal, text, sizeof(text),
                   "\r\033[Kdrawn: queued, position 2, the VM is held, 0:0");
    file_puts(mount, "vm3/status", "vm 3 pool=A held=no crashes=5\nnewest job=9 held=yes\n");
    text[0] = '\0';
    terminal_await(terminal, text, sizeof(text), "\r\033[Kdrawn: queued, position 2, 0:");
    job_puts("status", RUNNING "0.5\n");
    terminal_await(terminal, text, sizeof(text),
                   "\r\033[Kdrawn: running [##########----------]  50%, 0:0");
    job_puts("result", "status=done bytes=2\nok");
    job_puts("status", DONE);
    struct program_end end = program_wait(&program);
    assert_int_equal(end.status, 0);
    size_t length = strlen(text);
    ssize_t count = read(terminal, text + length, sizeof(text) - length - 1);
    assert_true(count >= 4);
    close(other);
    close(terminal);
    text[length + (size_t)count] = '\0';
    assert_string_equal(text + length + (size_t)count - 4, "\r\033[K");
    assert_null(strchr(text, '\n'));
}

int main(int argc, char **argv)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(prints_the_output_unchanged),
        CASE(quotes_values),
        CASE(tells_why_a_job_failed),
        CASE(stops_waiting_at_the_timeout),
        CASE(cancels_at_the_timeout),
        CASE(a_tag_keeps_the_job),
        CASE(a_signal_cancels),
        CASE(tells_why_it_cannot_submit),
        CASE(a_rejected_line_is_no_job),
        CASE(survives_a_restart_of_the_daemon),
        CASE(a_job_that_is_gone_ends_it),
        CASE(takes_nothing_for_granted),
        CASE(keeps_the_job_if_the_output_is_lost),
        CASE(a_reader_that_leaves_leaves_no_job),
        CASE(warns_of_truncated_output),
        CASE(checks_its_arguments),
        CASE(finds_the_vm),
        CASE(draws_on_a_terminal),
    };
    if (argc != 2) {
        fprintf(stderr, "test-run: no program: give the path of vgpu-run-plain\n");
        return 2;
    }
    program_path = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
