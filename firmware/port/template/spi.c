/*
 * SPI for cards and NOR flash. A port without it leaves this file out; its boards then offer no driver over SPI.
 */
#include "poet/spi.h"

#include <stddef.h>

#include "port.h"
#include "registers.h"

static void select(bool low)
{
    if (low) {
        GPIO_CLEAR = 1u << SPI_SELECT_PIN;
    } else {
        GPIO_SET = 1u << SPI_SELECT_PIN;
    }
}

/* FILL IN: pins, mode 0, eight bits, the most significant first; no faster than `clock_hz`. */
void poet_spi_init(uint32_t clock_hz)
{
    select(false);
    GPIO_OUTPUT |= 1u << SPI_SELECT_PIN;
    SPI_DIVISOR = (POET_CPU_HZ + clock_hz - 1u) / clock_hz;
    SPI_CONTROL = SPI_CONTROL_ENABLE;
}

static void move(const uint8_t *out, uint8_t *in, uint32_t size_bytes)
{
    uint32_t sent = 0;
    for (uint32_t received = 0; received < size_bytes;) {
        if (sent < size_bytes && sent - received < SPI_FIFO_BYTES && (SPI_STATUS & SPI_STATUS_ROOM)) {
            SPI_DATA = out != NULL ? out[sent] : 0xFFu;
            sent++;
        }
        if (SPI_STATUS & SPI_STATUS_RECEIVED) {
            const uint8_t byte = (uint8_t)SPI_DATA;
            if (in != NULL) {
                in[received] = byte;
            }
            received++;
        }
    }
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    select(true);
    for (uint32_t i = 0; i < part_count; i++) {
        move(parts[i].out, parts[i].in, parts[i].size_bytes);
    }
    if (end == POET_SPI_RELEASE) {
        select(false);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    move(NULL, NULL, size_bytes);
}
