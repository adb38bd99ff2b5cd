/*
 * SPI on an nRF51 or nRF52 without DMA, with any pin as chip select; 8 MHz at most.
 */
#include "poet/spi.h"

#include "port.h"
#include "registers.h"
#include "spi_polled.h"

#define UNDER_WAY 2u /* both directions are double-buffered */

static void select(bool low)
{
    if (low) {
        GPIO_OUTCLR(POET_SPI_CS_PIN) = GPIO_BIT(POET_SPI_CS_PIN);
    } else {
        GPIO_OUTSET(POET_SPI_CS_PIN) = GPIO_BIT(POET_SPI_CS_PIN);
    }
}

/* From 125 kHz to 8 MHz, by doubling. */
static uint32_t frequency(uint32_t clock_hz)
{
    uint32_t doublings = 0;
    while (doublings < 6u && (125000u << (doublings + 1u)) <= clock_hz) {
        doublings++;
    }
    return SPI0_FREQUENCY_125_KHZ << doublings;
}

static void drive_high(uint32_t pin)
{
    GPIO_OUTSET(pin) = GPIO_BIT(pin);
    GPIO_DIRSET(pin) = GPIO_BIT(pin);
}

void poet_spi_init(uint32_t clock_hz)
{
    /* Lines of a quad chip that stop it while they are low. */
#ifdef POET_SPI_HIGH_PIN_1
    drive_high(POET_SPI_HIGH_PIN_1);
#endif
#ifdef POET_SPI_HIGH_PIN_2
    drive_high(POET_SPI_HIGH_PIN_2);
#endif
    drive_high(POET_SPI_CS_PIN); /* not selected */
    GPIO_OUTCLR(POET_SPI_SCK_PIN) = GPIO_BIT(POET_SPI_SCK_PIN);
    GPIO_DIRSET(POET_SPI_SCK_PIN) = GPIO_BIT(POET_SPI_SCK_PIN);
    GPIO_DIRSET(POET_SPI_MOSI_PIN) = GPIO_BIT(POET_SPI_MOSI_PIN);
    GPIO_PIN_CNF(POET_SPI_MISO_PIN) = GPIO_PIN_CNF_PULL_UP;
    SPI0_ENABLE = 0;
    SPI0_PSELSCK = POET_SPI_SCK_PIN;
    SPI0_PSELMOSI = POET_SPI_MOSI_PIN;
    SPI0_PSELMISO = POET_SPI_MISO_PIN;
    SPI0_FREQUENCY = frequency(clock_hz);
    SPI0_CONFIG = 0;
    SPI0_EVENTS_READY = 0;
    SPI0_ENABLE = SPI0_ENABLE_ENABLED;
}

static bool has_room(void)
{
    return true;
}

static void send(uint8_t byte)
{
    SPI0_TXD = byte;
}

static bool has_received(void)
{
    return SPI0_EVENTS_READY;
}

static uint8_t receive(void)
{
    /* Cleared first: reading the byte brings the next one, and its event. */
    SPI0_EVENTS_READY = 0;
    return (uint8_t)SPI0_RXD;
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    select(true);
    for (uint32_t i = 0; i < part_count; i++) {
        poet_spi_move(&parts[i], UNDER_WAY);
    }
    if (end == POET_SPI_RELEASE) {
        select(false);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    const poet_spi_part_t part = {NULL, NULL, size_bytes};
    poet_spi_move(&part, UNDER_WAY);
}
