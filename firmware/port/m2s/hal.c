#include "poet/hal.h"

#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

void poet_uart_handler(void);

static void init_uart(void)
{
    const uint32_t divisor = (POET_APB_HZ / 16u + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    UART0_LCR = UART_LCR_8_BITS | UART_LCR_DIVISOR;
    UART0_DIVISOR_LOW = divisor & 0xFFu;
    UART0_DIVISOR_HIGH = divisor >> 8;
    UART0_LCR = UART_LCR_8_BITS;
    UART0_IER = UART_IER_RX;
    poet_receive_init();
}

void poet_hal_init(void)
{
    SYSREG_SOFT_RESET &= ~(SOFT_RESET_UART0 | SOFT_RESET_GPIO);
    poet_ticks_init();
    GPIO_CONFIG(POET_MARKER_PIN) = GPIO_CONFIG_OUTPUT;
    init_uart();
}

void poet_uart_handler(void)
{
    const uint32_t status = UART0_LSR;
    if (status & UART_LSR_OVERRUN) {
        poet_receive_overrun();
    }
    if ((status & UART_LSR_RX) && poet_receive_room()) {
        poet_receive_put((uint8_t)UART0_DATA);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (!(UART0_LSR & UART_LSR_TX_HOLDING_EMPTY)) {
        }
        UART0_DATA = data[i];
    }
    while (!(UART0_LSR & UART_LSR_TX_EMPTY)) {
    }
}

void poet_hal_marker(bool high)
{
    const uint32_t pin = 1u << POET_MARKER_PIN;
    GPIO_OUT = high ? GPIO_OUT | pin : GPIO_OUT & ~pin;
}
