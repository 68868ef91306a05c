/* nodes: the table against the contract, and inode numbers that mean one thing only. */
#include "nodes.h"

#include "clock.h"
#include "config.h"
#include "data.h"
#include "executor/catalogue.h"
#include "job.h"
#include "pool.h"
#include "scratch.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

/* A server without mount, threads or executors: three VMs, one with a job and two files. */

#define ROOT_UID 1000
#define VM_UID   20003

static struct config *config;
static struct server server;
static uint64_t job_number, file_number;

static void vm_make(unsigned id, struct vm *next)
{
    const struct config_vm *vm_config = config_find_vm(config, id);
    struct state_vm saved = {.id = id, .next_job = 5, .next_file = 1};
    assert_non_null(vm_config);
    struct vm *vm = vm_create(&server, vm_config, &saved);
    assert_non_null(vm);
    atomic_store(&vm->next, next);
    atomic_store(&server.vms, vm);
    atomic_store(&server.vm_by_id[id], vm);
}

static struct vm *vm_of(unsigned id)
{
    return server_find_vm(&server, id);
}

static int setup(void **unused)
{
    (void)unused;
    struct text error = {0};
    config = config_parse("[vgpufs]\nvms = 3 4 65535\n", "/vgpufs.conf", true, &error);
    assert_non_null(config);
    scratch_make();
    server = (struct server){
        .config = config,
        .catalogue = {workload_catalogue, workload_catalogue_size},
        .state = state_open(scratch_path("state"), &error),
        .vm_by_id = calloc(CONFIG_MAX_VM_ID + 1, sizeof(*server.vm_by_id)),
        .root_uid = ROOT_UID,
        .root_gid = 1001,
        .started = clock_change(),
    };
    assert_non_null(server.state);
    assert_non_null(server.vm_by_id);
    server.pools = calloc(config->pool_count, sizeof(*server.pools));
    assert_non_null(server.pools);
    for (; server.pool_count < config->pool_count; server.pool_count++)
        assert_int_equal(
            pool_init(&server.pools[server.pool_count], &server, (unsigned)server.pool_count), 0);
    atomic_store(&server.stats_mode, 0440);
    vm_make(65535, NULL);
    vm_make(4, vm_of(65535));
    vm_make(3, vm_of(4));
    atomic_store(&vm_of(3)->uid, VM_UID);
    assert_int_equal(vm_numbers_ready(vm_of(3)), 0);

    struct job *job;
    struct data_file *file;
    assert_int_equal(vm_mkdir(vm_of(3), "fft1", &job), 0);
    job_number = job->number;
    job_unref(job);
    assert_int_equal(data_create(&vm_of(3)->data, "in.bin", true, &file), 0);
    assert_int_equal(data_charge(file, 1234), 0);
    data_unref(file);
    assert_int_equal(data_create(&vm_of(3)->data, "out.bin", true, &file), 0);
    file_number = file->number;
    data_unref(file);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    struct vm *vm = atomic_load(&server.vms);
    for (struct vm *next; vm; vm = next) {
        next = atomic_load(&vm->next);
        vm_destroy(vm);
    }
    for (size_t i = 0; i < server.pool_count; i++)
        pool_finish(&server.pools[i]);
    free(server.pools);
    free(server.vm_by_id);
    state_close(server.state);
    config_destroy(config);
    scratch_remove();
    return 0;
}

/* The kernel asks for no directory that it knows, but a line may have made it since it looked. */
static void test_mkdir_of_a_name_that_has_come(void **unused)
{
    (void)unused;
    struct vm *vm = vm_of(3);
    struct job *job;
    uint64_t next = vm->next_job;
    assert_int_equal(vm_mkdir(vm, "fft1", &job), EEXIST);
    assert_int_equal(vm->next_job, next);
    assert_int_equal(vm_mkdir(vm, "fft2", &job), 0);
    assert_int_equal(job->number, next);
    job_unref(job);
    assert_int_equal(vm_mkdir(vm_of(4), "fft1", &job), 0);
    job_unref(job);
}

