#include "data_fixture.h"

#include "scratch.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

const struct data_limits limits = {QUOTA, MOST_FILES, MOST_OPEN};
struct state *state;
struct data data;

static void note_vm(void *context, const struct state_vm *vm)
{
    if (vm->id == VM)
        *(uint64_t *)context = vm->next_file;
}

static uint64_t saved_next_file(void)
{
    uint64_t next_file = 1;
    state_load_vms(state, note_vm, &next_file);
    return next_file;
}

uint64_t adopted;
struct data_file *kept_file;

void files_start(void)
{
    struct text error = {0};
    state = state_open(scratch_path("state"), &error);
    if (!state)
        fail_msg("%s", error.data);
    data_init(&data, state, VM, saved_next_file(), &limits);
    data_adopt(&data, adopted);
    kept_file = data_get(&data, adopted);
    data_sweep(&data);
}

void files_stop(void)
{
    data_finish(&data);
    state_close(state);
    state = NULL;
}

void files_restart(void)
{
    files_stop();
    files_start();
}

int files_setup(void **unused)
{
    (void)unused;
    scratch_make();
    files_start();
    return 0;
}

int files_teardown(void **unused)
{
    (void)unused;
    scratch_disk_full(0);
    if (state)
        files_stop();
    scratch_remove();
    return 0;
}

const char *file_backing_path(uint64_t number)
{
    char name[64];
    snprintf(name, sizeof(name), "state/data/%d/%" PRIu64, VM, number);
    return scratch_path(name);
}

bool file_has_backing(uint64_t number)
{
    return access(file_backing_path(number), F_OK) == 0;
}

void wait_state(void)
{
    assert_int_equal(state_wait(state, state_now(state)), 0);
}

uint64_t file_put(const char *name, const char *content)
{
    struct data_file *file;
    assert_int_equal(data_create(&data, name, false, &file), 0);
    size_t size = strlen(content);
    assert_int_equal(data_charge(file, size), 0);
    int descriptor = data_open_backing(file, O_WRONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, content, size), size);
    close(descriptor);
    data_touch(file);
    uint64_t number = file->number;
    data_unref(file);
    return number;
}

void assert_content(struct data_file *file, const char *content)
{
    char bytes[256] = "";
    int descriptor = data_open_backing(file, O_RDONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(read(descriptor, bytes, sizeof(bytes) - 1), strlen(content));
    assert_string_equal(bytes, content);
    close(descriptor);
}

void assert_file(const char *name, uint64_t number, const char *content)
{
    struct stat stat = {0};
    struct data_file *file = data_find(&data, name);
    if (!file)
        fail_msg("there is no %s", name);
    assert_int_equal(file->number, number);
    assert_content(file, content);
    data_stat(file, &stat);
    assert_int_equal(stat.st_size, strlen(content));
    assert_int_equal(stat.st_blocks, (strlen(content) + 511) / 512);
    assert_int_equal(stat.st_nlink, 1);
    struct data_file *same = data_get(&data, number);
    assert_ptr_equal(same, file);
    data_unref(same);
    data_unref(file);
}

void assert_no_file(const char *name)
{
    assert_null(data_find(&data, name));
}

void assert_usage(uint64_t bytes, uint64_t files)
{
    struct data_usage usage;
    data_usage(&data, &usage);
    assert_int_equal(usage.used_bytes, bytes);
    assert_int_equal(usage.files, files);
}

static void count_name(void *context, uint64_t number, const char *name)
{
    (void)number;
    assert_non_null(name);
    ++*(unsigned *)context;
}

void assert_saved(unsigned expected)
{
    unsigned count = 0;
    wait_state();
    assert_int_equal(state_load_files(state, VM, count_name, &count), 0);
    assert_int_equal(count, expected);
}
