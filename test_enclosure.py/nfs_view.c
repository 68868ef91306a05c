#include "nfs_view.h"

#include "clock.h"
#include "nfs_lines.h"
#include "nodes.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Who has read a piece comes for the next one in this time. */
#define PIECE_US 200000
/* How long after its last use a version counts as being read. */
#define RECENT_US 2000000
#define MAX_VIEWS 256

/* How long after it was replaced a version is still read by who was told its size. */
#define FORMER_US 10000000

/* What changes by itself has a multiple of this size, less 1; nothing else is padded. The 1 is
 * missing so that who reads in powers of two never asks for just a former version's size. */
static const size_t widths[NODE_KINDS] = {
    [NODE_STATS] = 4096,  [NODE_STATS_JSON] = 4096, [NODE_METRICS] = 4096, [NODE_QUEUE] = 4096,
    [NODE_STATUS] = 1024, [NODE_JOB_STATUS] = 256,  [NODE_RESPONSE] = 256,
};

struct nfs_view {
    struct table_entry by_ino;
    uint64_t ino;
    struct blob *content;
    struct timespec changed;
    uint64_t used_us;
    uint64_t piece_us; /* when a part was read that did not reach the end; 0: since then the end */
    struct blob *former; /* the last version of another size; NULL: there was none */
    uint64_t former_us;  /* when it was replaced */
};

void nfs_views_init(struct nfs_views *views)
{
    *views = (struct nfs_views){0};
    pthread_mutex_init(&views->lock, NULL);
}

static void view_free(struct nfs_views *views, struct nfs_view *view)
{
    table_remove(&views->views, &view->by_ino);
    blob_unref(view->content);
    blob_unref(view->former);
    free(view);
}

void nfs_views_finish(struct nfs_views *views)
{
    for (struct table_entry *entry; (entry = table_next(&views->views, NULL));)
        view_free(views, container_of(entry, struct nfs_view, by_ino));
    table_finish(&views->views);
    pthread_mutex_destroy(&views->lock);
}

static struct nfs_views *views_of(const struct node *node)
{
    return node->vm ? &node->vm->nfs_views : &node->server->nfs_views;
}

static struct nfs_view *view_find(struct nfs_views *views, uint64_t ino)
{
    struct table_entry *entry = table_find(&views->views, table_hash_number(ino));
    for (; entry; entry = table_find_next(entry)) {
        struct nfs_view *view = container_of(entry, struct nfs_view, by_ino);
        if (view->ino == ino)
            return view;
    }
    return NULL;
}

/* make_room frees the view that was not used for longest. */
static void make_room(struct nfs_views *views)
{
    struct nfs_view *oldest = NULL;
    if (views->views.count < MAX_VIEWS)
        return;
    for (struct table_entry *entry = NULL; (entry = table_next(&views->views, entry));) {
        struct nfs_view *view = container_of(entry, struct nfs_view, by_ino);
        if (!oldest || view->used_us < oldest->used_us)
            oldest = view;
    }
    view_free(views, oldest);
}

static struct nfs_view *view_get(struct nfs_views *views, uint64_t ino)
{
    struct nfs_view *view = view_find(views, ino);
    if (view)
        return view;
    make_room(views);
    view = calloc(1, sizeof(*view));
    if (!view)
        return NULL;
    view->ino = ino;
    if (table_insert(&views->views, &view->by_ino, table_hash_number(ino)) == 0)
        return view;
    free(view);
    return NULL;
}

/* pad makes the text `width` bytes long; it ends in a newline. */
static void pad(struct text *text, enum node_kind kind, size_t width)
{
    static const char blanks[] = "                                                                ";
    size_t missing = width - text->size;
    if (text->failed || missing == 0)
        return;
    if (kind == NODE_METRICS) { /* blanks behind a sample are none of the format */
        text_puts(text, "#");
        missing--;
    } else {
        text->size--;
    }
    while (missing > 0) {
        size_t some = missing < sizeof(blanks) - 1 ? missing : sizeof(blanks) - 1;
        text_append(text, blanks, some);
        missing -= some;
    }
    if (kind == NODE_METRICS)
        text->size--;
    text_puts(text, "\n");
}

