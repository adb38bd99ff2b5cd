/*
 * SPI for cards and NOR flash. A port without it leaves this file out; its boards then offer no driver over SPI.
 */
#include "poet/spi.h"

#include "port.h"
#include "registers.h"
#include "spi_polled.h"

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

/* FILL IN: these four, for spi_polled.h. */
static bool has_room(void)
{
    return SPI_STATUS & SPI_STATUS_ROOM;
}

static void send(uint8_t byte)
{
    SPI_DATA = byte;
}

static bool has_received(void)
{
    return SPI_STATUS & SPI_STATUS_RECEIVED;
}

static uint8_t receive(void)
{
    return (uint8_t)SPI_DATA;
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    select(true);
    for (uint32_t i = 0; i < part_count; i++) {
        poet_spi_move(&parts[i], SPI_FIFO_BYTES);
    }
    if (end == POET_SPI_RELEASE) {
        select(false);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    const poet_spi_part_t part = {NULL, NULL, size_bytes};
    poet_spi_move(&part, SPI_FIFO_BYTES);
}
