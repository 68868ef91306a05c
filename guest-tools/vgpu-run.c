/*
 * vgpu-run: submits one job to the mounted vgpufs, shows how it gets on, and
 * ends with its result. vgpu-run(1).
 */
#include "job.h"
#include "progress.h"
#include "record.h"
#include "stub.h"
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_TIMED_OUT = 3,
    EXIT_NOT_SUBMITTED = 4,
    EXIT_INTERRUPTED = 130, /* 128 + SIGINT, as a shell says it */
};

enum {
    FIRST_POLL_MS = 5, /* many jobs take less than a tick */
    POLL_MIN_MS = 50,
    POLL_MAX_MS = 1000,
    OUTAGE_MAX_MS = 60 * 1000, /* a restart of the daemon takes less */
};

struct options {
    const char *mount;
    uint32_t vm_id;     /* 0: to be found */
    int64_t timeout_ms; /* -1: none */
    bool cancel, quiet;
    const char *tag; /* NULL: a random one */
};

struct run {
    const struct options *options;
    struct job job;
    struct progress progress;
    int64_t deadline_ms;     /* -1: none */
    int64_t outage_since_ms; /* -1: the mount answers */
};

static const char help_text[] =
    "usage: vgpu-run [option ...] COMMAND [key=value ...]\n"
    "Submits a job to vgpufs, waits for it and prints its output.\n"
    "\n"
    "  --mount=DIR         where vgpufs is mounted (" TOOL_DEFAULT_MOUNT ")\n"
    "  --vm=N              this VM's number (the only vm* that may be entered, or the stub's)\n"
    "  --timeout=SECONDS   stop waiting after so long; the job goes on\n"
    "  --cancel            with --timeout: cancel the job then\n"
    "  --tag=TAG           name the job, keep it afterwards; the same again gives the same job\n"
    "  --quiet             show no progress\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 timed out, 4 cannot submit, 130 interrupted.\n";

static volatile sig_atomic_t interrupted;

static void interrupt_note(int number)
{
    (void)number;
    interrupted = 1;
}

/* signals_catch: no SA_RESTART, so that a call that waits on the mount ends too. */
static void signals_catch(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = interrupt_note}, old;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        /* nohup(1) and a shell's `&` have the signal ignored, and mean it. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
    /* A reader of our output that goes away must not leave the job's directory behind. */
    signal(SIGPIPE, SIG_IGN);
}

/* option_set returns -1 to go on, else the exit status. */
static int option_set(struct options *options, int option, char **argv)
{
    switch (option) {
    case 'm':
        options->mount = optarg;
        return -1;
    case 'v':
        if (tool_is_vm_id(optarg, &options->vm_id))
            return -1;
        tool_error("--vm=%s: give a number from 1 to %u", optarg, TOOL_MAX_VM_ID);
        return EXIT_USAGE;
    case 't':
        if (tool_seconds(optarg, &options->timeout_ms) == 0)
            return -1;
        tool_error("--timeout=%s: give seconds, as 30 or 0.5", optarg);
        return EXIT_USAGE;
    case 'c':
        options->cancel = true;
        return -1;
    case 'T':
        options->tag = optarg;
        if (job_tag_is_valid(optarg))
            return -1;
        tool_error("--tag=%s: give a letter and up to 63 of A-Z a-z 0-9 . _ -, not 'all'", optarg);
        return EXIT_USAGE;
    case 'q':
        options->quiet = true;
        return -1;
    case 'h':
        fputs(help_text, stdout);
        return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
    case 'V':
        printf("vgpu-run %s\n", VGPUFS_VERSION);
        return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
    default:
        tool_bad_option(option, argv);
        return EXIT_USAGE;
    }
}

static int options_parse(struct options *options, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"mount", required_argument, NULL, 'm'},
        {"vm", required_argument, NULL, 'v'},
        {"timeout", required_argument, NULL, 't'},
        {"cancel", no_argument, NULL, 'c'},
        {"tag", required_argument, NULL, 'T'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0;
    /* "+": COMMAND ends the options. */
    while ((option = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
        int status = option_set(options, option, argv);
        if (status >= 0)
            return status;
    }
    if (options->cancel && options->timeout_ms < 0) {
        tool_error("--cancel says what happens after --timeout: give that too");
        return EXIT_USAGE;
    }
    if (optind == argc) {
        tool_error("no COMMAND: give one, as VECTOR_ADD n=8, or see --help");
        return EXIT_USAGE;
    }
    return -1;
}

/* vms_count counts the VMs' directories and those that this user may enter: 0, or -1 with errno. */
static int vms_count(const char *mount, unsigned *all, unsigned *open_count, uint32_t *open_id)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *directory = opendir(mount);
    if (!directory)
        return -1;
    *all = *open_count = 0;
    while (errno = 0, (entry = readdir(directory)) != NULL) {
        uint32_t vm_id;
        if (strncmp(entry->d_name, "vm", 2) != 0 || !tool_is_vm_id(entry->d_name + 2, &vm_id) ||
            tool_path(path, sizeof(path), "%s/%s", mount, entry->d_name) != 0)
            continue;
        (*all)++;
        if (access(path, R_OK | X_OK) == 0) {
            (*open_count)++;
            *open_id = vm_id;
        }
    }
    int error = errno;
    closedir(directory);
    errno = error;
    return error ? -1 : 0;
}

