#ifndef POET_STM32F4_REGISTERS_H
#define POET_STM32F4_REGISTERS_H

/*
 * The few registers of the chip that this port touches: RM0090 (STM32F405/407).
 */
#include "core.h"

/* RCC, PWR, FLASH */
#define RCC_CR REGISTER(0x40023800u)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
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
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define RCC_APB1ENR_PWR (1u << 28)
#define RCC_APB2ENR REGISTER(0x40023844u)
#define RCC_APB2ENR_USART1 (1u << 4)
#define PWR_CR REGISTER(0x40007000u)
#define PWR_CR_VOS (1u << 14) /* the scale that 168 MHz needs */
#define FLASH_ACR REGISTER(0x40023C00u)
#define FLASH_ACR_5_WAIT_STATES 5u
#define FLASH_ACR_CACHES (7u << 8) /* prefetch, instruction cache, data cache */

/* GPIO: port 0 is A */
#define GPIO_BASE(port) (0x40020000u + 0x400u * (port))
#define GPIO_MODER(port) REGISTER(GPIO_BASE(port) + 0x00u)
#define GPIO_PUPDR(port) REGISTER(GPIO_BASE(port) + 0x0Cu)
#define GPIO_BSRR(port) REGISTER(GPIO_BASE(port) + 0x18u)
#define GPIO_AFR(port, pin) REGISTER(GPIO_BASE(port) + 0x20u + 4u * ((pin) / 8u))
#define GPIO_MODE_OUTPUT 1u
#define GPIO_MODE_ALTERNATE 2u
#define GPIO_AF_USART1 7u

/* USART1 */
#define USART1_SR REGISTER(0x40011000u)
#define USART_SR_ORE (1u << 3)
#define USART_SR_RXNE (1u << 5)
#define USART_SR_TC (1u << 6)
#define USART_SR_TXE (1u << 7)
#define USART1_DR REGISTER(0x40011004u)
#define USART1_BRR REGISTER(0x40011008u)
#define USART1_CR1 REGISTER(0x4001100Cu)
#define USART_CR1_RE (1u << 2)
#define USART_CR1_TE (1u << 3)
#define USART_CR1_RXNEIE (1u << 5)
#define USART_CR1_UE (1u << 13)

#endif
