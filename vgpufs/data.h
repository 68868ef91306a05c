/*
 * A VM's data/ files. The bytes lie as <state_dir>/data/<vm>/<file number>; the
 * names, the sizes, the times and the quota are this table's. So no name that a
 * guest chose ever reaches the host's file system, and a rename is one row.
 *
 * Thread-safe: `lock` guards a VM's table. Under it only the state's lock is
 * taken, and no disk is waited for but to make an empty backing file.
 *
 * Functions return 0 or a positive errno unless they say otherwise.
 */
#ifndef VGPUFS_DATA_H
#define VGPUFS_DATA_H

#include "common/text.h"
#include "state.h"
#include "table.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* More than any of these is EDQUOT. */
struct data_limits {
    uint64_t quota_bytes;
    uint64_t max_files; /* with or without a name: names are kept in memory */
    uint64_t max_open;  /* by the guest: each is a descriptor of the daemon, which all VMs share */
};

struct data {
    pthread_mutex_t lock;
    struct state *state;
    unsigned vm;
    uint64_t open_files;               /* of the guest; at most limits.max_open */
    int directory;                     /* data/<vm>; -1 until the first file */
    uint64_t next_file, reserved_file; /* numbers from next_file up to reserved_file are ours */
    struct table by_name, by_number;
    uint64_t used_bytes;
    struct data_limits limits;
    struct timespec changed;   /* of the directory */
    bool known;                /* all that is in the state is in the tables */
    struct data_file *adopted; /* files without a name that data_sweep lets go */
};

/* A file. It lives while it has a name or somebody holds a reference. */
struct data_file {
    struct data *data;
    struct table_entry by_name, by_number;
    uint64_t number;
    unsigned references; /* data->lock guards this and all below */
    bool named;
    bool replaced; /* it lost its name to another file */
    bool kept;     /* the bytes stay, for the next daemon: somebody has it open */
    uint64_t size;
    struct timespec atime, mtime, ctime;
    char *name; /* the last one, when it has none any more */
    struct data_file *next_adopted;
};

/* data_init reads the VM's files from the state. `next_file` as the state had it. */
void data_init(struct data *data, struct state *state, unsigned vm, uint64_t next_file,
               const struct data_limits *limits);
/* data_sweep removes bytes that no name leads to, and nobody has open: once, when it is known what
 * is. Outputs and unlinked files of a dead daemon. */
void data_sweep(struct data *data);
/* data_keep: the file is open, and the next daemon goes on with it, whether it has a name or not.
 * data_adopt is that daemon's end: it finds a file without a name again, before data_sweep. */
void data_keep(struct data_file *file);
void data_adopt(struct data *data, uint64_t number);
void data_finish(struct data *data);
void data_set_limits(struct data *data, const struct data_limits *limits);

/* data_find and data_get return a reference, or NULL. */
struct data_file *data_find(struct data *data, const char *name);
struct data_file *data_get(struct data *data, uint64_t number);
void data_unref(struct data_file *file);

/* data_create: EEXIST with `exclusive`; else what is there. The caller gets a reference. */
int data_create(struct data *data, const char *name, bool exclusive, struct data_file **file);
/* data_numbers_are_short: would data_create have to wait for the disk? */
bool data_numbers_are_short(struct data *data);
int data_unlink(struct data *data, const char *name);
/* data_rename replaces a file of the new name, unless `no_replace`: EEXIST. */
int data_rename(struct data *data, const char *from, const char *to, bool no_replace);

/* data_open_backing returns a descriptor for the file's bytes, or -1 with errno. */
int data_open_backing(struct data_file *file, int flags);

/*
 * data_charge makes the file at least `end` bytes long as far as quota and stat(2) go; EDQUOT.
 * Then the caller writes, and if that failed calls data_settle, which takes the size from the
 * backing file again.
 */
int data_charge(struct data_file *file, uint64_t end);
void data_settle(struct data_file *file, int descriptor);
/* data_touch: the content has changed. */
void data_touch(struct data_file *file);
int data_truncate(struct data_file *file, uint64_t size);
/* data_set_times: NULL leaves a time as it is. */
void data_set_times(struct data_file *file, const struct timespec *atime,
                    const struct timespec *mtime);
/* data_stat fills size, blocks, links and times. */
void data_stat(struct data_file *file, struct stat *stat);

/* data_create_output makes a file without a name, for a job's output; a reference. */
int data_create_output(struct data *data, struct data_file **file);
/* data_install gives an output its name; *replaced is the number of the file that had it, or 0. */
int data_install(struct data_file *file, const char *name, uint64_t *replaced);

/* data_purge removes all files, and calls `gone` with the number of each, without the lock. Open
 * ones live on until they are closed. */
void data_purge(struct data *data, void (*gone)(void *context, uint64_t number), void *context);
/* How many names there are, and how often one has come or gone. */
struct names {
    uint64_t count, changes;
};
struct names data_names(struct data *data);
/* data_each calls `each` under the lock, in no order; it returns data_names' changes of then. */
uint64_t data_each(struct data *data, void (*each)(void *context, const struct data_file *file),
                   void *context);
/* data_open_enter counts one more open file; false if there are as many as may be. */
bool data_open_enter(struct data *data);
void data_open_leave(struct data *data);

struct data_usage {
    uint64_t used_bytes, files, open_files;
    struct data_limits limits;
};
void data_usage(struct data *data, struct data_usage *usage);

#endif