/* The tree of the contract, line by line. */
static const struct {
    const char *path;
    mode_t mode;
    enum node_kind kind;
    bool public;
} tree[] = {
    {"", S_IFDIR | 0755, NODE_ROOT, true},
    {"stats", S_IFREG | 0440, NODE_STATS, true}, /* stats_mode of this server */
    {"stats.json", S_IFREG | 0440, NODE_STATS_JSON, true},
    {"metrics", S_IFREG | 0440, NODE_METRICS, true},
    {"queue", S_IFREG | 0400, NODE_QUEUE, false},
    {"ctl", S_IFREG | 0600, NODE_CTL, false},
    {"vm3", S_IFDIR | 0700, NODE_VM, false},
    {"vm3/submit", S_IFREG | 0200, NODE_SUBMIT, false},
    {"vm3/result", S_IFREG | 0400, NODE_RESULT, false},
    {"vm3/status", S_IFREG | 0400, NODE_STATUS, false},
    {"vm3/identity", S_IFREG | 0600, NODE_IDENTITY, false},
    {"vm3/ctl", S_IFREG | 0200, NODE_VM_CTL, false},
    {"vm3/jobs", S_IFDIR | 0700, NODE_JOBS, false},
    {"vm3/jobs/fft1", S_IFDIR | 0700, NODE_JOB, false},
    {"vm3/jobs/fft1/command", S_IFREG | 0600, NODE_JOB_COMMAND, false},
    {"vm3/jobs/fft1/status", S_IFREG | 0400, NODE_JOB_STATUS, false},
    {"vm3/jobs/fft1/result", S_IFREG | 0400, NODE_JOB_RESULT, false},
    {"vm3/data", S_IFDIR | 0700, NODE_DATA, false},
    {"vm3/data/in.bin", S_IFREG | 0600, NODE_FILE, false},
    {"vm3/request.txt", S_IFREG | 0600, NODE_REQUEST, false},
    {"vm3/response.txt", S_IFREG | 0400, NODE_RESPONSE, false},
};
#define TREE_SIZE (sizeof(tree) / sizeof(tree[0]))

/* walk looks a path up from the root: 0, and the node must be released; or an errno. */
static int walk(const char *path, struct node *node)
{
    char copy[256], *rest = NULL;
    snprintf(copy, sizeof(copy), "%s", path);
    int error = node_resolve(&server, 1, node);
    for (char *name = strtok_r(copy, "/", &rest); name && !error;
         name = strtok_r(NULL, "/", &rest)) {
        struct node child = {0};
        error = node_lookup(node, name, &child);
        node_release(node);
        *node = child;
    }
    return error;
}

static void walk_must(const char *path, struct node *node)
{
    int error = walk(path, node);
    if (error)
        fail_msg("%s: %s", path, strerror(error));
}

/* ino_of returns the path's inode number. */
static uint64_t ino_of(const char *path)
{
    struct node node;
    walk_must(path, &node);
    uint64_t ino = node_self_ino(&node);
    node_release(&node);
    return ino;
}

static void test_table(void **unused)
{
    (void)unused;
    for (int kind = NODE_NONE + 1; kind < NODE_KINDS; kind++) {
        const struct node_type *type = &node_types[kind];
        assert_int_equal(type->kind, kind);
        assert_int_equal(node_types[type->parent].content, CONTENT_DIRECTORY);
        assert_int_not_equal(type->parent, NODE_NONE);
        bool directory = type->content == CONTENT_DIRECTORY;
        bool readable = type->render || type->content != CONTENT_TEXT;
        bool writable = type->accept || type->content == CONTENT_BYTES || directory;
        assert_int_equal((type->mode & 0400) != 0, readable);
        assert_int_equal((type->mode & 0200) != 0, writable);
        assert_int_equal((type->mode & 0100) != 0, directory);
        assert_int_equal((type->mode & 0077) != 0, type->public);
        /* Who takes lines notes those that could not be cut too. */
        assert_int_equal(type->accept != NULL, type->refuse != NULL);
        for (int other = NODE_NONE + 1; other < kind; other++)
            if (node_types[other].parent == type->parent && type->name && node_types[other].name)
                assert_string_not_equal(node_types[other].name, type->name);
    }
    assert_null(node_types[NODE_NONE].name);
}

