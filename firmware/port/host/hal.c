/*
 * The HAL on a POSIX machine. The UART is a TCP server on 127.0.0.1, as QEMU's is, with one client at a time.
 *
 *     firmware PORT [--storage FILE]
 *
 * PORT 0 takes a free one. `listening PORT` is printed on stdout when clients may come. SIGTERM ends the
 * program.
 */
#define _POSIX_C_SOURCE 200809L

#include "poet/hal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_HZ 10000000u
#define NANOSECONDS_A_TICK 100u

#define MOST_FILES 64

/* Names the sockets that a reset hands to the program that replaces this one: "SERVER,CLIENT". */
#define RESET_SOCKETS "POET_HOST_RESET_SOCKETS"

static char **arguments;
static int port;
static int server = -1;
static int client = -1;

static void fail(const char *what)
{
    (void)fprintf(stderr, "firmware: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(void)
{
    (void)fprintf(stderr, "usage: firmware PORT [--storage FILE]\n");
    exit(2);
}

void poet_hal_arguments(int argc, char **argv)
{
    arguments = argv;
    if (argc != 2 && !(argc == 4 && strcmp(argv[2], "--storage") == 0)) {
        usage();
    }
    char *end;
    const long number = strtol(argv[1], &end, 10);
    if (end == argv[1] || *end != '\0' || number < 0 || number > 65535) {
        usage();
    }
    port = (int)number;
    if (argc == 4 && setenv("POET_STORAGE", argv[3], 1) != 0) {
        fail("storage");
    }
}

static void on_terminate(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

static void listen_on_port(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    const int yes = 1;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);

    server = socket(AF_INET, SOCK_STREAM, 0);
    if (server < 0 || setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(server, (struct sockaddr *)&address, sizeof address) != 0 || listen(server, 1) != 0 ||
        getsockname(server, (struct sockaddr *)&address, &length) != 0) {
        fail("cannot listen");
    }
    (void)printf("listening %d\n", (int)ntohs(address.sin_port));
    (void)fflush(stdout);
}

void poet_hal_init(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGTERM, on_terminate);
    const char *sockets = getenv(RESET_SOCKETS);
    if (sockets != NULL && sscanf(sockets, "%d,%d", &server, &client) == 2) {
        (void)unsetenv(RESET_SOCKETS);
        return;
    }
    listen_on_port();
}

const char *poet_hal_port(void)
{
    return "host";
}

static void hang_up(void)
{
    (void)close(client);
    client = -1;
}

/* Wait until `descriptor` is ready. */
static bool wait_for(int descriptor, short events, int timeout_ms)
{
    struct pollfd wanted = {descriptor, events, 0};
    return poll(&wanted, 1, timeout_ms) > 0;
}

static void answer_call(void)
{
    const int yes = 1;
    client = accept(server, NULL, NULL);
    if (client >= 0) {
        (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    }
}

size_t poet_hal_uart_read(uint8_t *data, size_t size)
{
    if (client < 0) {
        if (!wait_for(server, POLLIN, 0)) {
            return 0;
        }
        answer_call();
    }
    if (client < 0 || !wait_for(client, POLLIN, 0)) {
        return 0;
    }
    const ssize_t taken = recv(client, data, size, 0);
    if (taken <= 0) {
        hang_up();
        return 0;
    }
    return (size_t)taken;
}

uint32_t poet_hal_uart_overruns(void)
{
    return 0;
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    while (client >= 0 && size > 0) {
        const ssize_t sent = send(client, data, size, 0);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0) {
            hang_up();
            return;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

void poet_hal_idle(void)
{
    (void)wait_for(client < 0 ? server : client, POLLIN, -1);
}

uint64_t poet_hal_ticks(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * TICK_HZ + (uint64_t)now.tv_nsec / NANOSECONDS_A_TICK;
}

uint32_t poet_hal_tick_hz(void)
{
    return TICK_HZ;
}

void poet_hal_marker(bool high)
{
    (void)high;
}

void poet_hal_stack(uint8_t **lowest, uint8_t **highest)
{
    *lowest = NULL;
    *highest = NULL;
}

void poet_hal_reset(void)
{
    /* A fresh copy of the program, as after a reset, on the same line; other files would stay open in it. */
    for (int file = STDERR_FILENO + 1; file < MOST_FILES; file++) {
        if (file != server && file != client) {
            (void)close(file);
        }
    }
    char sockets[32];
    (void)snprintf(sockets, sizeof sockets, "%d,%d", server, client);
    if (setenv(RESET_SOCKETS, sockets, 1) == 0) {
        (void)execvp(arguments[0], arguments);
    }
    fail("cannot reset");
}

void poet_hal_sync_memory(void)
{
}
