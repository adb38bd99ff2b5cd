#include "poet/hal.h"

#include "cache.h"
#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

void poet_uart_handler(void);

/* FILL IN: the core at POET_CPU_HZ. Flash wait states before the fast clock comes, not after. */
static void init_clock(void)
{
    CLOCK_CONTROL |= CLOCK_CONTROL_PLL;
    while (!(CLOCK_STATUS & CLOCK_STATUS_READY)) {
    }
}

/* FILL IN: pins (a pull-up on the receiving one, else an open line reads as garbage), rate, interrupt on each byte. */
static void init_uart(void)
{
    UART_DIVISOR = (POET_CPU_HZ + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    UART_CONTROL = UART_CONTROL_ENABLE | UART_CONTROL_RECEIVE_INTERRUPT;
    poet_receive_init();
}

void poet_hal_init(void)
{
    poet_cache_enable();
    init_clock();
    poet_ticks_init();
    GPIO_OUTPUT |= 1u << POET_MARKER_PIN;
    init_uart();
}

/* Take a byte only after poet_receive_room(): when there is none, the interrupt is masked, and the byte waits. */
void poet_uart_handler(void)
{
    const uint32_t status = UART_STATUS;
    if (status & UART_STATUS_OVERRUN) {
        poet_receive_overrun();
    }
    if ((status & UART_STATUS_RECEIVED) && poet_receive_room()) {
        poet_receive_put((uint8_t)UART_DATA);
    }
}

/* Returns when the last bit has left: a reset may follow. */
void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (!(UART_STATUS & UART_STATUS_ROOM)) {
        }
        UART_DATA = data[i];
    }
    while (!(UART_STATUS & UART_STATUS_SENT)) {
    }
}

void poet_hal_marker(bool high)
{
    if (high) {
        GPIO_SET = 1u << POET_MARKER_PIN;
    } else {
        GPIO_CLEAR = 1u << POET_MARKER_PIN;
    }
}
