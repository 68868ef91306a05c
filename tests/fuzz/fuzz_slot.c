/*
 * The daemon's side of the protocol: a slot reads what an executor sends, its words on standard
 * error too. Whatever comes, a job that ends has ended once and with words, and a slot that lost
 * its executor holds no descriptor. The first byte says which state the slot is in.
 */
#include "clock.h"
#include "common/log.h"
#include "fuzz.h"
#include "job.h"
#include "pool_internal.h"
#include "server.h"
#include "vm.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Above the largest that Linux gives out: killing its group hurts nobody. */
#define NO_PROCESS 0x3fffffff
#define ATTEMPT    1
#define MAX_OUTPUT 1000

enum situation { IS_STARTING, IS_IDLE, IS_BUSY, IS_CANCELLED, SITUATIONS };

static struct server server;
static struct pool pool;
static struct vm vm;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_init("fuzz_slot", LOG_LEVEL_ERROR);
    pool.server = &server;
    pool.name = "A";
    pool.epoll = -1;
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.slots_changed, NULL);
    vm.server = &server;
    vm.id = 3;
    return 0;
}

static void slot_enter(struct slot *slot, enum situation situation)
{
    slot_init(slot, &pool, 0);
    slot->pid = NO_PROCESS;
    slot->due_us = UINT64_MAX;
    slot->state = situation == IS_STARTING ? SLOT_STARTING
                  : situation == IS_IDLE   ? SLOT_IDLE
                                           : SLOT_BUSY;
    if (slot->state != SLOT_BUSY)
        return;
    slot->run = (struct run){.job = job_create(&vm, "fuzzed", NULL),
                             .attempt = ATTEMPT,
                             .max_output_bytes = MAX_OUTPUT,
                             .limit_us = UINT64_MAX,
                             .kill_us = UINT64_MAX,
                             .cancelled = situation == IS_CANCELLED};
    CHECK(slot->run.job);
    slot->run.cancel_error = situation == IS_CANCELLED ? "by ctl" : NULL;
}

static void check_ending(const struct ending *ending)
{
    CHECK(ending->run.output.size <= MAX_OUTPUT);
    switch (ending->outcome.state) {
    case JOB_DONE:
        CHECK(!ending->outcome.error);
        break;
    case JOB_FAILED:
        CHECK(ending->outcome.error && ending->outcome.error[0]);
        break;
    case JOB_CANCELLED:
        CHECK(ending->run.cancelled);
        break;
    default:
        CHECK(!"a job ends as one of these");
    }
    CHECK(ending->outcome.exit_code >= -1 && ending->outcome.exit_code <= 255);
}

/* feed writes both streams, and closes them: whatever is read after that is the end. */
static void feed(struct link *link, const uint8_t *data, size_t size)
{
    int frames[2], errors[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, frames) == 0);
    CHECK(pipe2(errors, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK(send(frames[1], data, size, MSG_DONTWAIT) >= 0);
    CHECK(write(errors[1], data, size < 4096 ? size : 4096) >= 0);
    close(errors[1]);
    shutdown(frames[1], SHUT_WR);
    link_open(link, frames[0], errors[0]);
    /* It does not read what the slot says: that must hurt nobody. */
    close(frames[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slot slot;
    struct ending ending = {0};
    unsigned ended = 0;
    if (size < 2 || size > 100000)
        return 0;
    slot_enter(&slot, data[0] % SITUATIONS);
    feed(&slot.link, data + 1, size - 1);
    slot_read_errors(&slot);
    for (unsigned i = 0; i < 100 && slot.link.connection >= 0; i++) {
        slot_read(&slot, &ending);
        if (!ending.run.job)
            continue;
        check_ending(&ending);
        CHECK(++ended == 1 && !slot.run.job);
        run_finish(&ending.run);
    }
    CHECK(slot.link.connection == -1 && slot.link.errors == -1 && slot.state == SLOT_DYING);
    run_finish(&slot.run);
    return 0;
}
