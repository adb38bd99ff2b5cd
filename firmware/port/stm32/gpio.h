#ifndef POET_STM32_GPIO_H
#define POET_STM32_GPIO_H

/*
 * GPIO, the same on all families. registers.h gives GPIO_BASE and RCC_GPIOENR.
 */
#include "registers.h"

#define GPIO(port) (GPIO_BASE + 0x400u * (port))
#define GPIO_MODER(port) REGISTER(GPIO(port) + 0x00u)
#define GPIO_OSPEEDR(port) REGISTER(GPIO(port) + 0x08u)
#define GPIO_PUPDR(port) REGISTER(GPIO(port) + 0x0Cu)
#define GPIO_BSRR(port) REGISTER(GPIO(port) + 0x18u)
#define GPIO_AFR(port, pin) REGISTER(GPIO(port) + 0x20u + 4u * ((pin) / 8u))
#define GPIO_MODE_OUTPUT 1u
#define GPIO_MODE_ALTERNATE 2u
#define GPIO_AF_SPI 5u
#define GPIO_AF_USART 7u

/* Let a pin be what `mode` says; its port's clock starts. */
static inline void poet_gpio_set_mode(uint32_t port, uint32_t pin, uint32_t mode)
{
    RCC_GPIOENR |= 1u << port;
    (void)RCC_GPIOENR;
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << (2u * pin))) | (mode << (2u * pin));
}

/* Give a pin to a peripheral. */
static inline void poet_gpio_route(uint32_t port, uint32_t pin, uint32_t function)
{
    const uint32_t shift = 4u * (pin % 8u);
    poet_gpio_set_mode(port, pin, GPIO_MODE_ALTERNATE);
    GPIO_AFR(port, pin) = (GPIO_AFR(port, pin) & ~(0xFu << shift)) | (function << shift);
}

/* An input that nobody drives reads as 1. */
static inline void poet_gpio_pull_up(uint32_t port, uint32_t pin)
{
    GPIO_PUPDR(port) = (GPIO_PUPDR(port) & ~(3u << (2u * pin))) | (1u << (2u * pin));
}

static inline void poet_gpio_write(uint32_t port, uint32_t pin, uint32_t high)
{
    GPIO_BSRR(port) = 1u << (pin + (high != 0 ? 0u : 16u));
}

#endif
