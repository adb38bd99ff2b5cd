/*
 * SPI on MSS SPI 0, which drives chip select itself for as many frames as it is told before: HOLD is not possible, and
 * no SD card can be on it.
 */
#include "poet/spi.h"

#include "port.h"
#include "registers.h"
#include "spi_polled.h"

#define FIFO_BYTES 4u
#define MODE (SPI_CONTROL_MASTER | SPI_CONTROL_SELECT_ALL)

void poet_spi_init(uint32_t clock_hz)
{
    /* The clock is the bus clock / (2 x (SPI0_CLOCK + 1)). */
    const uint32_t halves = (POET_APB_HZ / 2u + clock_hz - 1u) / clock_hz;
    SYSREG_SOFT_RESET &= ~SOFT_RESET_SPI0;
    SPI0_CONTROL = MODE;
    SPI0_FRAME_BITS = 8u; /* only while disabled */
    SPI0_CLOCK = halves < 1u ? 0u : halves > 256u ? 255u : halves - 1u;
    SPI0_SELECT = 1u;
}

static bool has_room(void)
{
    return !(SPI0_STATUS & SPI_STATUS_TX_FULL);
}

static void send(uint8_t byte)
{
    SPI0_TX = byte;
}

static bool has_received(void)
{
    return !(SPI0_STATUS & SPI_STATUS_RX_EMPTY);
}

static uint8_t receive(void)
{
    return (uint8_t)SPI0_RX;
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    (void)end;
    uint32_t size_bytes = 0;
    for (uint32_t i = 0; i < part_count; i++) {
        size_bytes += parts[i].size_bytes;
    }
    SPI0_CONTROL = MODE;
    SPI0_CONTROL = MODE | SPI_CONTROL_ENABLE | (size_bytes << SPI_CONTROL_COUNT_SHIFT);
    for (uint32_t i = 0; i < part_count; i++) {
        poet_spi_move(&parts[i], FIFO_BYTES);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    /* Only SD cards want it. */
    (void)size_bytes;
}
