#ifndef POET_STM32F4_PORT_H
#define POET_STM32F4_PORT_H

/*
 * STM32F405, F407 and F446 (RM0090, RM0390): what differs from the F7.
 */
#include "board.h"

#define POET_PORT_NAME "stm32f4"
#define POET_CACHES 0

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 168000000u
#endif

#define PLL_INPUT_HZ 2000000u /* the rate with the least jitter, RM0090 7.3.2; divides POET_HSE_HZ */
#define OVERDRIVE_ABOVE_HZ 168000000u
#define FLASH_ACR_VALUE (5u | (7u << 8)) /* 5 wait states; prefetch, instruction cache, data cache */
#define USART_IS_OLD 1
#define SPI_KIND 1

#endif
