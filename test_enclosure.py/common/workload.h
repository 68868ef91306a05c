/*
 * What a workload declares about itself: the one table from which the daemon
 * checks commands, the executor checks jobs, and --list and the man page are
 * printed.
 */
#ifndef VGPUFS_COMMON_WORKLOAD_H
#define VGPUFS_COMMON_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum param_type {
    PARAM_UINT,     /* decimal, min..max */
    PARAM_REAL,     /* decimal floating point, real_min..real_max */
    PARAM_CHOICE,   /* one of `choices`, separated by '|' */
    PARAM_FILE_IN,  /* plain name of an existing file in the VM's data/ */
    PARAM_FILE_OUT, /* plain name of the file that the job makes in data/ */
};

struct workload_param {
    const char *name;
    enum param_type type;
    uint64_t min, max;
    double real_min, real_max;
    const char *choices;
    const char *default_value; /* NULL: the parameter may be left out and has no value then */
    const char *help;
};

struct workload_info {
    const char *name; /* upper-case word: [A-Z][A-Z0-9_]* */
    const char *summary;
    const struct workload_param *params;
    size_t param_count;
};

/* A job has at most this many key=value pairs, keys of every command included. */
#define WORKLOAD_MAX_PARAMS 32
/* A plain file name has at most this many bytes. */
#define WORKLOAD_MAX_FILE_NAME 255

/* workload_find_param returns the parameter of that name, or NULL. */
const struct workload_param *workload_find_param(const struct workload_info *info,
                                                 const char *name);

/*
 * workload_param_check returns 0 if `value` is one that `param` allows. Else -1,
 * and `error` (of `size` bytes) says in words what is allowed.
 */
int workload_param_check(const struct workload_param *param, const char *value, char *error,
                         size_t size);

/*
 * workload_name_is_plain: 1 to WORKLOAD_MAX_FILE_NAME bytes, no '/', neither "."
 * nor "..". What such a name means is decided by the daemon's table alone.
 */
bool workload_name_is_plain(const char *name);

#endif
