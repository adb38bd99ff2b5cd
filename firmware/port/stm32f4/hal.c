#include "poet/hal.h"

#include "clock.h"
#include "port.h"
#include "receive.h"
#include "registers.h"
#include "ticks.h"

void poet_uart_handler(void);

static void set_pin_mode(uint32_t port, uint32_t pin, uint32_t mode)
{
    RCC_AHB1ENR |= 1u << port;
    (void)RCC_AHB1ENR;
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << (2u * pin))) | (mode << (2u * pin));
}

static void route_to_usart(uint32_t port, uint32_t pin)
{
    const uint32_t shift = 4u * (pin % 8u);
    set_pin_mode(port, pin, GPIO_MODE_ALTERNATE);
    GPIO_AFR(port, pin) = (GPIO_AFR(port, pin) & ~(0xFu << shift)) | (GPIO_AF_USART1 << shift);
}

static void init_uart(void)
{
    /* An open receive line would read as garbage: pull it up. */
    route_to_usart(POET_UART_GPIO, POET_UART_TX_PIN);
    route_to_usart(POET_UART_GPIO, POET_UART_RX_PIN);
    GPIO_PUPDR(POET_UART_GPIO) |= 1u << (2u * POET_UART_RX_PIN);

    RCC_APB2ENR |= RCC_APB2ENR_USART1;
    (void)RCC_APB2ENR;
    USART1_BRR = (POET_UART_CLOCK_HZ + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    USART1_CR1 = USART_CR1_UE | USART_CR1_TE | USART_CR1_RE | USART_CR1_RXNEIE;
    poet_receive_init();
}

void poet_hal_init(void)
{
    poet_clock_init();
    poet_ticks_init();
    set_pin_mode(POET_MARKER_GPIO, POET_MARKER_PIN, GPIO_MODE_OUTPUT);
    init_uart();
}

void poet_uart_handler(void)
{
    const uint32_t status = USART1_SR;
    if (status & USART_SR_ORE) {
        poet_receive_overrun();
    }
    if ((status & (USART_SR_RXNE | USART_SR_ORE)) && poet_receive_room()) {
        poet_receive_put((uint8_t)USART1_DR);
    }
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (!(USART1_SR & USART_SR_TXE)) {
        }
        USART1_DR = data[i];
    }
    while (!(USART1_SR & USART_SR_TC)) {
    }
}

void poet_hal_marker(bool high)
{
    GPIO_BSRR(POET_MARKER_GPIO) = 1u << (POET_MARKER_PIN + (high ? 0u : 16u));
}
