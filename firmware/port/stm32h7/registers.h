#ifndef POET_STM32H7_REGISTERS_H
#define POET_STM32H7_REGISTERS_H

/*
 * The few registers that this port touches: RM0433.
 */
#include "core.h"
#include "port.h"

#define RCC_CR REGISTER(0x58024400u)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLL1ON (1u << 24)
#define RCC_CR_PLL1RDY (1u << 25)
#define RCC_CFGR REGISTER(0x58024410u)
#define RCC_CFGR_SW_PLL1 3u
#define RCC_CFGR_SWS_MASK (7u << 3)
#define RCC_CFGR_SWS_PLL1 (3u << 3)
#define RCC_D1CFGR REGISTER(0x58024418u)
#define RCC_D1CFGR_HPRE_BY_2 8u
#define RCC_D1CFGR_PPRE_BY_2 (4u << 4)
#define RCC_D2CFGR REGISTER(0x5802441Cu)
#define RCC_D2CFGR_PPRE1_BY_2 (4u << 4)
#define RCC_D2CFGR_PPRE2_BY_2 (4u << 8)
#define RCC_D3CFGR REGISTER(0x58024420u)
#define RCC_D3CFGR_PPRE_BY_2 (4u << 4)
#define RCC_PLLCKSELR REGISTER(0x58024428u)
#define RCC_PLLCKSELR_HSI 0u
#define RCC_PLLCKSELR_HSE 2u
#define RCC_PLLCKSELR_M1_SHIFT 4u
#define RCC_PLLCFGR REGISTER(0x5802442Cu)
#define RCC_PLLCFGR_PLL1_2_TO_4_MHZ (1u << 2)
#define RCC_PLLCFGR_DIVP1EN (1u << 16)
#define RCC_PLL1DIVR REGISTER(0x58024430u)
#define RCC_PLL1DIVR_P_SHIFT 9u
#define RCC_PLL1DIVR_Q_SHIFT 16u
#define RCC_PLL1DIVR_R_SHIFT 24u
#define RCC_GPIOENR REGISTER(0x580244E0u)
#define RCC_USART23ENR REGISTER(0x580244E8u)
#define RCC_USART1ENR REGISTER(0x580244F0u)
#define RCC_USART1EN (1u << 4)
#define RCC_SPI1ENR RCC_USART1ENR
#define RCC_SPI2ENR RCC_USART23ENR
#define RCC_D2CCIP1R REGISTER(0x58024450u)
#define RCC_D2CCIP1R_SPI123_MASK (7u << 12)
#define RCC_D2CCIP1R_SPI123_PER (4u << 12) /* the internal 64 MHz oscillator, which runs from reset on */
#define PWR_CSR1 REGISTER(0x58024804u)
#define PWR_CSR1_ACTVOSRDY (1u << 13)
#define PWR_CR3 REGISTER(0x5802480Cu)
#define PWR_CR3_SCUEN (1u << 2)
#define PWR_D3CR REGISTER(0x58024818u)
#define PWR_D3CR_VOSRDY (1u << 13)
#define PWR_D3CR_VOS1 (3u << 14)
#define FLASH_ACR REGISTER(0x52002000u)
#define FLASH_ACR_2_WAIT_STATES 2u
#define FLASH_ACR_WRHIGHFREQ (2u << 4) /* for 185 to 210 MHz on its bus */

#define GPIO_BASE 0x58020000u
#define USART_IS_OLD 0
#define SPI_KIND 3
#define USART1_BASE 0x40011000u

/* The AXI bus runs at half the CPU clock, and the peripheral buses at half of that. */
#define POET_UART_CLOCK_HZ (POET_CPU_HZ / 4u)
#define POET_SPI_CLOCK_HZ 64000000u

#endif