static void test_contract(void **unused)
{
    (void)unused;
    unsigned seen[NODE_KINDS] = {0};
    for (size_t i = 0; i < TREE_SIZE; i++) {
        struct node node;
        struct stat stat;
        walk_must(tree[i].path, &node);
        assert_int_equal(node.type->kind, tree[i].kind);
        seen[node.type->kind]++;
        if (node_mode(&node) != tree[i].mode)
            fail_msg("%s has mode %o", tree[i].path, node_mode(&node));
        bool below_vm = strncmp(tree[i].path, "vm3", 3) == 0;
        node_stat(&node, &stat);
        assert_int_equal(stat.st_mode, tree[i].mode);
        assert_int_equal(stat.st_ino, node_self_ino(&node));
        assert_int_equal(stat.st_uid, below_vm ? VM_UID : ROOT_UID);
        assert_int_equal(stat.st_gid, below_vm ? VM_UID : 1001);
        assert_int_equal(stat.st_nlink, S_ISDIR(tree[i].mode) ? 2 : 1);
        assert_true(stat.st_mtim.tv_sec > 0);
        if (tree[i].kind == NODE_FILE)
            assert_int_equal(stat.st_size, 1234);
        if (tree[i].kind == NODE_STATS || tree[i].kind == NODE_STATUS)
            assert_true(stat.st_size > 0);
        /* The owner is checked besides the mode; uid 0 is exempt. */
        assert_int_equal(node_access(&node, 0), 0);
        assert_int_equal(node_access(&node, below_vm ? VM_UID : ROOT_UID), 0);
        assert_int_equal(node_access(&node, VM_UID + 1), tree[i].public ? 0 : EACCES);
        if (below_vm)
            assert_int_equal(node_access(&node, ROOT_UID), EACCES);
        node_release(&node);
    }
    for (int kind = NODE_NONE + 1; kind < NODE_KINDS; kind++)
        assert_int_equal(seen[kind], 1);
}

/* Every number leads back to its node, and "." and ".." to it and its directory. */
static void test_numbers_lead_back(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < TREE_SIZE; i++) {
        char parent[256] = "";
        const char *slash = strrchr(tree[i].path, '/');
        snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - tree[i].path) : 0,
                 tree[i].path);
        struct node node, again, up;
        walk_must(tree[i].path, &node);
        uint64_t ino = node_self_ino(&node);
        assert_int_equal(node_resolve(&server, ino, &again), 0);
        assert_ptr_equal(again.type, node.type);
        assert_ptr_equal(again.vm, node.vm);
        assert_ptr_equal(again.job, node.job);
        assert_ptr_equal(again.file, node.file);
        assert_ptr_equal(again.server, &server);
        node_release(&again);
        assert_int_equal(node_lookup(&node, ".", &again), 0);
        assert_int_equal(node_self_ino(&again), ino);
        node_release(&again);
        assert_int_equal(node_parent_ino(&node), ino_of(parent));
        assert_int_equal(node_lookup(&node, "..", &up), 0);
        assert_int_equal(node_self_ino(&up), ino_of(parent));
        node_release(&up);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(ino, ino_of(tree[k].path));
        node_release(&node);
    }
    assert_int_equal(ino_of(""), 1);
    assert_int_equal(node_ino(NODE_ROOT, 0, 0), 1);
    /* The layout: it is in NFS handles, so it must never change. */
    assert_int_equal(ino_of("vm3"), UINT64_C(7) << 56 | UINT64_C(3) << 40);
    struct node last;
    assert_int_equal(node_resolve(&server, ino_of("vm65535/jobs"), &last), 0);
    assert_ptr_equal(last.vm, vm_of(65535));
    assert_int_equal(ino_of("vm65535/jobs"), UINT64_C(13) << 56 | UINT64_C(65535) << 40);
    assert_int_equal(ino_of("vm3/jobs/fft1"), UINT64_C(14) << 56 | UINT64_C(3) << 40 | job_number);
    assert_int_equal(ino_of("vm3/data/out.bin"),
                     UINT64_C(19) << 56 | UINT64_C(3) << 40 | file_number);
    assert_int_equal(ino_of("vm3/response.txt"), UINT64_C(21) << 56 | UINT64_C(3) << 40);
}

