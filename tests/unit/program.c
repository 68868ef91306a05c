#include "program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_S = 30, PATH_SIZE = 4096 };

static int kept_file(void)
{
    char path[] = "/tmp/vgpufs-test-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    unlink(path);
    return file;
}

/* child_exec never returns. The file is opened before the user changes: it may be in root's home.
 */
static void child_exec(const char *const *arguments, const struct program_setup *setup, int out,
                       int error)
{
    static char *no_environment[] = {NULL};
    signal(SIGHUP, SIG_DFL); /* whoever runs the tests under nohup(1) ignores it, and so would it */
    int file = open(arguments[0], O_RDONLY | O_CLOEXEC);
    if (file < 0 || dup2(setup->out ? setup->out : out, STDOUT_FILENO) < 0 ||
        dup2(setup->error ? setup->error : error, STDERR_FILENO) < 0)
        _exit(126);
    if (setup->setting && putenv(strdup(setup->setting)) != 0)
        _exit(126);
    if (setup->uid &&
        (setgroups(0, NULL) != 0 || setgid(setup->uid) != 0 || setuid(setup->uid) != 0))
        _exit(126);
    /* exec takes `char *const *` for historical reasons and changes nothing. */
    union {
        const char *const *in;
        char *const *out;
    } cast = {.in = arguments};
    fexecve(file, cast.out, environ ? environ : no_environment);
    _exit(127);
}

struct program program_start(const char *const *arguments, const struct program_setup *setup)
{
    static const struct program_setup none = {.setting = NULL};
    struct program program = {.out = kept_file(), .error = kept_file()};
    fflush(NULL);
    program.pid = fork();
    assert_true(program.pid >= 0);
    if (program.pid == 0)
        child_exec(arguments, setup ? setup : &none, program.out, program.error);
    return program;
}

static size_t kept_content(int file, char *content, size_t size)
{
    ssize_t count = pread(file, content, size - 1, 0);
    assert_true(count >= 0);
    content[count] = '\0';
    close(file);
    return (size_t)count;
}

struct program_end program_wait(struct program *program)
{
    struct program_end end;
    const struct timespec tick = {.tv_nsec = 2000000};
    int status = 0, left = LIMIT_S * 500;
    pid_t pid;
    while ((pid = waitpid(program->pid, &status, WNOHANG)) == 0) {
        if (--left == 0)
            kill(program->pid, SIGKILL);
        nanosleep(&tick, NULL);
    }
    assert_int_equal(pid, program->pid);
    end.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    end.out_size = kept_content(program->out, end.out, sizeof(end.out));
    kept_content(program->error, end.error, sizeof(end.error));
    return end;
}

struct program_end program_run(const char *const *arguments)
{
    struct program program = program_start(arguments, NULL);
    return program_wait(&program);
}

char *directory_make(void)
{
    char *directory = strdup("/tmp/vgpufs-test-XXXXXX");
    assert_non_null(directory);
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chmod(directory, 0755), 0);
    return directory;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    (void)status;
    (void)type;
    (void)ftw;
    return remove(path);
}

void directory_remove(char *directory)
{
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(directory);
}

static void path_make(char path[PATH_SIZE], const char *directory, const char *name)
{
    int length = snprintf(path, PATH_SIZE, "%s/%s", directory, name);
    assert_in_range(length, 1, PATH_SIZE - 1);
}

void file_put(const char *directory, const char *name, const void *content, size_t size)
{
    char path[PATH_SIZE], temporary[PATH_SIZE];
    path_make(path, directory, name);
    for (char *slash = path + strlen(directory) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    path_make(temporary, directory, ".new");
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(file >= 0);
    assert_int_equal(write(file, content, size), size);
    assert_int_equal(close(file), 0);
    assert_int_equal(rename(temporary, path), 0);
}

void file_puts(const char *directory, const char *name, const char *content)
{
    file_put(directory, name, content, strlen(content));
}

bool file_get(const char *directory, const char *name, char *content, size_t size)
{
    char path[PATH_SIZE];
    path_make(path, directory, name);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return false;
    ssize_t count = read(file, content, size - 1);
    close(file);
    content[count > 0 ? count : 0] = '\0';
    return count >= 0;
}

bool file_exists(const char *directory, const char *name)
{
    char path[PATH_SIZE];
    struct stat status;
    path_make(path, directory, name);
    return lstat(path, &status) == 0;
}
