#include "peers.h"

#include "mounts.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define DAEMON_LOOK_MS 50
#define CLIENT_LOOK_MS 1000

static bool is_installed(const char *program, const char *package)
{
    bool found = program_exists(program);
    if (!found)
        figure_note("%s is not installed: Debian package %s", program, package);
    return found;
}

/* Servers on loopback. */

/* free_port returns a port that nobody listens on just now. */
static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (file < 0 || bind(file, (struct sockaddr *)&address, size) < 0 ||
        getsockname(file, (struct sockaddr *)&address, &size) < 0)
        bench_die("a port on loopback");
    close(file);
    return ntohs(address.sin_port);
}

static int server_connect(const char *name, unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    for (int tries = 0; tries < 5000; tries++) {
        int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (file < 0)
            bench_die("socket");
        if (connect(file, (struct sockaddr *)&address, sizeof(address)) == 0) {
            setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            return file;
        }
        close(file);
        bench_sleep_ms(2);
    }
    bench_fail("%s does not answer on port %u", name, port);
}

/* ask sends a request and reads the answer, up to `ends` ends of lines. */
static void ask(int file, const char *request, unsigned ends, char *answer, size_t room)
{
    size_t got = 0;
    file_write(file, request, strlen(request));
    while (ends) {
        ssize_t size = read(file, answer + got, room - 1 - got);
        if (size <= 0)
            bench_fail("'%s' was not answered", request);
        for (ssize_t i = 0; i < size && ends; i++)
            ends -= answer[got + (size_t)i] == '\n';
        got += (size_t)size;
    }
    answer[got] = '\0';
}

static void expect(const char *answer, const char *start)
{
    if (strncmp(answer, start, strlen(start)) != 0)
        bench_fail("a peer answered '%s' and not '%s'", answer, start);
}

void peer_beanstalkd(struct samples *samples, size_t rounds)
{
    char answer[512], port_text[16], request[64];
    if (!is_installed("beanstalkd", "beanstalkd"))
        return;
    unsigned port = free_port();
    snprintf(port_text, sizeof(port_text), "%u", port);
    pid_t server = program_start(
        (const char *const[]){"beanstalkd", "-l", "127.0.0.1", "-p", port_text, NULL});
    int file = server_connect("beanstalkd", port);
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        ask(file, "put 1 0 60 3\r\nNOP\r\n", 1, answer, sizeof(answer));
        expect(answer, "INSERTED ");
        unsigned long number = strtoul(answer + 9, NULL, 10);
        ask(file, "reserve\r\n", 2, answer, sizeof(answer));
        expect(answer, "RESERVED ");
        snprintf(request, sizeof(request), "delete %lu\r\n", number);
        ask(file, request, 1, answer, sizeof(answer));
        samples_add(samples, bench_now_us() - start);
        expect(answer, "DELETED");
    }
    close(file);
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
}

void peer_redis(struct samples *samples, size_t rounds)
{
    char answer[512], port_text[16];
    if (!is_installed("redis-server", "redis-server"))
        return;
    unsigned port = free_port();
    snprintf(port_text, sizeof(port_text), "%u", port);
    pid_t server =
        program_start((const char *const[]){"redis-server", "--port", port_text, "--bind",
                                            "127.0.0.1", "--save", "", "--appendonly", "no", NULL});
    int file = server_connect("redis-server", port);
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        ask(file, "*3\r\n$5\r\nLPUSH\r\n$1\r\nq\r\n$3\r\nNOP\r\n", 1, answer, sizeof(answer));
        expect(answer, ":1");
        ask(file, "*3\r\n$5\r\nBRPOP\r\n$1\r\nq\r\n$1\r\n0\r\n", 5, answer, sizeof(answer));
        samples_add(samples, bench_now_us() - start);
        expect(answer, "*2");
    }
    close(file);
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
}

/* task-spooler: its client is a program, and so is its job. */
void peer_spooler(struct samples *samples, size_t rounds)
{
    if (!is_installed("tsp", "task-spooler"))
        return;
    setenv("TS_SOCKET", bench_path("tsp"), 1);
    program_run((const char *const[]){"tsp", NULL}); /* starts its server */
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        if (program_run((const char *const[]){"tsp", "-n", "true", NULL}) != 0 ||
            program_run((const char *const[]){"tsp", "-w", NULL}) != 0)
            bench_fail("tsp does not run its job");
        samples_add(samples, bench_now_us() - start);
        program_run((const char *const[]){"tsp", "-C", NULL});
    }
    program_run((const char *const[]){"tsp", "-K", NULL});
    unsetenv("TS_SOCKET");
}

/* The older design. */

static void polling_daemon(const char *request, const char *response)
{
    char line[256];
    for (;;) {
        int file = open(request, O_RDWR | O_CLOEXEC);
        ssize_t size = file < 0 ? 0 : read(file, line, sizeof(line));
        if (size > 0 && ftruncate(file, 0) == 0) {
            int answer = open(response, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            if (answer < 0 || write(answer, "1:OK", 4) != 4)
                _exit(1);
            close(answer);
        }
        if (file >= 0)
            close(file);
        bench_sleep_ms(DAEMON_LOOK_MS);
    }
}

static bool polling_answered(const char *response)
{
    char answer[16] = "";
    int file = open(response, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, answer, sizeof(answer));
    if (file >= 0)
        close(file);
    return size > 0 && strncmp(answer, "0:", 2) != 0;
}

void peer_polling(struct samples *samples, size_t rounds)
{
    const char *request = bench_path("request.txt"), *response = bench_path("response.txt");
    close(file_open(request, O_RDWR | O_CREAT));
    pid_t daemon = fork();
    if (daemon < 0)
        bench_die("fork");
    if (daemon == 0) {
        bench_child();
        polling_daemon(request, response);
    }
    for (size_t i = 0; i < rounds; i++) {
        double start = bench_now_us();
        close(file_open(response, O_WRONLY | O_CREAT | O_TRUNC));
        file_puts(request, "A:2:3:NOP");
        while (!polling_answered(response))
            bench_sleep_ms(CLIENT_LOOK_MS);
        samples_add(samples, bench_now_us() - start);
    }
    kill(daemon, SIGKILL);
    waitpid(daemon, NULL, 0);
}
