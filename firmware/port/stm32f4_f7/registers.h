#ifndef POET_STM32F4_F7_REGISTERS_H
#define POET_STM32F4_F7_REGISTERS_H

/*
 * The few registers that are the same on F4 and F7: RM0090, RM0390, RM0385, RM0410.
 */
#include "core.h"
#include "port.h"

#define RCC_CR REGISTER(0x40023800u)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_PLLCFGR_HSE (1u << 22)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS_MASK (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_APB1_BY_4 (5u << 10)
#define RCC_CFGR_APB2_BY_2 (4u << 13)
#define RCC_GPIOENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define RCC_APB1ENR_PWR (1u << 28)
#define RCC_USART23ENR RCC_APB1ENR
#define RCC_USART1ENR REGISTER(0x40023844u)
#define RCC_USART1EN (1u << 4)
#define RCC_SPI1ENR RCC_USART1ENR
#define RCC_SPI2ENR RCC_APB1ENR
#define PWR_CR REGISTER(0x40007000u)
#define PWR_CR_VOS (1u << 14) /* the scale that 168 MHz needs on F405; set from reset elsewhere */
#define PWR_CR_ODEN (1u << 16)
#define PWR_CR_ODSWEN (1u << 17)
#define PWR_CSR REGISTER(0x40007004u)
#define PWR_CSR_ODRDY (1u << 16)
#define PWR_CSR_ODSWRDY (1u << 17)
#define FLASH_ACR REGISTER(0x40023C00u)

#define GPIO_BASE 0x40020000u
#define USART1_BASE 0x40011000u

#define POET_SPI_CLOCK_HZ (POET_QEMU ? POET_CPU_HZ : POET_SPI == 1 ? POET_CPU_HZ / 2u : POET_CPU_HZ / 4u)

/* After poet_clock_init() APB2, with USART1, runs at half the CPU clock and APB1 at a quarter; left alone, at all of it. */
#define POET_UART_CLOCK_HZ (POET_QEMU ? POET_CPU_HZ : POET_UART == 1 ? POET_CPU_HZ / 2u : POET_CPU_HZ / 4u)

#endif
