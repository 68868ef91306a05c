#include "handover.h"

#include "blob.h"
#include "nodes.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Much more than results that are being read can be; a file of another sort is not read at all. */
#define MOST_BYTES (UINT64_C(16) << 30)
/* How far back a content is looked for that is there already. */
#define NEAR_CONTENTS 256

static const char magic[8] = {'v', 'g', 'p', 'u', 'f', 's', 'H', '\n'};

struct prefix {
    char magic[8];
    uint64_t version, sum, size; /* sum and size of all that follows */
};

/* FNV-1a, of 64 bits: it finds damage, not malice. */
static uint64_t sum_of(const char *bytes, size_t size)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

void handover_add(struct handover *handover, struct handover_list *list, const void *item,
                  size_t size)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        void *items = reallocarray(list->items, capacity, size);
        if (!items) {
            handover->failed = true;
            return;
        }
        list->items = items;
        list->capacity = capacity;
    }
    memcpy((char *)list->items + list->count++ * size, item, size);
}

uint64_t handover_add_blob(struct handover *handover, struct blob *blob)
{
    if (!blob)
        return 0;
    const struct handover_content *contents = handover->contents.items;
    size_t count = handover->contents.count;
    for (size_t i = count; i > 0 && count - i < NEAR_CONTENTS; i--)
        if (contents[i - 1].bytes.data == blob->data && contents[i - 1].bytes.size == blob->size &&
            contents[i - 1].job == blob->job)
            return i;
    struct handover_content content = {.job = blob->job, .bytes = {blob->data, blob->size}};
    handover_add(handover, &handover->contents, &content, sizeof(content));
    return handover->contents.count;
}

/* One walk both writes and reads, so that the two cannot differ. */
struct walk {
    struct text *out; /* NULL: it reads */
    const char *in;
    size_t left;
    bool failed; /* what is read does not end where it should */
};

static void number(struct walk *walk, uint64_t *value)
{
    if (walk->out) {
        text_append(walk->out, value, sizeof(*value));
    } else if (walk->failed || walk->left < sizeof(*value)) {
        walk->failed = true;
        *value = 0;
    } else {
        memcpy(value, walk->in, sizeof(*value));
        walk->in += sizeof(*value);
        walk->left -= sizeof(*value);
    }
}

static void bytes(struct walk *walk, struct handover_bytes *part)
{
    uint64_t size = part->size;
    number(walk, &size);
    if (walk->out) {
        text_append(walk->out, part->data, part->size);
    } else if (walk->failed || size > walk->left) {
        walk->failed = true;
        *part = (struct handover_bytes){0};
    } else {
        *part = (struct handover_bytes){walk->in, (size_t)size};
        walk->in += size;
        walk->left -= (size_t)size;
    }
}

static void numbers(struct walk *walk, uint64_t *const values[], size_t count)
{
    for (size_t i = 0; i < count; i++)
        number(walk, values[i]);
}

#define NUMBERS(walk, ...)                                                                         \
    do {                                                                                           \
        uint64_t *const values[] = {__VA_ARGS__};                                                  \
        numbers(walk, values, sizeof(values) / sizeof(values[0]));                                 \
    } while (0)

/* Each: walks one item, and says if what was read makes sense. */

static bool walk_content(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_content *content = item;
    (void)handover;
    number(walk, &content->job);
    bytes(walk, &content->bytes);
    return true;
}

static bool is_boolean(uint64_t value)
{
    return value <= 1;
}

static bool is_content(uint64_t name, const struct handover *handover)
{
    return name <= handover->contents.count;
}

static bool walk_handle(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_handle *handle = item;
    NUMBERS(walk, &handle->number, &handle->ino, &handle->nfs, &handle->writes, &handle->reads,
            &handle->content);
    bytes(walk, &handle->pending);
    return is_boolean(handle->nfs) && is_boolean(handle->writes) && is_boolean(handle->reads) &&
           is_content(handle->content, handover) && handle->pending.size <= LINES_MAX_LINE &&
           node_type_of(handle->ino) != NULL;
}

static bool walk_lines(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_lines *lines = item;
    (void)handover;
    NUMBERS(walk, &lines->ino, &lines->base, &lines->cursor, &lines->last_start, &lines->last_stop,
            &lines->writers, &lines->refused_at, &lines->active, &lines->reopened, &lines->gap,
            &lines->inside_long);
    bytes(walk, &lines->bytes);
    bytes(walk, &lines->flags);
    const struct node_type *type = node_type_of(lines->ino);
    return type && type->accept && lines->flags.size == lines->bytes.size &&
           lines->cursor <= lines->bytes.size && lines->last_start <= lines->last_stop &&
           lines->last_stop <= lines->bytes.size && lines->base <= INT64_MAX &&
           lines->writers <= UINT32_MAX && is_boolean(lines->active) &&
           is_boolean(lines->reopened) && is_boolean(lines->gap) && is_boolean(lines->inside_long);
}

