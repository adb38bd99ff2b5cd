#include "poet/hal.h"

#include "cache.h"
#include "clock.h"
#include "gpio.h"
#include "port.h"
#include "receive.h"
#include "ticks.h"
#include "usart.h"

void poet_uart_handler(void);

static void init_uart(void)
{
    /* An open receive line would read as garbage: pull it up. */
    poet_gpio_route(POET_UART_TX_GPIO, POET_UART_TX_PIN, GPIO_AF_USART);
    poet_gpio_route(POET_UART_RX_GPIO, POET_UART_RX_PIN, GPIO_AF_USART);
    poet_gpio_pull_up(POET_UART_RX_GPIO, POET_UART_RX_PIN);

    RCC_USARTENR |= RCC_USARTEN;
    (void)RCC_USARTENR;
    USART_BRR = (POET_UART_CLOCK_HZ + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    USART_CR1 = USART_CR1_UE | USART_CR1_TE | USART_CR1_RE | USART_CR1_RXNEIE;
    poet_receive_init();
}

void poet_hal_init(void)
{
    poet_cache_enable();
    poet_clock_init();
    poet_ticks_init();
    poet_gpio_set_mode(POET_MARKER_GPIO, POET_MARKER_PIN, GPIO_MODE_OUTPUT);
    init_uart();
}

void poet_uart_handler(void)
{
    const uint32_t status = USART_STATUS;
    if (status & USART_ORE) {
        poet_receive_overrun();
#if !USART_IS_OLD
        USART_ICR = USART_ORE;
#endif
    }
    /* Reading the byte clears an overrun of the older USART. */
    if ((status & (USART_RXNE | (USART_IS_OLD ? USART_ORE : 0u))) && poet_receive_room()) {
        poet_receive_put((uint8_t)USART_RECEIVED);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (!(USART_STATUS & USART_TXE)) {
        }
        USART_SEND = data[i];
    }
    while (!(USART_STATUS & USART_TC)) {
    }
}

void poet_hal_marker(bool high)
{
    poet_gpio_write(POET_MARKER_GPIO, POET_MARKER_PIN, high);
}
