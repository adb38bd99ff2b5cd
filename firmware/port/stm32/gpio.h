#ifndef POET_STM32_GPIO_H
#define POET_STM32_GPIO_H

/*
 * GPIO, the same on all families. registers.h gives GPIO_BASE and RCC_GPIOENR.
 */
#include "registers.h"

#define GPIO(port) (GPIO_BASE + 0x400u * (port))
#define GPIO_MODER(port) REGISTER(GPIO(port) + 0x00u)
#define GPIO_PUPDR(port) REGISTER(GPIO(port) + 0x0Cu)
#define GPIO_BSRR(port) REGISTER(GPIO(port) + 0x18u)
#define GPIO_AFR(port, pin) REGISTER(GPIO(port) + 0x20u + 4u * ((pin) / 8u))
#define GPIO_MODE_OUTPUT 1u
#define GPIO_MODE_ALTERNATE 2u
#define GPIO_AF_USART 7u

#endif
