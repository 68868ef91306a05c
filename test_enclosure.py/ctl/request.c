#include "request.h"

#include "common/number.h"
#include "config.h"
#include "ctl/snapshot.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define WORD_MAX 64 /* bytes of a tag, the longest word */

int request_parse_vm(const char *word, unsigned *id)
{
    uint64_t value;
    if (strncmp(word, "vm", 2) == 0)
        word += 2;
    if (number_parse(word, 0, CONFIG_MAX_VM_ID, &value) != 0)
        return -1;
    *id = (unsigned)value;
    return 0;
}

/* One word of one line: nothing that a blank or a newline would turn into something else. */
static int word_check(const char *word)
{
    size_t length = strlen(word);
    if (length == 0 || length > WORD_MAX)
        return -1;
    for (; *word; word++)
        if (*word <= ' ' || *word > '~')
            return -1;
    return 0;
}

static int word_append(struct text *line, char kind, const char *word)
{
    unsigned id;
    uint64_t priority;
    if (word_check(word) != 0)
        return -1;
    switch (kind) {
    case 'v':
        if (request_parse_vm(word, &id) != 0)
            return -1;
        text_printf(line, " vm%u", id);
        return 0;
    case 'p':
        if (number_parse(word, 0, 2, &priority) != 0)
            return -1;
        break;
    case 't': /* no pool is named by a number */
        if (isdigit((unsigned char)*word)) {
            if (request_parse_vm(word, &id) != 0)
                return -1;
            text_printf(line, " vm%u", id);
            return 0;
        }
        break;
    default:
        break;
    }
    text_printf(line, " %s", word);
    return 0;
}

static const char *kind_words(char kind)
{
    switch (kind) {
    case 'v':
        return "a VM, as vm3";
    case 'p':
        return "a priority: 2 high, 1 medium, 0 low";
    case 'j':
        return "a job's number or tag, or all";
    default:
        return "a pool or a VM, as A or vm3";
    }
}

int request_make(struct text *line, const char *verb, const char *kinds, char *const *words,
                 struct text *error)
{
    text_puts(line, verb);
    for (size_t i = 0; kinds[i]; i++) {
        if (word_append(line, kinds[i], words[i]) == 0)
            continue;
        text_printf(error, "%s: \"", verb);
        text_escape(error, words[i], strlen(words[i]), WORD_MAX);
        text_printf(error, "\" is not %s", kind_words(kinds[i]));
        return -1;
    }
    text_puts(line, "\n");
    if (!line->failed)
        return 0;
    text_puts(error, "out of memory");
    return -1;
}

/* names_append says which names the words could have had. */
static void names_append(struct text *error, const char *mount, const char *kinds)
{
    struct snapshot snapshot;
    struct text ignored = {0};
    if (snapshot_read(&snapshot, mount, &ignored) == 0) {
        if (strchr(kinds, 't')) {
            text_puts(error, "; pools:");
            for (size_t i = 0; i < snapshot.record_count; i++) {
                const char *kind = record_word(&snapshot.records[i], 0);
                const char *name = record_word(&snapshot.records[i], 1);
                if (kind && name && strcmp(kind, "pool") == 0) {
                    text_puts(error, " ");
                    text_escape(error, name, strlen(name), WORD_MAX);
                }
            }
        }
        snapshot_finish(&snapshot);
    }
    text_finish(&ignored);
    if (strpbrk(kinds, "tv"))
        text_puts(error, "; the VMs are the vm directories of the mount");
    if (strchr(kinds, 'j'))
        text_puts(error, "; jobs that have not ended: `vgpuctl queue`");
}

static const struct {
    int error;
    const char *words;
    bool names;
} explanations[] = {
    {EINVAL, "the daemon does not know such a name, or not here", true},
    {ENOENT, "there is nothing of that name", true},
    {EACCES, "run vgpuctl as root", false},
    {EPERM, "run vgpuctl as root", false},
    {EROFS, "the daemon drains: `vgpuctl resume` first", false},
    {EFBIG, "the line is too long", false},
    {ENOSPC, "the disk of the daemon's state directory is full: make room there", false},
    {EDQUOT, "a limit of the VM is reached: see its status file", false},
    {ESTALE, "the daemon was started anew meanwhile: try again", false},
    {ENOTCONN, "the daemon has ended without unmounting: start vgpufs again", false},
    {ECONNABORTED, "the daemon has gone: start vgpufs again", false},
};

static void explain(struct text *error, const char *mount, const struct text *line,
                    const char *kinds, int number)
{
    text_append(error, line->data, line->size - 1);
    text_printf(error, ": %s", strerror(number));
    for (size_t i = 0; i < sizeof(explanations) / sizeof(explanations[0]); i++) {
        if (explanations[i].error != number)
            continue;
        text_printf(error, ": %s", explanations[i].words);
        if (explanations[i].names)
            names_append(error, mount, kinds);
        return;
    }
    text_puts(error, ": see the log of vgpufs");
}

int request_send(const char *mount, const struct text *line, const char *kinds, struct text *error)
{
    int descriptor = mount_open(mount, "ctl", O_WRONLY, error);
    if (descriptor < 0)
        return -1;
    int number = 0;
    ssize_t written;
    do
        written = write(descriptor, line->data, line->size);
    while (written < 0 && errno == EINTR);
    if (written < 0)
        number = errno;
    else if ((size_t)written != line->size)
        number = EIO;
    /* A filesystem may report at close what it did not at write. */
    if (close(descriptor) != 0 && number == 0 && errno != EINTR)
        number = errno;
    if (number == 0)
        return 0;
    explain(error, mount, line, kinds, number);
    return -1;
}
