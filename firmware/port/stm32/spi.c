/*
 * SPI on an STM32, with any pin as chip select.
 */
#include "poet/spi.h"

#include "gpio.h"
#include "port.h"
#include "spi_polled.h"
#include "spi_registers.h"

/* Bytes under way: what every kind has room for, so that nothing received is lost. */
#define UNDER_WAY (SPI_KIND == 1 ? 1u : 4u)
#define SPEED_HIGH 3u

/* The clock is divided by 2 to the power of 1 to 8: from F7's SPI 1, at 108 MHz, an SD card is identified at 422 kHz, not 400. */
static uint32_t divider(uint32_t clock_hz)
{
    uint32_t power = 0;
    while (power < 7u && (POET_SPI_CLOCK_HZ >> (power + 1u)) > clock_hz) {
        power++;
    }
    return power;
}

static void select(uint32_t selected)
{
    poet_gpio_write(POET_SPI_CS_GPIO, POET_SPI_CS_PIN, selected == 0);
}

static void route(uint32_t port, uint32_t pin)
{
    poet_gpio_route(port, pin, GPIO_AF_SPI);
    GPIO_OSPEEDR(port) |= SPEED_HIGH << (2u * pin);
}

void poet_spi_init(uint32_t clock_hz)
{
    poet_gpio_set_mode(POET_SPI_CS_GPIO, POET_SPI_CS_PIN, GPIO_MODE_OUTPUT);
    select(0);
    poet_gpio_pull_up(POET_SPI_MISO_GPIO, POET_SPI_MISO_PIN);
    RCC_SPIENR |= RCC_SPIEN;
    (void)RCC_SPIENR;
#if SPI_KIND == 3
    RCC_D2CCIP1R = (RCC_D2CCIP1R & ~RCC_D2CCIP1R_SPI123_MASK) | RCC_D2CCIP1R_SPI123_PER;
    SPI_CR1 = 0;
    SPI_CFG1 = (divider(clock_hz) << SPI_CFG1_DIVIDER_SHIFT) | SPI_CFG1_8_BITS;
    SPI_CR1 = SPI_CR1_SSI;
    SPI_CFG2 = SPI_CFG2_MASTER | SPI_CFG2_SSM | SPI_CFG2_KEEP_PINS;
#else
    const uint32_t mode = (divider(clock_hz) << SPI_CR1_DIVIDER_SHIFT) | SPI_CR1_MASTER | SPI_CR1_SSM | SPI_CR1_SSI;
    SPI_CR1 = mode;
    SPI_CR2 = SPI_KIND == 2 ? SPI_CR2_8_BITS : 0u;
    SPI_CR1 = mode | SPI_CR1_ENABLE;
#endif
    /* After the controller is set up, which holds the clock low. */
    route(POET_SPI_SCK_GPIO, POET_SPI_SCK_PIN);
    route(POET_SPI_MISO_GPIO, POET_SPI_MISO_PIN);
    route(POET_SPI_MOSI_GPIO, POET_SPI_MOSI_PIN);
}

#if SPI_KIND == 3
/* Each part is a transfer of its own to the controller, while chip select stays. */
static void begin(uint32_t size_bytes)
{
    SPI_CR2 = size_bytes;
    SPI_CR1 = SPI_CR1_SSI | SPI_CR1_ENABLE;
    SPI_CR1 = SPI_CR1_SSI | SPI_CR1_ENABLE | SPI_CR1_START;
}

static void end(void)
{
    while (!(SPI_STATUS & SPI_STATUS_END)) {
    }
    SPI_IFCR = SPI_IFCR_ALL;
    SPI_CR1 = SPI_CR1_SSI;
}
#else
static void begin(uint32_t size_bytes)
{
    (void)size_bytes;
}

static void end(void)
{
}
#endif

static bool has_room(void)
{
    return SPI_STATUS & SPI_STATUS_TX;
}

static void send(uint8_t byte)
{
    SPI_SEND = byte;
}

static bool has_received(void)
{
    return SPI_STATUS & SPI_STATUS_RX;
}

static uint8_t receive(void)
{
    return SPI_RECEIVED;
}

static void move(const poet_spi_part_t *part)
{
    if (part->size_bytes == 0) {
        return;
    }
    begin(part->size_bytes);
    poet_spi_move(part, UNDER_WAY);
    end();
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t at_end)
{
    select(1);
    for (uint32_t i = 0; i < part_count; i++) {
        move(&parts[i]);
    }
    if (at_end == POET_SPI_RELEASE) {
        select(0);
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    const poet_spi_part_t part = {NULL, NULL, size_bytes};
    move(&part);
}
