/* What a VM that floods costs another one: a job of that one from submission to result, with the
 * flood on and off in turns. */
#include "bench.h"
#include "mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLOODERS 4
#define MIB      (1u << 20)

struct flooder {
    pthread_t thread;
    const struct kind *kind;
    unsigned index;
    char folder[300]; /* the flooding VM's */
    char *bytes;      /* a MiB of what the kind writes */
    int file;         /* that the kind has open; -1: none */
};

struct kind {
    const char *name;
    const char *file;   /* opened before, for writing; NULL: none */
    const char *filler; /* what `bytes` consists of */
    void (*once)(struct flooder *flooder);
};

static atomic_bool on, ended;
static atomic_uint busy; /* flooders that are inside of a call */

/* path_of: a name in the flooding VM's folder. */
static const char *path_of(const struct flooder *flooder, char path[400], const char *name)
{
    snprintf(path, 400, "%s/%s", flooder->folder, name);
    return path;
}

/* Floods are refused again and again: that is what they are about. */
static void ignore(ssize_t result)
{
    (void)result;
}

static void write_tiny(struct flooder *flooder)
{
    ignore(write(flooder->file, flooder->bytes, 1));
}

static void write_line(struct flooder *flooder)
{
    ignore(write(flooder->file, flooder->bytes, strcspn(flooder->bytes, "\n") + 1));
}

static void write_huge(struct flooder *flooder)
{
    ignore(pwrite(flooder->file, flooder->bytes, MIB - 4096, 0));
}

static void write_and_sync(struct flooder *flooder)
{
    ignore(pwrite(flooder->file, flooder->bytes, 4096, 0));
    ignore(fsync(flooder->file));
}

static void submit_and_cancel(struct flooder *flooder)
{
    char path[400];
    ignore(write(flooder->file, flooder->bytes, strlen("NOP\n") * 60));
    int control = open(path_of(flooder, path, "ctl"), O_WRONLY);
    ignore(write(control, "cancel all\n", strlen("cancel all\n")));
    close(control);
}

static void open_and_close(struct flooder *flooder)
{
    char path[400];
    close(open(path_of(flooder, path, "status"), O_RDONLY));
}

static void list_names(struct flooder *flooder)
{
    char path[400];
    close(open(path_of(flooder, path, "data"), O_RDONLY | O_DIRECTORY));
}

static void read_names(struct flooder *flooder)
{
    char path[400];
    DIR *directory = opendir(path_of(flooder, path, "data"));
    while (directory && readdir(directory))
        continue;
    if (directory)
        closedir(directory);
}

/* Each listing has another name in it than the one before. */
static void change_and_list(struct flooder *flooder)
{
    char name[32], path[400];
    snprintf(name, sizeof(name), "data/t%u", flooder->index);
    ignore(mknod(path_of(flooder, path, name), S_IFREG | 0600, 0));
    list_names(flooder);
    ignore(unlink(path_of(flooder, path, name)));
    list_names(flooder);
}

static void make_and_remove(struct flooder *flooder)
{
    char name[32], path[400];
    snprintf(name, sizeof(name), "jobs/t%u", flooder->index);
    ignore(mkdir(path_of(flooder, path, name), 0700));
    ignore(rmdir(path));
}

static void create_and_unlink(struct flooder *flooder)
{
    char name[32], path[400];
    snprintf(name, sizeof(name), "data/t%u", flooder->index);
    close(open(path_of(flooder, path, name), O_WRONLY | O_CREAT, 0600));
    ignore(unlink(path));
}

static void read_result(struct flooder *flooder)
{
    char path[400], answer[4096];
    int file = open(path_of(flooder, path, "result"), O_RDONLY);
    ignore(read(file, answer, sizeof(answer)));
    close(file);
}

static const struct kind kinds[] = {
    {"jobs that are cancelled", "submit", "NOP\n", submit_and_cancel},
    {"wrong lines", "submit", "BOGUS\n", write_line},
    {"tiny writes", "submit", "N", write_tiny},
    {"huge writes of lines", "submit", "#####\n", write_huge},
    {"opens", NULL, "", open_and_close},
    {"listings of 1,000 names", NULL, "", list_names},
    {"the same, read to the end", NULL, "", read_names},
    {"the same, not read, each after a change", NULL, "", change_and_list},
    {"mkdir and rmdir", NULL, "", make_and_remove},
    {"files made and removed", NULL, "", create_and_unlink},
    {"results read", NULL, "", read_result},
    {"huge writes of data", "data/flood", "x", write_huge},
    {"fsync", "data/flood", "x", write_and_sync},
};

