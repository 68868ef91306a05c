/*
 * handover: what one daemon leaves for the next. The input is all that stands behind the prefix,
 * whose sum is made right: it is refused with words, or what was read says the same when it is
 * written again, and a daemon can go on with it: its open files, NFS buffers and views.
 */
#include "folder.h"
#include "fs_handle.h"
#include "fs_handle_internal.h"
#include "fuzz.h"
#include "handle_numbers.h"
#include "handover.h"
#include "nfs_view.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_BYTES 32

static struct server server;

static void submit(struct vm *vm, const char *text)
{
    struct line line = {.bytes = text, .size = strlen(text), .newline = true};
    CHECK(vm_submit(vm, VIA_SUBMIT, NULL, &line, 1) == 0);
}

/* vm_fill: jobs of each sort and a data file, so that inode numbers name something. */
static void vm_fill(struct vm *vm)
{
    struct job *made;
    struct data_file *file;
    submit(vm, "NOP");
    CHECK(vm_mkdir(vm, "new", &made) == 0);
    job_unref(made);
    submit(vm, "NOP tag=ended");
    CHECK(vm_cancel(vm, "ended", NULL) == 0);
    CHECK(data_create(&vm->data, "x", true, &file) == 0);
    data_unref(file);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    folder_make();
    const struct config *config = daemon_config("vms = 1-3\ndurability = none\n");
    daemon_begin(&server, config);
    vm_fill(server_find_vm(&server, 1));
    vm_fill(server_find_vm(&server, 3));
    state_settle(server.state);
    return 0;
}

/* packed_of puts the right prefix before the input. */
static void packed_of(const uint8_t *data, size_t size, struct text *packed)
{
    static const char magic[8] = {'v', 'g', 'p', 'u', 'f', 's', 'H', '\n'};
    uint64_t numbers[] = {HANDOVER_VERSION, UINT64_C(0xcbf29ce484222325), size};
    for (size_t i = 0; i < size; i++)
        numbers[1] = (numbers[1] ^ data[i]) * UINT64_C(0x100000001b3);
    text_append(packed, magic, sizeof(magic));
    text_append(packed, numbers, sizeof(numbers));
    text_append(packed, data, size);
    CHECK(!packed->failed && packed->size == PREFIX_BYTES + size);
}

static void check_packs_again(struct handover *handover, const struct text *packed)
{
    struct text again = {0};
    handover_pack(handover, &again);
    CHECK(!again.failed && again.size == packed->size);
    CHECK(memcmp(again.data, packed->data, again.size) == 0);
    text_finish(&again);
}

/* Going on with it, as session.c does. */

static int take(const struct handover *handover)
{
    const struct handover_lines *lines = handover->lines.items;
    const struct handover_view *views = handover->views.items;
    const struct handover_told *told = handover->told.items;
    int result = handles_restore(&server, handover);
    for (size_t i = 0; i < handover->lines.count && result == 0; i++)
        result = nfs_lines_restore(&server, &lines[i]);
    for (size_t i = 0; i < handover->views.count && result == 0; i++)
        result = nfs_view_restore(&server, handover, &views[i]);
    for (size_t i = 0; i < handover->told.count; i++)
        vm_told_restore(&server, handover, &told[i]);
    return result;
}

/* use_node reads and writes the file of a handle as NFS clients do. */
static void use_node(const struct node *node)
{
    struct text text = {0};
    uint64_t size;
    if (node->type->render) {
        struct blob *view = nfs_view_read(node, 0, 65536);
        CHECK(view);
        blob_unref(view);
    }
    if (node->type->accept) {
        if (nfs_lines_size(node, &size)) {
            CHECK(nfs_lines_render(node, &text));
            CHECK(!text.failed);
        }
        nfs_lines_write(node, 0, "NOP\n", 4);
        nfs_lines_flush(node);
    }
    text_finish(&text);
}

static void use(void)
{
    for (struct handle *handle = handles_first(); handle; handle = handle->next) {
        CHECK(handle_numbers_get(handle->number) == handle);
        CHECK(handle_node(handle)->type);
        if (!handle->gone)
            use_node(handle_node(handle));
    }
    nfs_lines_tick(&server, UINT64_MAX - 1); /* what nobody goes on with is over */
}

/* save writes what was taken for yet another daemon. */
static void save(void)
{
    struct handover handover = {0}, again = {0};
    struct text packed = {0}, error = {0};
    static char init[64];
    handover.session = (struct handover_session){.init = {init, sizeof(init)}};
    handles_save(&handover);
    for (struct vm *vm = atomic_load(&server.vms); vm; vm = atomic_load(&vm->next)) {
        nfs_lines_save(&vm->nfs_lines, &handover);
        nfs_views_save(&vm->nfs_views, &handover);
        vm_told_save(vm, &handover);
    }
    nfs_lines_save(&server.nfs_lines, &handover);
    nfs_views_save(&server.nfs_views, &handover);
    uint32_t header[] = {sizeof(init), 26}; /* FUSE_INIT */
    memcpy(init, header, sizeof(header));
    handover_pack(&handover, &packed);
    if (handover_parse(&again, packed.data, packed.size, &error) < 0)
        fuzz_failed(__FILE__, __LINE__, error.data);
    handover_finish(&again);
    handover_finish(&handover);
    text_finish(&packed);
}

static void give_back(void)
{
    handles_finish();
    nfs_lines_finish(&server.nfs_lines);
    nfs_lines_init(&server.nfs_lines);
    nfs_views_finish(&server.nfs_views);
    nfs_views_init(&server.nfs_views);
    for (struct vm *vm = atomic_load(&server.vms); vm; vm = atomic_load(&vm->next)) {
        nfs_lines_finish(&vm->nfs_lines);
        nfs_lines_init(&vm->nfs_lines);
        nfs_views_finish(&vm->nfs_views);
        nfs_views_init(&vm->nfs_views);
        blob_unref(vm->told);
        vm->told = NULL;
        CHECK(atomic_load(&vm->openings.files) == 0);
        vm_cancel(vm, "all", NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct handover handover;
    struct text packed = {0}, error = {0};
    packed_of(data, size, &packed);
    if (handover_parse(&handover, packed.data, packed.size, &error) == 0) {
        check_packs_again(&handover, &packed);
        if (take(&handover) == 0) {
            use();
            save();
        }
        handover_finish(&handover);
        give_back();
    } else {
        CHECK(error.size && !memchr(error.data, '\n', error.size));
    }
    text_finish(&error);
    text_finish(&packed);
    return 0;
}