static void assert_stale(uint64_t ino)
{
    struct node node;
    int error = node_resolve(&server, ino, &node);
    if (error != ESTALE)
        fail_msg("%016" PRIx64 ": %d", ino, error);
}

static void test_stale(void **unused)
{
    (void)unused;
    assert_stale(0);
    assert_stale(2);
    assert_stale(UINT64_MAX);
    assert_stale(UINT64_C(3) << 40); /* of no kind */
    assert_stale((uint64_t)NODE_ROOT << 56);
    assert_stale((uint64_t)NODE_ROOT << 56 | 1);
    assert_stale((uint64_t)NODE_KINDS << 56 | UINT64_C(3) << 40);
    for (int kind = NODE_NONE + 1; kind < NODE_KINDS; kind++) {
        if (kind == NODE_ROOT)
            continue;
        bool below_vm = kind == NODE_VM || node_types[kind].parent != NODE_ROOT;
        assert_stale(node_ino((enum node_kind)kind, 5, 0)); /* no such VM; or no VM's */
        assert_stale(node_ino((enum node_kind)kind, 0, 1));
        assert_stale(node_ino((enum node_kind)kind, below_vm ? 3 : 0, 999));
        assert_stale(node_ino((enum node_kind)kind, below_vm ? 3 : 0, NODE_MAX_NUMBER));
        if (below_vm)
            assert_stale(node_ino((enum node_kind)kind, 0, 0));
    }
    assert_stale(node_ino(NODE_JOB, 4, job_number)); /* another VM's */
    for (unsigned bit = 0; bit < 40; bit++) {
        assert_stale(node_ino(NODE_JOB, 3, job_number ^ UINT64_C(1) << bit));
        assert_stale(node_ino(NODE_SUBMIT, 3, UINT64_C(1) << bit));
    }
    for (unsigned bit = 0; bit < 16; bit++) /* 3 and 65535 there are */
        assert_stale(node_ino(NODE_SUBMIT, 65535 ^ 1u << bit, 0));
    assert_stale(node_ino(NODE_JOB_RESULT, 3, job_number + 1));
    assert_stale(node_ino(NODE_FILE, 4, file_number));
    assert_stale(node_ino(NODE_FILE, 3, 0));
}

/* Whatever resolves has that very number: none has two. */
static void test_random_numbers(void **unused)
{
    (void)unused;
    uint64_t seed = 88172645463325252u, resolved = 0;
    for (unsigned i = 0; i < 1000000; i++) {
        seed ^= seed << 13; /* xorshift64, Marsaglia 2003 */
        seed ^= seed >> 7;
        seed ^= seed << 17;
        /* Mostly close to what exists. */
        uint64_t ino = i % 4 == 0 ? seed
                                  : (seed >> 8) % (NODE_KINDS + 2) << 56 | (seed >> 20) % 6 << 40 |
                                        (seed >> 30) % 8;
        struct node node = {0};
        int error = node_resolve(&server, ino, &node);
        assert_true(error == 0 || error == ESTALE);
        if (error)
            continue;
        resolved++;
        assert_int_equal(node_self_ino(&node), ino);
        node_release(&node);
    }
    assert_true(resolved > 1000);
}

