/*
 * SPI on SSI 0, with PD0 as chip select of the board's SD card slot.
 */
#include "poet/spi.h"

#include "port.h"
#include "registers.h"
#include "spi_polled.h"

#define SSI_PINS 0x34u    /* PA2 clock, PA4 in, PA5 out */
#define INPUT_PIN 0x10u   /* PA4 */
#define SELECT_PIN 0x01u  /* PD0, low: selected */
#define FIFO_BYTES 8u

/* An even divider of the clock, at least 2, at most 254. */
static uint32_t prescale(uint32_t clock_hz)
{
    const uint32_t halves = (POET_TICK_HZ / 2u + clock_hz - 1u) / clock_hz;
    return 2u * (halves < 1u ? 1u : halves > 127u ? 127u : halves);
}

static void select(bool low)
{
    GPIO_DATA(GPIOD, SELECT_PIN) = low ? 0u : SELECT_PIN;
}

void poet_spi_init(uint32_t clock_hz)
{
    SYSCTL_RCGC1 |= SYSCTL_RCGC1_SSI0;
    SYSCTL_RCGC2 |= SYSCTL_RCGC2_GPIOA | SYSCTL_RCGC2_GPIOD;
    (void)SYSCTL_RCGC2;
    GPIO_DIR(GPIOD) |= SELECT_PIN;
    GPIO_DEN(GPIOD) |= SELECT_PIN;
    select(false);
    GPIO_AFSEL(GPIOA) |= SSI_PINS;
    GPIO_DEN(GPIOA) |= SSI_PINS;
    GPIO_PUR(GPIOA) |= INPUT_PIN;
    SSI0_CR1 = 0;
    SSI0_CR0 = SSI_CR0_8_BITS;
    SSI0_PRESCALE = prescale(clock_hz);
    SSI0_CR1 = SSI_CR1_ENABLE;
}

static bool has_room(void)
{
    return SSI0_STATUS & SSI_STATUS_TX_NOT_FULL;
}

static void send(uint8_t byte)
{
    SSI0_DATA = byte;
}

static bool has_received(void)
{
    return SSI0_STATUS & SSI_STATUS_RX_NOT_EMPTY;
}

static uint8_t receive(void)
{
    return (uint8_t)SSI0_DATA;
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    select(true);
    for (uint32_t i = 0; i < part_count; i++) {
        poet_spi_move(&parts[i], FIFO_BYTES);
    }
    if (end == POET_SPI_RELEASE) {
        select(false);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    const poet_spi_part_t part = {NULL, NULL, size_bytes};
    poet_spi_move(&part, FIFO_BYTES);
}
