#include "poet/hal.h"

#include "cache.h"
#include "clock.h"
#include "gpio.h"
#include "port.h"
#include "receive.h"
#include "ticks.h"
#include "usart.h"

void poet_uart_handler(void);

static void set_pin_mode(uint32_t port, uint32_t pin, uint32_t mode)
{
    RCC_GPIOENR |= 1u << port;
    (void)RCC_GPIOENR;
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << (2u * pin))) | (mode << (2u * pin));
}

static void route_to_usart(uint32_t port, uint32_t pin)
{
    const uint32_t shift = 4u * (pin % 8u);
    set_pin_mode(port, pin, GPIO_MODE_ALTERNATE);
    GPIO_AFR(port, pin) = (GPIO_AFR(port, pin) & ~(0xFu << shift)) | (GPIO_AF_USART << shift);
}

static void init_uart(void)
{
    /* An open receive line would read as garbage: pull it up. */
    route_to_usart(POET_UART_TX_GPIO, POET_UART_TX_PIN);
    route_to_usart(POET_UART_RX_GPIO, POET_UART_RX_PIN);
    GPIO_PUPDR(POET_UART_RX_GPIO) |= 1u << (2u * POET_UART_RX_PIN);

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
    set_pin_mode(POET_MARKER_GPIO, POET_MARKER_PIN, GPIO_MODE_OUTPUT);
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
    GPIO_BSRR(POET_MARKER_GPIO) = 1u << (POET_MARKER_PIN + (high ? 0u : 16u));
}
