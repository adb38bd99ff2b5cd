#include "poet/hal.h"

#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

/* The register holds the rate as a fraction of the peripheral clock of 16 MHz; its low 12 bits are 0. */
#define BAUDRATE ((uint32_t)((((uint64_t)POET_UART_BAUD << 32) / 16000000u + 0x800u) & 0xFFFFF000u))

void poet_uart_handler(void);

static void init_clock(void)
{
    /* The core runs from its internal oscillator already; the crystal makes ticks and baud rate exact. */
    CLOCK_EVENTS_HFCLKSTARTED = 0;
    CLOCK_TASKS_HFCLKSTART = 1;
    while (!CLOCK_EVENTS_HFCLKSTARTED) {
    }
    POWER_DCDCEN = POET_DCDC;
#if POET_NRF_HAS_ICACHE
    NVMC_ICACHECNF = 1;
#endif
}

static void init_uart(void)
{
    /* The line idles high, from before the pin is driven; an open receive line would read as garbage. */
    GPIO_OUTSET(POET_UART_TX_PIN) = GPIO_BIT(POET_UART_TX_PIN);
    GPIO_DIRSET(POET_UART_TX_PIN) = GPIO_BIT(POET_UART_TX_PIN);
    GPIO_PIN_CNF(POET_UART_RX_PIN) = GPIO_PIN_CNF_PULL_UP;
    UART_PSELTXD = POET_UART_TX_PIN;
    UART_PSELRXD = POET_UART_RX_PIN;
    UART_BAUDRATE = BAUDRATE;
    UART_ENABLE = UART_ENABLE_ENABLED;
    UART_INTENSET = UART_INT_RXDRDY | UART_INT_ERROR;
    UART_TASKS_STARTRX = 1;
    UART_TASKS_STARTTX = 1;
    poet_receive_init();
}

void poet_hal_init(void)
{
    init_clock();
    poet_ticks_init();
    GPIO_DIRSET(POET_MARKER_PIN) = GPIO_BIT(POET_MARKER_PIN);
    init_uart();
}

void poet_uart_handler(void)
{
    if (UART_EVENTS_ERROR) {
        UART_EVENTS_ERROR = 0;
        const uint32_t cause = UART_ERRORSRC;
        UART_ERRORSRC = cause;
        if (cause & UART_ERRORSRC_OVERRUN) {
            poet_receive_overrun();
        }
    }
    if (UART_EVENTS_RXDRDY && poet_receive_room()) {
        /* Cleared first: reading the byte brings the next one, and its event, from the UART's queue of six. */
        UART_EVENTS_RXDRDY = 0;
        poet_receive_put((uint8_t)UART_RXD);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        UART_EVENTS_TXDRDY = 0;
        UART_TXD = data[i];
        while (!UART_EVENTS_TXDRDY) {
        }
    }
}

void poet_hal_marker(bool high)
{
    if (high) {
        GPIO_OUTSET(POET_MARKER_PIN) = GPIO_BIT(POET_MARKER_PIN);
    } else {
        GPIO_OUTCLR(POET_MARKER_PIN) = GPIO_BIT(POET_MARKER_PIN);
    }
}
