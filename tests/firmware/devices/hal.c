/*
 * A HAL for drivers with a model: the UART is stdin and stdout; time passes only when a model or a look at the clock
 * lets it, so that a device that never answers costs no time.
 */
#define _POSIX_C_SOURCE 200809L

#include "poet/hal.h"

#include <stdlib.h>
#include <unistd.h>

#include "model.h"

static uint64_t time_us;

void model_time_passes(uint32_t microseconds)
{
    time_us += microseconds;
}

uint64_t model_time(void)
{
    return time_us;
}

uint64_t poet_hal_ticks(void)
{
    return time_us++;
}

uint32_t poet_hal_tick_hz(void)
{
    return 1000000u;
}

void poet_hal_arguments(int argc, char **argv)
{
    (void)argc;
    (void)argv;
}

void poet_hal_init(void)
{
}

size_t poet_hal_uart_read(uint8_t *data, size_t size)
{
    const ssize_t taken = read(STDIN_FILENO, data, size);
    if (taken <= 0) {
        exit(0);
    }
    return (size_t)taken;
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        const ssize_t sent = write(STDOUT_FILENO, data + done, size - done);
        if (sent <= 0) {
            exit(1);
        }
        done += (size_t)sent;
    }
}

void poet_hal_idle(void)
{
}

/* Some models hang on it. */
__attribute__((weak)) void poet_hal_sync_memory(void)
{
}

void poet_hal_reset(void)
{
    exit(0);
}