static bool walk_view(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_view *view = item;
    NUMBERS(walk, &view->ino, &view->content, &view->former, &view->changed_s, &view->changed_ns,
            &view->pieces);
    const struct node_type *type = node_type_of(view->ino);
    return type && type->render && view->content && is_content(view->content, handover) &&
           is_content(view->former, handover) && view->changed_s <= INT64_MAX &&
           view->changed_ns < 1000000000 && is_boolean(view->pieces);
}

static bool walk_told(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_told *told = item;
    NUMBERS(walk, &told->vm, &told->content);
    return told->vm <= UINT16_MAX && told->content && is_content(told->content, handover);
}

static bool walk_counts(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_counts *counts = item;
    (void)handover;
    NUMBERS(walk, &counts->kind, &counts->vm);
    bytes(walk, &counts->pool);
    bytes(walk, &counts->numbers);
    /* Whoever takes them knows their kind, and how many they are. */
    return counts->vm <= UINT16_MAX;
}

/* is_request: is it a whole one, with that opcode or (0) one of those that may wait? */
static bool is_request(const struct handover_bytes *part, size_t most, uint32_t opcode)
{
    struct fuse_in_header header;
    if (part->size < sizeof(header) || part->size > most)
        return false;
    memcpy(&header, part->data, sizeof(header));
    if (header.len != part->size)
        return false;
    if (opcode)
        return header.opcode == opcode;
    size_t rest = part->size - sizeof(header);
    return (header.opcode == FUSE_READ && rest >= sizeof(struct fuse_read_in)) ||
           (header.opcode == FUSE_GETATTR && rest >= sizeof(struct fuse_getattr_in)) ||
           (header.opcode == FUSE_OPEN && rest >= sizeof(struct fuse_open_in));
}

static bool walk_request(struct walk *walk, void *item, const struct handover *handover)
{
    struct handover_request *request = item;
    (void)handover;
    bytes(walk, &request->bytes);
    return walk->out || is_request(&request->bytes, HANDOVER_MAX_REQUEST, 0);
}

static bool walk_session(struct walk *walk, struct handover_session *session)
{
    bytes(walk, &session->init);
    NUMBERS(walk, &session->library, &session->want, &session->max_write);
    return walk->out || (is_request(&session->init, HANDOVER_MAX_INIT, FUSE_INIT) &&
                         session->init.size >= sizeof(struct fuse_in_header) + 8);
}

/* The lists, in the order in which they are written: contents before those that name them. */
static const struct part {
    const char *name;
    size_t offset, size;
    bool (*walk)(struct walk *walk, void *item, const struct handover *handover);
} parts[] = {
    {"content", offsetof(struct handover, contents), sizeof(struct handover_content), walk_content},
    {"open file", offsetof(struct handover, handles), sizeof(struct handover_handle), walk_handle},
    {"written file", offsetof(struct handover, lines), sizeof(struct handover_lines), walk_lines},
    {"view", offsetof(struct handover, views), sizeof(struct handover_view), walk_view},
    {"told result", offsetof(struct handover, told), sizeof(struct handover_told), walk_told},
    {"counts", offsetof(struct handover, counts), sizeof(struct handover_counts), walk_counts},
    {"request", offsetof(struct handover, requests), sizeof(struct handover_request), walk_request},
};
#define PART_COUNT (sizeof(parts) / sizeof(parts[0]))

static struct handover_list *list_of(struct handover *handover, const struct part *part)
{
    return (struct handover_list *)(void *)((char *)handover + part->offset);
}

void handover_pack(struct handover *handover, struct text *text)
{
    size_t start = text->size;
    struct prefix prefix = {.version = HANDOVER_VERSION};
    struct walk walk = {.out = text};
    memcpy(prefix.magic, magic, sizeof(magic));
    text_append(text, &prefix, sizeof(prefix));
    walk_session(&walk, &handover->session);
    for (size_t i = 0; i < PART_COUNT; i++) {
        struct handover_list *list = list_of(handover, &parts[i]);
        uint64_t count = list->count;
        number(&walk, &count);
        for (size_t j = 0; j < list->count; j++)
            parts[i].walk(&walk, (char *)list->items + j * parts[i].size, handover);
    }
    text->failed = text->failed || handover->failed;
    if (text->failed)
        return;
    prefix.size = text->size - start - sizeof(prefix);
    prefix.sum = sum_of(text->data + start + sizeof(prefix), (size_t)prefix.size);
    memcpy(text->data + start, &prefix, sizeof(prefix));
}