/* A number whose job or file has gone stays stale, whatever comes after it. */
static void test_gone(void **unused)
{
    (void)unused;
    struct vm *vm = vm_of(3);
    struct job *job;
    uint64_t of_job = ino_of("vm3/jobs/fft1"), of_result = ino_of("vm3/jobs/fft1/result");
    uint64_t of_file = ino_of("vm3/data/out.bin");
    struct node open;
    assert_int_equal(node_resolve(&server, of_file, &open), 0);
    assert_int_equal(vm_rmdir(vm, "fft1"), 0);
    assert_stale(of_job);
    assert_stale(of_result);
    assert_int_equal(vm_mkdir(vm, "fft1", &job), 0);
    job_unref(job);
    assert_stale(of_job);
    assert_int_not_equal(ino_of("vm3/jobs/fft1"), of_job);

    assert_int_equal(data_rename(&vm->data, "out.bin", "renamed", false), 0);
    assert_int_equal(ino_of("vm3/data/renamed"), of_file);
    assert_int_equal(data_unlink(&vm->data, "renamed"), 0);
    /* Somebody has it open still. */
    struct node again;
    assert_int_equal(node_resolve(&server, of_file, &again), 0);
    struct stat stat;
    node_stat(&again, &stat);
    assert_int_equal(stat.st_nlink, 0);
    node_release(&again);
    node_release(&open);
    assert_stale(of_file);
}

static void test_lookup_errors(void **unused)
{
    (void)unused;
    static const char *const missing[] = {"vm5",
                                          "vm03",
                                          "vm",
                                          "vm 3",
                                          "vm3x",
                                          "vm+3",
                                          "vm-1",
                                          "vm65536",
                                          "VM3",
                                          "vm0",
                                          "vm3 ",
                                          "v",
                                          "Stats",
                                          "stat",
                                          "...",
                                          "vm4294967299",
                                          "vm99999",
                                          "stats ",
                                          "vm3/x",
                                          "vm3/data",
                                          "jobs",
                                          "vm065535",
                                          "vm3/jobs/none",
                                          "vm3/jobs/FFT1",
                                          "vm3/jobs/fft1/submit",
                                          "vm3/data/none",
                                          "vm3/jobs/7/..",
                                          "vm4/jobs/fft1",
                                          "vm4/data/in.bin",
                                          "vm3/stats",
                                          "vm3/jobs/status",
                                          "vm3/data/submit"};
    struct node node;
    for (size_t i = 0; i < sizeof(missing) / sizeof(missing[0]); i++) {
        int error = walk(missing[i], &node);
        if (strcmp(missing[i], "vm3/data") == 0) { /* the only one that is there */
            assert_int_equal(error, 0);
            node_release(&node);
        } else if (error != ENOENT) {
            fail_msg("%s: %d", missing[i], error);
        }
    }
    assert_int_equal(walk("stats/x", &node), ENOTDIR);
    assert_int_equal(walk("vm3/data/in.bin/x", &node), ENOTDIR);
    assert_int_equal(walk("vm3/jobs/fft1/result/x", &node), ENOTDIR);
    /* A name that is no path. */
    struct node root, child;
    assert_int_equal(node_resolve(&server, 1, &root), 0);
    assert_int_equal(node_lookup(&root, "", &child), ENOENT);
    assert_int_equal(node_lookup(&root, "vm3/data", &child), ENOENT);
}