/* vm_find returns -1 and *vm_id, or the exit status. */
static int vm_find(const char *mount, uint32_t *vm_id)
{
    const struct stub_query query = {.sysfs = STUB_DEFAULT_SYSFS, .bar = -1};
    struct stub stub;
    char message[STUB_MESSAGE_SIZE];
    unsigned all, open_count;
    if (vms_count(mount, &all, &open_count, vm_id) != 0) {
        tool_error("cannot list %s: %s: mount vgpufs there or give its place with --mount", mount,
                   strerror(errno));
        return EXIT_NOT_SUBMITTED;
    }
    if (all == 0) {
        tool_error("no vm* in %s: mount vgpufs there or give its place with --mount", mount);
        return EXIT_NOT_SUBMITTED;
    }
    if (open_count == 1)
        return -1;
    if (stub_find(&query, &stub, message, sizeof(message)) == STUB_FOUND) {
        *vm_id = stub.vm_id;
        return -1;
    }
    tool_error("cannot tell which VM this is: %u of the %u vm* in %s may be entered, and %s: give "
               "--vm=N",
               open_count, all, mount, message);
    return EXIT_USAGE;
}

/* run_forget takes the job's directory away, which also cancels a job that goes on. */
static int run_forget(const struct run *run)
{
    int result, attempts = 3;
    do
        result = job_remove(&run->job);
    while (result != 0 && errno == EINTR && --attempts > 0);
    if (result == 0 || errno == ENOENT)
        return 0;
    tool_error("cannot remove %s: %s: do it later with: rmdir %s", run->job.directory,
               strerror(errno), run->job.directory);
    return -1;
}

static int run_interrupted(struct run *run)
{
    progress_clear(&run->progress);
    run_forget(run);
    return EXIT_INTERRUPTED;
}

static int run_timed_out(struct run *run)
{
    double seconds = (double)run->options->timeout_ms / 1000;
    progress_clear(&run->progress);
    if (!run->options->cancel)
        tool_error("the job did not end within %g s and goes on: fetch its result with: cat "
                   "%s/result",
                   seconds, run->job.directory);
    else if (run_forget(run) == 0)
        tool_error("the job did not end within %g s and was cancelled: give a longer --timeout",
                   seconds);
    return EXIT_TIMED_OUT;
}

static int run_rejected(struct run *run, const char *reason)
{
    progress_clear(&run->progress);
    tool_error("cannot submit: %s",
               *reason ? reason : "the command was rejected: see last_error in the VM's status");
    if (run->job.created)
        run_forget(run);
    return EXIT_NOT_SUBMITTED;
}

static int run_submit(struct run *run, const char *line)
{
    char message[JOB_MESSAGE_SIZE];
    if (job_submit(&run->job, line, message, sizeof(message)) == 0)
        return -1;
    if (interrupted)
        return run_interrupted(run);
    tool_error("%s", message);
    if (run->job.created)
        run_forget(run);
    return EXIT_NOT_SUBMITTED;
}

/* run_failed judges an error of the mount: -1 to try again, else the exit status. */
static int run_failed(struct run *run, const char *what, int error)
{
    int64_t now = tool_now_ms();
    if (error == EINTR)
        return -1;
    if (tool_is_outage(error)) {
        if (run->outage_since_ms < 0)
            run->outage_since_ms = now;
        if (now - run->outage_since_ms < OUTAGE_MAX_MS)
            return -1;
    }
    progress_clear(&run->progress);
    if (error == ENOENT)
        tool_error("job %s is gone: it was cancelled or removed, or the daemon lost it in a "
                   "restart: submit it again",
                   run->job.directory);
    else
        tool_error("cannot read %s of %s: %s: see the host's daemon, then: cat %s/result", what,
                   run->job.directory, strerror(error), run->job.directory);
    return EXIT_FAILED;
}

/* run_wait returns -1 when the job has ended, else the exit status. */
static int run_wait(struct run *run)
{
    struct job_status status;
    int64_t delay_ms = FIRST_POLL_MS;
    for (;;) {
        int64_t left_ms = run->deadline_ms < 0 ? delay_ms : run->deadline_ms - tool_now_ms();
        if (!interrupted)
            tool_sleep_ms(left_ms < delay_ms ? left_ms : delay_ms);
        if (interrupted)
            return run_interrupted(run);
        if (job_poll(&run->job, &status) == 0) {
            run->outage_since_ms = -1;
            if (status.phase == JOB_REJECTED)
                return run_rejected(run, status.error);
            if (status.phase == JOB_ENDED)
                return -1;
            progress_draw(&run->progress, &status);
        } else {
            int exit_status = run_failed(run, "status", errno);
            if (exit_status >= 0)
                return exit_status;
        }
        if (run->deadline_ms >= 0 && tool_now_ms() >= run->deadline_ms)
            return run_timed_out(run);
        delay_ms = delay_ms < POLL_MIN_MS ? POLL_MIN_MS : delay_ms * 2;
        if (delay_ms > POLL_MAX_MS)
            delay_ms = POLL_MAX_MS;
    }
}