static int list_parse(struct handover *handover, const struct part *part, struct walk *walk,
                      struct text *error)
{
    struct handover_list *list = list_of(handover, part);
    uint64_t count;
    number(walk, &count);
    if (walk->failed || count > walk->left / sizeof(uint64_t)) { /* each has one number at least */
        text_puts(error, "damaged: it ends too early");
        return -1;
    }
    list->items = calloc(count ? (size_t)count : 1, part->size);
    if (!list->items) {
        text_puts(error, "too large for the memory");
        return -1;
    }
    list->capacity = (size_t)count;
    for (; list->count < count; list->count++) {
        bool sound = part->walk(walk, (char *)list->items + list->count * part->size, handover);
        if (!walk->failed && sound)
            continue;
        text_printf(error, "damaged: %s %zu", part->name, list->count);
        return -1;
    }
    return 0;
}

static int blobs_make(struct handover *handover, struct text *error)
{
    const struct handover_content *contents = handover->contents.items;
    handover->blobs = calloc(handover->contents.count + 1, sizeof(struct blob *));
    for (size_t i = 0; handover->blobs && i < handover->contents.count; i++) {
        struct text text = {0};
        text_append(&text, contents[i].bytes.data, contents[i].bytes.size);
        handover->blobs[i] = blob_from_text(&text);
        if (!handover->blobs[i])
            break;
        handover->blobs[i]->job = contents[i].job;
    }
    size_t count = handover->contents.count;
    if (handover->blobs && (count == 0 || handover->blobs[count - 1]))
        return 0;
    text_puts(error, "too large for the memory");
    return -1;
}

int handover_parse(struct handover *handover, const char *data, size_t size, struct text *error)
{
    struct prefix prefix;
    *handover = (struct handover){0};
    if (size < sizeof(prefix) || memcmp(data, magic, sizeof(magic)) != 0) {
        text_puts(error, "none of vgpufs");
        return -1;
    }
    memcpy(&prefix, data, sizeof(prefix));
    if (prefix.version != HANDOVER_VERSION) {
        text_printf(error, "of form %llu, and this version knows %d",
                    (unsigned long long)prefix.version, HANDOVER_VERSION);
        return -1;
    }
    struct walk walk = {.in = data + sizeof(prefix), .left = size - sizeof(prefix)};
    if (prefix.size != walk.left || prefix.sum != sum_of(walk.in, walk.left)) {
        text_puts(error, "damaged: its sum is wrong");
        return -1;
    }
    int result = walk_session(&walk, &handover->session) && !walk.failed ? 0 : -1;
    if (result < 0)
        text_puts(error, "damaged: the session");
    for (size_t i = 0; i < PART_COUNT && result == 0; i++)
        result = list_parse(handover, &parts[i], &walk, error);
    if (result == 0 && walk.left) {
        text_puts(error, "damaged: it goes on behind its end");
        result = -1;
    }
    if (result == 0)
        result = blobs_make(handover, error);
    if (result < 0)
        handover_finish(handover);
    return result;
}

struct blob *handover_blob(const struct handover *handover, uint64_t name)
{
    return name ? blob_ref(handover->blobs[name - 1]) : NULL;
}

void handover_finish(struct handover *handover)
{
    for (size_t i = 0; handover->blobs && i < handover->contents.count; i++)
        blob_unref(handover->blobs[i]);
    free(handover->blobs);
    for (size_t i = 0; i < PART_COUNT; i++)
        free(list_of(handover, &parts[i])->items);
    *handover = (struct handover){0};
}

int handover_write(const struct text *packed, struct text *error)
{
    int file = memfd_create("vgpufs-handover", MFD_CLOEXEC);
    for (size_t done = 0; file >= 0 && done < packed->size;) {
        ssize_t written = write(file, packed->data + done, packed->size - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            int failure = errno;
            close(file);
            errno = failure;
            file = -1;
        }
        done += written > 0 ? (size_t)written : 0;
    }
    if (file < 0)
        text_printf(error, "cannot keep it in memory: %s", strerror(errno));
    return file;
}

int handover_read(int file, struct text *packed, struct text *error)
{
    struct stat stat;
    if (fstat(file, &stat) < 0 || !S_ISREG(stat.st_mode) || (uint64_t)stat.st_size > MOST_BYTES) {
        text_puts(error, "no file of vgpufs");
        return -1;
    }
    size_t size = (size_t)stat.st_size;
    if (!text_reserve(packed, size)) {
        text_puts(error, "too large for the memory");
        return -1;
    }
    while (packed->size < size) {
        ssize_t got =
            pread(file, packed->data + packed->size, size - packed->size, (off_t)packed->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            text_printf(error, "not to be read: %s", got < 0 ? strerror(errno) : "it shrinks");
            return -1;
        }
        packed->size += (size_t)got;
    }
    return 0;
}