/* view_render makes what the file holds now, as wide as `old` if that is enough. */
static struct blob *view_render(const struct node *node, size_t old)
{
    struct text text = {0};
    enum node_kind kind = node->type->kind;
    if (node->type->accept && nfs_lines_render(node, &text))
        return blob_from_text(&text);
    node->type->render(node, &text);
    size_t unit = widths[kind];
    if (unit && text.size) {
        size_t roomy = text.size + text.size / 4;
        pad(&text, kind, old >= text.size ? old : (roomy / unit + 1) * unit - 1);
    }
    return blob_from_text(&text);
}

static bool same(const struct blob *a, const struct blob *b)
{
    return a && a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static void view_replace(struct nfs_view *view, struct blob *made, uint64_t now_us)
{
    struct blob *old = view->content;
    if (old && old->size != made->size) {
        struct blob *forgotten = view->former;
        view->former = old;
        view->former_us = now_us;
        old = forgotten;
    }
    blob_unref(old);
    view->content = made;
}

/* view_update takes `made`, if nobody is in the middle of reading the old version. */
static void view_update(struct nfs_view *view, struct blob *made, uint64_t now_us)
{
    bool reading = view->piece_us && now_us - view->piece_us < PIECE_US;
    if ((reading && view->content) || same(view->content, made)) {
        blob_unref(made);
    } else {
        view_replace(view, made, now_us);
        view->changed = clock_change();
        view->piece_us = 0;
    }
    view->used_us = now_us;
}

int nfs_view_stat(const struct node *node, off_t *size, struct timespec *changed)
{
    struct nfs_views *views = views_of(node);
    uint64_t ino = node_self_ino(node), now_us = clock_now_us();
    pthread_mutex_lock(&views->lock);
    const struct nfs_view *known = view_find(views, ino);
    size_t old = known && known->content ? known->content->size : 0;
    pthread_mutex_unlock(&views->lock);
    struct blob *made = view_render(node, old);
    if (!made)
        return ENOSPC;
    pthread_mutex_lock(&views->lock);
    struct nfs_view *view = view_get(views, ino);
    if (view) {
        view_update(view, made, now_us);
        *size = (off_t)view->content->size;
        *changed = view->changed;
    } else {
        blob_unref(made);
    }
    pthread_mutex_unlock(&views->lock);
    return view ? 0 : ENOSPC;
}

bool nfs_view_peek(const struct node *node, off_t *size, struct timespec *changed)
{
    struct nfs_views *views = views_of(node);
    pthread_mutex_lock(&views->lock);
    const struct nfs_view *view = views->views.count ? view_find(views, node_self_ino(node)) : NULL;
    bool recent = view && clock_now_us() - view->used_us < RECENT_US;
    if (recent) {
        *size = (off_t)view->content->size;
        *changed = view->changed;
    }
    pthread_mutex_unlock(&views->lock);
    return recent;
}

/*
 * reads_former: a client asks for as many bytes as it was told. The kernel's server asks for the
 * attributes again before it reads, for the permissions, and that may have made a longer version,
 * of which the client would see the beginning. What a client has written changes when it writes.
 */
static bool reads_former(const struct nfs_view *view, const struct node *node, uint64_t offset,
                         size_t size)
{
    return widths[node->type->kind] && view->former && offset == 0 && size == view->former->size &&
           view->used_us - view->former_us < FORMER_US;
}

/* view_known returns a reference to the version that there is, or NULL. */
static struct blob *view_known(const struct node *node, uint64_t offset, size_t size)
{
    struct nfs_views *views = views_of(node);
    struct blob *content = NULL;
    pthread_mutex_lock(&views->lock);
    struct nfs_view *view = view_find(views, node_self_ino(node));
    if (view) {
        view->used_us = clock_now_us();
        bool former = reads_former(view, node, offset, size);
        content = blob_ref(former ? view->former : view->content);
        bool whole = offset >= content->size || size >= content->size - offset;
        if (!former)
            view->piece_us = whole ? 0 : view->used_us;
    }
    pthread_mutex_unlock(&views->lock);
    return content;
}

struct blob *nfs_view_read(const struct node *node, uint64_t offset, size_t size)
{
    off_t length;
    struct timespec changed;
    struct blob *content = view_known(node, offset, size);
    if (content || nfs_view_stat(node, &length, &changed) != 0)
        return content;
    return view_known(node, offset, size);
}
