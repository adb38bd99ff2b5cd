#ifndef POET_STM32L4_REGISTERS_H
#define POET_STM32L4_REGISTERS_H

/*
 * The few registers that this port touches: RM0351.
 */
#include "core.h"
#include "port.h"

#define RCC_CR REGISTER(0x40021000u)
#define RCC_CR_HSION (1u << 8)
#define RCC_CR_HSIRDY (1u << 10)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_CFGR REGISTER(0x40021008u)
#define RCC_CFGR_SW_PLL 3u
#define RCC_CFGR_SWS_MASK (3u << 2)
#define RCC_CFGR_SWS_PLL (3u << 2)
#define RCC_PLLCFGR REGISTER(0x4002100Cu)
#define RCC_PLLCFGR_HSI16 2u
#define RCC_PLLCFGR_N_SHIFT 8u
#define RCC_PLLCFGR_REN (1u << 24)
#define RCC_PLLCFGR_R_BY_4 (1u << 25)
#define RCC_GPIOENR REGISTER(0x4002104Cu)
#define RCC_USART23ENR REGISTER(0x40021058u)
#define RCC_USART1ENR REGISTER(0x40021060u)
#define RCC_USART1EN (1u << 14)
#define RCC_SPI1ENR RCC_USART1ENR
#define RCC_SPI2ENR RCC_USART23ENR
#define FLASH_ACR REGISTER(0x40022000u)
#define FLASH_ACR_4_WAIT_STATES 4u
#define FLASH_ACR_CACHES (7u << 8) /* prefetch, instruction cache, data cache */

#define GPIO_BASE 0x48000000u
#define USART_IS_OLD 0
#define SPI_KIND 2
#define USART1_BASE 0x40013800u

/* No bus is divided. */
#define POET_UART_CLOCK_HZ POET_CPU_HZ
#define POET_SPI_CLOCK_HZ POET_CPU_HZ

#endif