static void *flooder_run(void *argument)
{
    struct flooder *flooder = argument;
    while (!atomic_load(&ended)) {
        if (!atomic_load(&on)) {
            bench_sleep_ms(1);
            continue;
        }
        atomic_fetch_add(&busy, 1);
        while (atomic_load(&on))
            flooder->kind->once(flooder);
        atomic_fetch_sub(&busy, 1);
    }
    return NULL;
}

static void flooder_start(struct flooder *flooder, const struct kind *kind, unsigned index,
                          const struct mount *mount)
{
    char path[400];
    *flooder = (struct flooder){.kind = kind, .index = index, .bytes = malloc(MIB), .file = -1};
    snprintf(flooder->folder, sizeof(flooder->folder), "%s", mount_path(mount, "vm1"));
    if (!flooder->bytes)
        bench_die("memory");
    size_t size = strlen(kind->filler);
    for (size_t i = 0; i < MIB && size; i++)
        flooder->bytes[i] = kind->filler[i % size];
    if (kind->file)
        flooder->file = file_open(path_of(flooder, path, kind->file), O_WRONLY | O_CREAT);
    if (pthread_create(&flooder->thread, NULL, flooder_run, flooder) != 0)
        bench_fail("cannot start %u flooders", FLOODERS);
}

static void flooder_end(struct flooder *flooder)
{
    pthread_join(flooder->thread, NULL);
    if (flooder->file >= 0)
        close(flooder->file);
    free(flooder->bytes);
}

/* turn measures `jobs` jobs of the other VM. */
static double turn(const struct mount *mount, bool flooded, size_t jobs, struct samples *all)
{
    struct samples samples = {0};
    atomic_store(&on, flooded);
    while (atomic_load(&busy) != (flooded ? FLOODERS : 0))
        bench_sleep_ms(1);
    for (size_t i = 0; i < jobs; i++) {
        double start = bench_now_us();
        mount_submit_and_read(mount, 2, "NOP\n");
        samples_add(&samples, bench_now_us() - start);
        samples_add(all, bench_now_us() - start);
    }
    double median = samples_at(&samples, 0.5);
    samples_finish(&samples);
    return median;
}

static void flood(const struct mount *mount, const struct kind *kind)
{
    static struct flooder flooders[FLOODERS];
    struct samples ratio = {0}, quiet = {0}, flooded = {0};
    size_t jobs = bench_scale(50, 3);
    atomic_store(&ended, false);
    for (unsigned i = 0; i < FLOODERS; i++)
        flooder_start(&flooders[i], kind, i, mount);
    for (size_t round = 0; round < bench_scale(11, 1); round++) {
        double without = turn(mount, false, jobs, &quiet);
        samples_add(&ratio, turn(mount, true, jobs, &flooded) / without);
    }
    atomic_store(&on, false);
    atomic_store(&ended, true);
    for (unsigned i = 0; i < FLOODERS; i++)
        flooder_end(&flooders[i]);
    figure_note("%s, by %u threads of another VM", kind->name, FLOODERS);
    figure("  a job without it: p50", samples_at(&quiet, 0.5), "us", GOAL_NONE, 0);
    figure("  with it: p50", samples_at(&flooded, 0.5), "us", GOAL_NONE, 0);
    figure("           p99", samples_at(&flooded, 0.99), "us", GOAL_NONE, 0);
    figure("  with / without", samples_at(&ratio, 0.5), "x", GOAL_AT_MOST, 3);
    samples_finish(&ratio);
    samples_finish(&quiet);
    samples_finish(&flooded);
}

void bench_flood(void)
{
    struct mount mount;
    mount_start_vgpufs(&mount, "flood", "durability = none\nvms = 1-2",
                       "[vm 1]\npool = B\nmax_queued = 64\nmax_jobs = 2048\n");
    for (unsigned i = 0; i < 1000; i++)
        close(file_open(mount_path(&mount, "vm1/data/%u", i), O_WRONLY | O_CREAT));
    mount_submit_and_read(&mount, 1, "NOP\n");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        flood(&mount, &kinds[i]);
    mount_stop(&mount);
}
