/*
 * The executor's side of the protocol: a whole session on what a daemon may send, with a backend
 * that computes nothing and asks for what workloads ask for. The first byte says how many
 * descriptors go along.
 */
#include "common/log.h"
#include "executor/serve.h"
#include "fuzz.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int saved_in, saved_out, null, file;

static const char *device_name(void)
{
    return "none";
}

static enum job_status use_files(struct job *job)
{
    for (size_t i = 0; i < job->info->param_count; i++) {
        const struct workload_param *param = &job->info->params[i];
        uint64_t bytes;
        if (!job_given(job, param->name))
            continue;
        if (param->type == PARAM_FILE_IN && job_file_size(job, param->name, &bytes) < 0)
            return job_end(job);
        if (param->type == PARAM_FILE_OUT && job_reserve(job, param->name, 4096) < 0)
            return job_end(job);
    }
    return JOB_DONE;
}

static enum job_status run(const struct workload *workload, struct job *job)
{
    CHECK(workload && strcmp(workload->info.name, job->info->name) == 0);
    job_printf(job, "%s\n", workload->info.name);
    if (job_step(job, 0.5) < 0)
        return job_end(job);
    return use_files(job);
}

static const char *broken(void)
{
    return NULL;
}

static const struct backend nothing = {
    .name = "nothing", .device_name = device_name, .run = run, .broken = broken};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_init("fuzz_executor", LOG_LEVEL_ERROR);
    saved_in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10);
    saved_out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    file = memfd_create("fuzzed", MFD_CLOEXEC);
    CHECK(saved_in >= 0 && saved_out >= 0 && null >= 0 && file >= 0);
    CHECK(ftruncate(file, 4096) == 0);
    return 0;
}

static void send_all(int socket, const uint8_t *data, size_t size, size_t descriptors)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FRAME_MAX_DESCRIPTORS)];
        struct cmsghdr align;
    } control = {0};
    char *copy = fuzz_copy(data, size);
    struct iovec part = {.iov_base = copy, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptors) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS,
                                   .cmsg_len = CMSG_LEN(sizeof(int) * descriptors)};
        for (size_t i = 0; i < descriptors; i++)
            memcpy(CMSG_DATA(header) + i * sizeof(int), &file, sizeof(int));
    }
    CHECK(sendmsg(socket, &message, MSG_DONTWAIT) >= 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int sockets[2];
    if (size < 2 || size > 100000)
        return 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
    send_all(sockets[1], data + 1, size - 1, data[0] % (FRAME_MAX_DESCRIPTORS + 1));
    shutdown(sockets[1], SHUT_WR);
    CHECK(dup2(sockets[0], STDIN_FILENO) == STDIN_FILENO);
    CHECK(dup2(null, STDOUT_FILENO) == STDOUT_FILENO);
    close(sockets[0]);
    int status = serve(&nothing, "");
    CHECK(status == EXIT_SUCCESS || status == EXIT_FAILURE);
    dup2(saved_in, STDIN_FILENO);
    dup2(saved_out, STDOUT_FILENO);
    close(sockets[1]);
    return 0;
}
