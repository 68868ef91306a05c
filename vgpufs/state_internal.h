/*
 * What the files of the state room (state*.c) share; nobody else includes it.
 */
#ifndef VGPUFS_STATE_INTERNAL_H
#define VGPUFS_STATE_INTERNAL_H

#include "pulse.h"
#include "state.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

enum operation {
    PUT_JOB_NUMBERS,
    PUT_FILE_NUMBERS,
    PUT_IDENTITY,
    PUT_FILE,
    DELETE_FILE,
    PUT_EXECUTOR,
    DELETE_EXECUTOR,
    PUT_CHANGE_TIME,
    PUT_MARK,
    PUT_JOB,
    PUT_DIRECTORY,
    START_JOB,
    UNSTART_JOB,
    RERUN_JOB,
    CANCEL_JOB,
    END_JOB,
    PUT_RESULT,
    READ_JOB,
    RENEW_JOB,
    MOVE_JOB,
    HIDE_JOB,
    DELETE_JOB,
    DELETE_RESULT,
    PUT_REJECTION,
    PUT_REFUSED_REQUEST,
    PUT_VM_HELD,
    PUT_POOL_HELD,
    PUT_DRAINING,
    OPERATION_COUNT,
    REMOVE_BYTES = OPERATION_COUNT, /* not of the database: done after the commit */
};

/* How soon a change is written, and whether the disk is waited for then. */
enum haste {
    LAZY,    /* with whatever comes next, or after a while; not synced */
    JOURNAL, /* as `durability` says */
    FIRM,    /* at once, and synced */
};

enum value_kind { VALUE_NULL, VALUE_NUMBER, VALUE_BYTES };

struct value {
    enum value_kind kind;
    uint64_t number; /* or how many bytes */
    const char *bytes;
};

/* What was asked for. Hundreds of thousands may be waiting: the values are packed. */
struct change {
    struct change *next;
    unsigned vm;       /* whose it is; 0: no VM's */
    uint64_t bytes;    /* of memory */
    struct blob *blob; /* a reference, bound behind the values; NULL: NULL is bound there */
    uint16_t operation, count;
    uint16_t nulls, texts; /* a bit for each value that is NULL, or bytes */
    uint64_t numbers[];    /* the values, or how many bytes; behind all of them the bytes */
};

/* What was asked for and is not stored. */
struct owed {
    _Atomic uint64_t bytes, changes;
};

struct reserve {
    pthread_mutex_t lock; /* guards all below */
    int file;             /* -1: it cannot be made */
    bool unsupported;     /* no fallocate(2) here: room is looked for, not kept */
    bool released;        /* it is shorter than it should be */
    uint64_t size, wanted;
};

struct state {
    /*
     * Held over a transaction or a load: the connection has no locks of its own. The first of two
     * locks; a load's callback may ask.
     */
    pthread_mutex_t database_lock;
    sqlite3 *database;
    sqlite3_stmt *prepared[OPERATION_COUNT], *begin, *commit, *put_log, *clear_log;
    struct text log_packed; /* what is written into the log: kept for its memory */
    bool syncing;           /* the connection's synchronous=FULL */
    bool unsynced;          /* the log may have what was written without a sync */
    bool log_in_doubt;      /* writing failed: the write-ahead log is not to be built upon */
    /* Results are read by a connection of its own, which no transaction holds up. */
    pthread_mutex_t reader_lock;
    sqlite3 *reader;
    sqlite3_stmt *read_result;
    int lock_fd, data_dir;
    struct owed *owed; /* by VM */
    struct reserve reserve;
    pthread_t writer, announcer;
    bool has_writer, has_announcer;
    struct pulse writer_pulse, announcer_pulse;
    pthread_mutex_t lock;               /* guards all below */
    pthread_cond_t asked, written, due; /* to the writer; state_wait, _settle; the announcer */
    struct change *first, **last;
    /* What is in the log of groups and not in the tables. Changed with both locks held. */
    struct change *log_first, *log_last;
    size_t log_count;
    uint64_t log_bytes;
    _Atomic(enum config_durability) durability; /* each job asks, without the lock */
    uint64_t group_ms;
    uint64_t due_us;      /* when the next group is to be written; UINT64_MAX: nothing is asked */
    enum haste haste;     /* of what is asked for: the greatest */
    state_ticket newest;  /* given out */
    state_ticket stored;  /* in the database: it survives the end of this process */
    state_ticket durable; /* on the disk */
    state_ticket wanted;  /* what somebody waits for to be on the disk */
    atomic_int failure;   /* errno of the last attempt to write, 0 if it succeeded; read as
                           * durability is */
    struct state_waiter *waiters;
    size_t fresh;    /* light ones that came since a group was taken: the next group is for them */
    size_t expected; /* so many may come, if those who were told come back */
    uint64_t gather_until_us; /* so long they are waited for */
    unsigned in_vain, skips;  /* they did not come, so many times in a row; groups without that */
    unsigned telling;         /* threads that tell waiters, without the lock */
    bool stopping, giving_up;
};

