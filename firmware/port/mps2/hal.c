#include "poet/hal.h"

#include "cache.h"
#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

void poet_uart_handler(void);

void poet_hal_init(void)
{
    poet_cache_enable();
    poet_ticks_init();
    UART0_BAUDDIV = POET_TICK_HZ / POET_UART_BAUD;
    UART0_CTRL = UART_CTRL_TX | UART_CTRL_RX | UART_CTRL_RX_INTERRUPT;
    poet_receive_init();
}

void poet_uart_handler(void)
{
    const uint32_t state = UART0_STATE;
    if (state & UART_STATE_RXOVERRUN) {
        UART0_STATE = UART_STATE_RXOVERRUN;
        poet_receive_overrun();
    }
    if (!(state & UART_STATE_RXFULL)) {
        UART0_INTCLEAR = UART_INT_RX;
    } else if (poet_receive_room()) {
        /* Cleared first: the next byte may be there, and its interrupt pending, as soon as this one is read. */
        UART0_INTCLEAR = UART_INT_RX;
        poet_receive_put((uint8_t)UART0_DATA);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (UART0_STATE & UART_STATE_TXFULL) {
        }
        UART0_DATA = data[i];
    }
    while (UART0_STATE & UART_STATE_TXFULL) {
    }
}

void poet_hal_marker(bool high)
{
    FPGAIO_LED0 = high ? 1u : 0u;
}