/* assert_listing: the names in their order, each with the number and type that a lookup gives. */
static void assert_listing(const char *path, const char *expected)
{
    struct node directory;
    struct text names = {0};
    uint64_t last = 0;
    walk_must(path, &directory);
    struct listing *listing = listing_of(&directory, false);
    assert_non_null(listing);
    for (size_t i = 0; i < listing->count; i++) {
        const struct listing_entry *entry = &listing->entries[i];
        const char *name = listing_name(listing, i);
        assert_int_equal(listing_after(listing, last), i);
        struct node node;
        assert_true(entry->offset > last);
        last = entry->offset;
        assert_int_equal(node_lookup(&directory, name, &node), 0);
        assert_int_equal(node_self_ino(&node), entry->ino);
        assert_int_equal(node_mode(&node) & S_IFMT, entry->mode);
        node_release(&node);
        text_printf(&names, "%s ", name);
    }
    assert_int_equal(listing_after(listing, last), listing->count);
    assert_string_equal(names.data, expected);
    text_finish(&names);
    listing_unref(listing);
    node_release(&directory);
}

static void test_listings(void **unused)
{
    (void)unused;
    assert_listing("", ". .. stats stats.json metrics queue ctl vm3 vm4 vm65535 ");
    assert_listing("vm3", ". .. submit result status identity ctl jobs data request.txt "
                          "response.txt ");
    assert_listing("vm3/jobs", ". .. fft1 ");
    assert_listing("vm3/jobs/fft1", ". .. command status result ");
    assert_listing("vm3/data", ". .. in.bin out.bin ");
    assert_listing("vm4/data", ". .. ");
    /* By number, so that a file that comes or goes moves no other one's offset. */
    static const char *const names[] = {"h", "c", "a", "f", "b", "g", "e", "d"};
    for (size_t i = 0; i < 8; i++) {
        struct data_file *file;
        assert_int_equal(data_create(&vm_of(4)->data, names[i], true, &file), 0);
        data_unref(file);
    }
    assert_listing("vm4/data", ". .. h c a f b g e d ");
    assert_listing("vm4/jobs", ". .. ");
}

/* listing_at returns a new listing of the directory. */
static struct listing *listing_at(const char *path)
{
    struct node directory;
    walk_must(path, &directory);
    struct listing *listing = listing_of(&directory, false);
    assert_non_null(listing);
    node_release(&directory);
    return listing;
}

static bool is_slow(const char *path)
{
    struct node directory;
    walk_must(path, &directory);
    bool slow = listing_is_slow(&directory);
    node_release(&directory);
    return slow;
}

/* assert_kept: both listings of the directory are, or are not, the same copy of its names. */
static void assert_kept(const char *path, struct listing **last, bool same)
{
    struct listing *now = listing_at(path);
    assert_int_equal(now == *last, same);
    listing_unref(*last);
    *last = now;
}

/* The names of jobs/ and data/ are copied once, until one comes or goes. */
static void test_kept_listings(void **unused)
{
    (void)unused;
    struct vm *vm = vm_of(3);
    struct job *job;
    struct data_file *file;
    struct listing *jobs = listing_at("vm3/jobs"), *data = listing_at("vm3/data");
    assert_kept("vm3/jobs", &jobs, true);
    assert_int_equal(vm_mkdir(vm, "more", &job), 0);
    job_unref(job);
    assert_kept("vm3/jobs", &jobs, false);
    assert_kept("vm3/jobs", &jobs, true);
    assert_int_equal(vm_rmdir(vm, "more"), 0);
    assert_kept("vm3/jobs", &jobs, false);

    assert_kept("vm3/data", &data, true);
    assert_int_equal(data_create(&vm->data, "more", true, &file), 0);
    assert_kept("vm3/data", &data, false);
    assert_int_equal(data_charge(file, 100), 0); /* no name */
    data_unref(file);
    assert_kept("vm3/data", &data, true);
    assert_int_equal(data_rename(&vm->data, "more", "moved", false), 0);
    assert_kept("vm3/data", &data, false);
    assert_listing("vm3/data", ". .. in.bin out.bin moved ");
    assert_int_equal(data_unlink(&vm->data, "moved"), 0);
    assert_kept("vm3/data", &data, false);
    /* Who has one open keeps it as it was. */
    assert_int_equal(data_unlink(&vm->data, "in.bin"), 0);
    assert_string_equal(listing_name(data, 2), "in.bin");
    assert_listing("vm3/data", ". .. out.bin ");
    listing_unref(jobs);
    listing_unref(data);
}

