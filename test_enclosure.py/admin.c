#include "admin.h"

#include "common/log.h"
#include "common/number.h"
#include "pool.h"
#include "server.h"
#include "vm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define MAX_WORDS 4

/* The words of a line; words[0] is the verb. */
struct words {
    char storage[256];
    char *word[MAX_WORDS];
    size_t count;
};

static int words_cut(const struct line *line, struct words *words)
{
    if (line->size >= sizeof(words->storage) || memchr(line->bytes, '\0', line->size))
        return EINVAL;
    memcpy(words->storage, line->bytes, line->size);
    words->storage[line->size] = '\0';
    words->count = 0;
    char *rest = NULL;
    for (char *word = strtok_r(words->storage, " \t", &rest); word;
         word = strtok_r(NULL, " \t", &rest)) {
        if (words->count == MAX_WORDS)
            return EINVAL;
        words->word[words->count++] = word;
    }
    return 0;
}

static struct vm *vm_named(struct server *server, const char *name)
{
    uint64_t id;
    if (strncmp(name, "vm", 2) != 0 || number_parse(name + 2, 1, CONFIG_MAX_VM_ID, &id) < 0)
        return NULL;
    return server_find_vm(server, (unsigned)id);
}

/*
 * A verb is run twice: first to look whether everything it names is there (`really` false), for all
 * lines of the batch, then to do it. 0 or EINVAL.
 */
typedef int verb_fn(struct server *server, const struct words *words, bool really);

static int hold(struct server *server, const char *name, bool held, bool really)
{
    struct vm *vm = vm_named(server, name);
    struct pool *pool = server_find_pool(server, name);
    if (vm && really)
        vm_hold(vm, held);
    else if (pool && really)
        pool_hold(pool, held);
    return vm || pool ? 0 : EINVAL;
}

static int do_hold(struct server *server, const struct words *words, bool really)
{
    return hold(server, words->word[1], true, really);
}

static int do_release(struct server *server, const struct words *words, bool really)
{
    return hold(server, words->word[1], false, really);
}

static int drain(struct server *server, bool draining)
{
    atomic_store(&server->draining, draining);
    state_put_draining(server->state, draining);
    return 0;
}

static int do_drain(struct server *server, const struct words *words, bool really)
{
    (void)words;
    return really ? drain(server, true) : 0;
}

static int do_resume(struct server *server, const struct words *words, bool really)
{
    (void)words;
    return really ? drain(server, false) : 0;
}

static bool has_job(struct vm *vm, const char *tag)
{
    struct job *job = vm_find_tag(vm, tag);
    job_unref(job);
    return job != NULL;
}

static int do_cancel(struct server *server, const struct words *words, bool really)
{
    struct vm *vm = vm_named(server, words->word[1]);
    const char *tag = words->word[2];
    if (!vm || (strcmp(tag, "all") != 0 && !has_job(vm, tag)))
        return EINVAL;
    return really ? vm_cancel(vm, tag, "cancelled by the administrator") : 0;
}

static bool is_queued(struct vm *vm, const char *tag)
{
    struct job *job = vm_find_tag(vm, tag);
    bool queued = job && job_state(job) == JOB_QUEUED;
    job_unref(job);
    return queued;
}

static int do_priority(struct server *server, const struct words *words, bool really)
{
    struct vm *vm = vm_named(server, words->word[1]);
    uint64_t priority;
    if (!vm || !is_queued(vm, words->word[2]) || number_parse(words->word[3], 0, 2, &priority) < 0)
        return EINVAL;
    return really ? vm_set_priority(vm, words->word[2], (unsigned)priority) : 0;
}

static int do_purge(struct server *server, const struct words *words, bool really)
{
    struct vm *vm = vm_named(server, words->word[1]);
    if (vm && really)
        vm_purge(vm);
    return vm ? 0 : EINVAL;
}

static const struct verb {
    const char *name;
    size_t words; /* the verb included */
    const char *usage;
    verb_fn *run;
} verbs[] = {
    {"hold", 2, "hold POOL|vmN", do_hold},
    {"release", 2, "release POOL|vmN", do_release},
    {"drain", 1, "drain", do_drain},
    {"resume", 1, "resume", do_resume},
    {"cancel", 3, "cancel vmN TAG|all", do_cancel},
    {"priority", 4, "priority vmN TAG 0|1|2 (of a queued job)", do_priority},
    {"purge", 2, "purge vmN", do_purge},
};

static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER; /* guards `last` */
static char last[256];

int admin_refuse(int error, const struct line *line, const char *text)
{
    struct text escaped = {0};
    text_escape(&escaped, line->bytes, line->size, 200);
    log_warning("ctl: \"%s\": %s", escaped.data ? escaped.data : "", text);
    text_finish(&escaped);
    return error;
}

/* admin_line looks at a line, or does what it asks for. */
static int admin_line(struct server *server, const struct line *line, bool really)
{
    struct words words;
    const struct verb *verb = NULL;
    if (words_cut(line, &words) != 0)
        return admin_refuse(EINVAL, line, "too many words, or a NUL byte");
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(words.word[0], verbs[i].name) == 0)
            verb = &verbs[i];
    if (!verb)
        return admin_refuse(EINVAL, line,
                            "verbs: hold, release, drain, resume, cancel, priority, purge");
    int error = verb->words == words.count ? verb->run(server, &words, really) : EINVAL;
    return error ? admin_refuse(error, line, verb->usage) : 0;
}

/* admin_note keeps the line for reading back, and logs it. */
static void admin_note(const struct line *line)
{
    struct text escaped = {0};
    pthread_mutex_lock(&last_lock);
    snprintf(last, sizeof(last), "%.*s%s", (int)line->size, line->bytes, line->newline ? "\n" : "");
    pthread_mutex_unlock(&last_lock);
    text_escape(&escaped, line->bytes, line->size, 200);
    log_info("ctl: %s", escaped.data ? escaped.data : "");
    text_finish(&escaped);
}

int admin_accept(struct server *server, const struct line *batch, size_t count)
{
    int error = 0;
    for (size_t i = 0; i < count && !error; i++)
        error = admin_line(server, &batch[i], false);
    for (size_t i = 0; i < count && !error; i++) {
        error = admin_line(server, &batch[i], true);
        if (!error)
            admin_note(&batch[i]);
    }
    return error;
}

void admin_render(struct server *server, struct text *text)
{
    (void)server;
    pthread_mutex_lock(&last_lock);
    text_puts(text, last);
    pthread_mutex_unlock(&last_lock);
}