static int output_failed(struct run *run, int error)
{
    /* A reader that left wants no more of it; a full disk is another matter. */
    if (error == EPIPE && !run->options->tag)
        run_forget(run);
    if (error == EPIPE)
        tool_error("standard output was closed by its reader: have it read to the end");
    else
        tool_error("cannot write to standard output: %s: fetch the result with: cat %s/result",
                   strerror(error), run->job.directory);
    return EXIT_FAILED;
}

/* run_print copies the job's output to standard output: -1, or the exit status. */
static int run_print(struct run *run, struct job_result *result)
{
    for (;;) {
        off_t before = result->offset;
        enum job_fetch outcome = job_fetch(&run->job, result, STDOUT_FILENO);
        int error = errno;
        if (interrupted)
            return run_interrupted(run);
        if (result->offset != before)
            run->outage_since_ms = -1;
        if (outcome == JOB_FETCHED)
            break;
        if (outcome == JOB_OUTPUT_FAILED)
            return output_failed(run, error);
        if (outcome == JOB_FETCH_CUT) {
            tool_error("the result of %s is cut short: see the host's daemon, then: cat %s/result",
                       run->job.directory, run->job.directory);
            return EXIT_FAILED;
        }
        int exit_status = run_failed(run, "result", error);
        if (exit_status >= 0)
            return exit_status;
        tool_sleep_ms(POLL_MIN_MS);
    }
    /* Over NFS a full disk shows only now. EBADF: there is no standard output, and no output. */
    if (close(STDOUT_FILENO) != 0 && errno != EBADF)
        return output_failed(run, errno);
    return -1;
}

/* run_judge tells what the result's header says: the exit status. */
static int run_judge(struct run *run, const struct job_result *result)
{
    static const struct {
        const char *status, *words;
    } failures[] = {
        {"failed", "failed"},
        {"cancelled", "was cancelled"},
        {"timeout", "ran into its time limit"},
    };
    char status[16] = "", error[600] = "", code[16] = "", cut[8];
    record_get(result->header, "status", status, sizeof(status));
    record_get(result->header, "error", error, sizeof(error));
    if (record_get(result->header, "truncated", cut, sizeof(cut)) && strcmp(cut, "yes") == 0)
        tool_error("the output was cut at the pool's max_result: have the job write a file");
    if (strcmp(status, "done") == 0)
        return EXIT_DONE;
    if (strcmp(status, "rejected") == 0)
        return run_rejected(run, error);
    const char *words = "ended with an unknown status";
    for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++)
        if (strcmp(status, failures[i].status) == 0)
            words = failures[i].words;
    bool has_code =
        record_get(result->header, "exit_code", code, sizeof(code)) && strcmp(code, "-") != 0;
    if (!has_code)
        code[0] = '\0';
    tool_error("job %s %s%s%s%s: %s", run->progress.name, words, has_code ? " (exit code " : "",
               code, has_code ? ")" : "", *error ? error : "no reason given");
    return EXIT_FAILED;
}

static int run_job(struct run *run, const char *line)
{
    struct job_result result = {.offset = 0};
    int status = run_submit(run, line);
    if (status >= 0)
        return status;
    if ((status = run_wait(run)) >= 0)
        return status;
    progress_clear(&run->progress);
    if ((status = run_print(run, &result)) >= 0)
        return status;
    status = run_judge(run, &result);
    /* A tag that the user chose is there to find the job again. */
    if (!run->options->tag && status != EXIT_NOT_SUBMITTED)
        run_forget(run);
    return status;
}

int main(int argc, char **argv)
{
    struct options options = {.mount = TOOL_DEFAULT_MOUNT, .timeout_ms = -1};
    struct run run = {.options = &options, .deadline_ms = -1, .outage_since_ms = -1};
    char line[JOB_LINE_SIZE], tag[JOB_TAG_SIZE], message[JOB_MESSAGE_SIZE];

    tool_init("vgpu-run");
    int status = options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (job_line_build(line, argc - optind, argv + optind, message, sizeof(message)) != 0) {
        tool_error("%s", message);
        return EXIT_USAGE;
    }
    if (options.vm_id == 0 && (status = vm_find(options.mount, &options.vm_id)) >= 0)
        return status;
    if (!options.tag && job_tag_make(tag) != 0) {
        tool_error("cannot make a random tag: %s: give one with --tag", strerror(errno));
        return EXIT_NOT_SUBMITTED;
    }
    const char *name = options.tag ? options.tag : tag;
    if (job_init(&run.job, options.mount, options.vm_id, name) != 0) {
        tool_error("--mount=%s: the path is too long: give a shorter one", options.mount);
        return EXIT_USAGE;
    }
    signals_catch();
    progress_init(&run.progress, name, options.quiet);
    if (options.timeout_ms >= 0)
        run.deadline_ms = tool_now_ms() + options.timeout_ms;
    return run_job(&run, line);
}