/* A large listing is slow to make, once. A very large one is not kept. */
static void test_slow_listings(void **unused)
{
    (void)unused;
    char name[WORKLOAD_MAX_FILE_NAME + 1];
    struct data_file *file;
    for (int i = 0; i < 129; i++) {
        assert_false(is_slow("vm4/data"));
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(data_create(&vm_of(4)->data, name, true, &file), 0);
        data_unref(file);
    }
    assert_true(is_slow("vm4/data"));
    struct listing *data = listing_at("vm4/data");
    assert_false(is_slow("vm4/data"));
    for (int i = 0; i < 2200; i++) {
        snprintf(name, sizeof(name), "%0*d", WORKLOAD_MAX_FILE_NAME, i);
        assert_int_equal(data_create(&vm_of(4)->data, name, true, &file), 0);
        data_unref(file);
    }
    assert_kept("vm4/data", &data, false);
    assert_true(is_slow("vm4/data"));
    assert_kept("vm4/data", &data, false);
    assert_int_equal(data->count, 2 + 129 + 2200);
    listing_unref(data);
    assert_false(is_slow("")); /* the root's is no VM's */
    assert_false(is_slow("vm4"));
}

/* A VM that a reload took away: not in the root any more, while its open nodes work on. */
static void test_gone_vm(void **unused)
{
    (void)unused;
    uint64_t ino = ino_of("vm3/jobs/fft1/result");
    struct node node;
    atomic_store(&vm_of(3)->gone, true);
    assert_int_equal(walk("vm3", &node), ENOENT);
    assert_listing("", ". .. stats stats.json metrics queue ctl vm4 vm65535 ");
    assert_int_equal(node_resolve(&server, ino, &node), 0);
    node_release(&node);
}

/* Every directory's stamp moves when a name in it comes, changes or goes. */
static void test_directories_change(void **unused)
{
    (void)unused;
    struct vm *vm = vm_of(3);
    struct job *job;
    struct node data, jobs;
    struct stat before, after;
    walk_must("vm3/data", &data);
    walk_must("vm3/jobs", &jobs);
    node_stat(&data, &before);
    assert_int_equal(data_rename(&vm->data, "in.bin", "in2.bin", false), 0);
    node_stat(&data, &after);
    assert_memory_not_equal(&after.st_ctim, &before.st_ctim, sizeof(before.st_ctim));
    before = after;
    assert_int_equal(data_unlink(&vm->data, "in2.bin"), 0);
    node_stat(&data, &after);
    assert_memory_not_equal(&after.st_ctim, &before.st_ctim, sizeof(before.st_ctim));

    node_stat(&jobs, &before);
    assert_int_equal(vm_mkdir(vm, "fft2", &job), 0);
    job_unref(job);
    node_stat(&jobs, &after);
    assert_memory_not_equal(&after.st_ctim, &before.st_ctim, sizeof(before.st_ctim));
    before = after;
    assert_int_equal(vm_rmdir(vm, "fft2"), 0);
    node_stat(&jobs, &after);
    assert_memory_not_equal(&after.st_ctim, &before.st_ctim, sizeof(before.st_ctim));
    before = after;
    node_stat(&jobs, &after);
    assert_memory_equal(&after.st_ctim, &before.st_ctim, sizeof(before.st_ctim));
}

#define NODE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        NODE_TEST(test_contract),
        NODE_TEST(test_mkdir_of_a_name_that_has_come),
        NODE_TEST(test_numbers_lead_back),
        NODE_TEST(test_stale),
        NODE_TEST(test_random_numbers),
        NODE_TEST(test_gone),
        NODE_TEST(test_lookup_errors),
        NODE_TEST(test_listings),
        NODE_TEST(test_kept_listings),
        NODE_TEST(test_slow_listings),
        NODE_TEST(test_gone_vm),
        NODE_TEST(test_directories_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
