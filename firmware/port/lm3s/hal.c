#include "poet/hal.h"

#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

void poet_uart_handler(void);

#define UART_PINS 0x03u  /* PA0, PA1 */
#define MARKER_PIN 0x01u /* PF0, the status LED: the board has no other free pin on a header that is labelled */

static void init_clock(void)
{
    uint32_t rcc = SYSCTL_RCC | SYSCTL_RCC_BYPASS;
    rcc &= ~SYSCTL_RCC_USE_DIVIDER;
    SYSCTL_RCC = rcc;
    rcc &= ~(SYSCTL_RCC_MAIN_OSCILLATOR_OFF | SYSCTL_RCC_SOURCE_MASK | SYSCTL_RCC_CRYSTAL_MASK | SYSCTL_RCC_PLL_OFF |
             SYSCTL_RCC_DIVIDER_MASK);
    rcc |= SYSCTL_RCC_CRYSTAL_8_MHZ | SYSCTL_RCC_DIVIDE_BY_4 | SYSCTL_RCC_USE_DIVIDER;
    SYSCTL_RCC = rcc;
    while (!(SYSCTL_RIS & SYSCTL_RIS_PLL_LOCKED)) {
    }
    SYSCTL_RCC = rcc & ~SYSCTL_RCC_BYPASS;
}

static void init_uart(void)
{
    GPIO_AFSEL(GPIOA) |= UART_PINS;
    GPIO_DEN(GPIOA) |= UART_PINS;
    /* In 1/64 of the divider by 16. */
    const uint32_t divisor = (POET_TICK_HZ * 4u + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    UART0_CTL = 0;
    UART0_IBRD = divisor / 64u;
    UART0_FBRD = divisor % 64u;
    /* Without the FIFO, every byte raises the interrupt. */
    UART0_LCRH = UART_LCRH_8_BITS;
    UART0_IM = UART_INT_RX | UART_INT_OVERRUN;
    UART0_CTL = UART_CTL_ENABLE | UART_CTL_TX | UART_CTL_RX;
    poet_receive_init();
}

void poet_hal_init(void)
{
    init_clock();
    poet_ticks_init();
    SYSCTL_RCGC1 |= SYSCTL_RCGC1_UART0;
    SYSCTL_RCGC2 |= SYSCTL_RCGC2_GPIOA | SYSCTL_RCGC2_GPIOF;
    (void)SYSCTL_RCGC2;
    GPIO_DIR(GPIOF) |= MARKER_PIN;
    GPIO_DEN(GPIOF) |= MARKER_PIN;
    init_uart();
}

void poet_uart_handler(void)
{
    if (UART0_RIS & UART_INT_OVERRUN) {
        UART0_ICR = UART_INT_OVERRUN;
        poet_receive_overrun();
    }
    if (!(UART0_FLAGS & UART_FLAGS_RX_EMPTY) && poet_receive_room()) {
        /* Cleared first: the next byte may be there, and its interrupt pending, as soon as this one is read. */
        UART0_ICR = UART_INT_RX;
        poet_receive_put((uint8_t)UART0_DATA);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (UART0_FLAGS & UART_FLAGS_TX_FULL) {
        }
        UART0_DATA = data[i];
    }
    while (UART0_FLAGS & UART_FLAGS_BUSY) {
    }
}

void poet_hal_marker(bool high)
{
    GPIO_DATA(GPIOF, MARKER_PIN) = high ? MARKER_PIN : 0u;
}