/* Changes (state_changes.c). change_apply: 0, or -1 and the database knows why. */
enum haste operation_haste(enum operation operation);
const char *operation_sql(enum operation operation);
/* operation_code is what stands for it in the log of groups; 0: it never is there. */
unsigned operation_code(enum operation operation);
/* operation_of_code: OPERATION_COUNT if it is none. */
enum operation operation_of_code(uint64_t code);
/* change_make copies the values' bytes. Never NULL. */
struct change *change_make(enum operation operation, const struct value *values, unsigned count,
                           struct blob *blob);
/* change_ask queues a list of changes, which it owns from then on; NULL: there are none. */
state_ticket change_ask(struct state *state, struct change *first, struct change *last,
                        size_t count);
int change_apply(struct state *state, const struct change *change);
struct change *change_stamp(void);
/* changes_owe and changes_pay count in state->owed what is asked for and what is stored. */
void changes_owe(struct state *state, const struct change *first);
void changes_pay(struct state *state, const struct change *first);
/* change_mark changes a row, whatever else does: a commit that changes nothing syncs nothing. */
struct change *change_mark(void);
void changes_free(struct change *first);
void bytes_remove(const struct state *state, const struct change *group);

/* How long what nobody waits for is collected. */
#define LAZY_MS 50
/* hurry has the writer begin at `due_us` at the latest; the state is locked. */
void hurry(struct state *state, uint64_t due_us);
/* waiter_is_due: is there nothing more to wait for? Then *error is its answer. Locked. */
bool waiter_is_due(const struct state *state, const struct state_waiter *waiter, int *error);
/* due_take takes those off the list that are to be told; their error goes into `ticket`. Locked. */
struct state_waiter *due_take(struct state *state);
/* due_tell calls them back; the lock is released meanwhile. */
void due_tell(struct state *state, struct state_waiter *due);
/* writer_run is the thread that writes (state_writer.c); its argument is the state. */
void *writer_run(void *argument);

/* The database (state_database.c). */
int database_open(struct state *state, const char *state_dir, struct text *error);
void database_close(struct state *state);
/* database_errno: of the statement that failed last. */
int database_errno(sqlite3 *database);
/* database_sync chooses whether commits wait for the disk. */
int database_sync(struct state *state, bool full);
/* rows_each runs a query and calls `row` for each row. -1, and logged, if not all could be read.
 * rows_read is it for who holds the database's lock. */
int rows_each(struct state *state, const char *query, uint64_t first, uint64_t last,
              void (*row)(sqlite3_stmt *statement, void *context), void *context);
int rows_read(struct state *state, const char *query, uint64_t first, uint64_t last,
              void (*row)(sqlite3_stmt *statement, void *context), void *context);
int statement_run(sqlite3_stmt *statement);
uint64_t column_number(sqlite3_stmt *statement, int column);

/*
 * The log of groups (state_log.c). The database's lock is held. log_open has what a crash left
 * there in the tables: 0, or SQLite's error.
 */
int log_open(struct state *state);
/* log_takes: is a group to be written into the log? */
bool log_takes(const struct state *state, const struct change *first);
/* log_write and log_apply are part of a transaction: the group becomes a row of the log; all that
 * is in the log goes into the tables. 0, an errno, or -1: the database knows why. */
int log_write(struct state *state, const struct change *stamp, const struct change *first);
int log_apply(struct state *state);
/* When that is committed: log_keep takes over what was written, log_forget frees what was applied.
 */
void log_keep(struct state *state, struct change *first);
void log_forget(struct state *state);
/* log_settle is log_apply with a transaction of its own: 0, or SQLite's error, and it is logged. */
int log_settle(struct state *state);
/* log_find_result returns a reference to a result that is in the log. `found` is set if what the
 * log says of the job takes a result in the tables away. */
struct blob *log_find_result(struct state *state, uint64_t job, bool *found);

/* directory_sync has the folder's entries on disk. 0, or -1 and errno. */
int directory_sync(int at, const char *path);

/* Room on the disk (state_room.c). */
void reserve_open(struct reserve *reserve, int directory);
void reserve_close(struct reserve *reserve);
/* reserve_release gives some of what is kept to whoever writes next. False if nothing is left. */
bool reserve_release(struct reserve *reserve);
/* reserve_refill takes back what of that was not needed. */
void reserve_refill(struct reserve *reserve);

/* A job's key in the tables: the VM's number and its own. */
static inline uint64_t job_id(unsigned vm, uint64_t number)
{
    return (uint64_t)vm << 40 | number;
}

#endif
