#ifndef POET_STM32F7_PORT_H
#define POET_STM32F7_PORT_H

/*
 * STM32F746 and F767 (RM0385, RM0410): what differs from the F4.
 */
#include "board.h"

#define POET_PORT_NAME "stm32f7"
#define POET_CACHES 1

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 216000000u
#endif

#define PLL_INPUT_HZ 1000000u /* divides a crystal of 25 MHz too */
#define OVERDRIVE_ABOVE_HZ 180000000u
#define FLASH_ACR_VALUE (7u | (3u << 8)) /* 7 wait states; prefetch, ART accelerator */
#define USART_IS_OLD 0
#define SPI_KIND 2

#endif
