/*
 * Runs a program as a test's child and keeps what it printed; makes and reads
 * small files below a temporary directory. Every failure fails the test.
 * Not thread-safe.
 */
#ifndef VGPUFS_TEST_PROGRAM_H
#define VGPUFS_TEST_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct program {
    pid_t pid;
    int out, error; /* unlinked files */
};

struct program_setup {
    uid_t uid;           /* not 0: run as that user; needs root */
    int out, error;      /* descriptors to use in place of the kept ones; 0: keep */
    const char *setting; /* NAME=value for its environment, or NULL */
};

struct program_end {
    int status; /* the exit status, or 128 + the signal */
    char out[131072], error[8192];
    size_t out_size;
};

/* `arguments` ends with NULL; arguments[0] is the path. `setup` may be NULL. */
struct program program_start(const char *const *arguments, const struct program_setup *setup);
/* program_wait ends the program if it takes more than 30 s. */
struct program_end program_wait(struct program *program);
struct program_end program_run(const char *const *arguments);

/* A new directory, to be removed with directory_remove; the path is valid until then. */
char *directory_make(void);
void directory_remove(char *directory);
/* file_put gives DIRECTORY/NAME that content at once; folders on the way are made. */
void file_put(const char *directory, const char *name, const void *content, size_t size);
void file_puts(const char *directory, const char *name, const char *content);
/* file_get returns false if there is no such file. */
bool file_get(const char *directory, const char *name, char *content, size_t size);
bool file_exists(const char *directory, const char *name);

#endif
