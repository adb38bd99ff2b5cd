#ifndef POET_STM32_USART_H
#define POET_STM32_USART_H

/*
 * The two USARTs that ST builds in: F4 has the older one. registers.h gives USART_IS_OLD, USART1_BASE,
 * RCC_USART1ENR, RCC_USART1EN and RCC_USART23ENR. Flags and BRR are the same in both.
 */
#include "board.h"
#include "registers.h"

#if POET_UART == 1
#define USART_BASE USART1_BASE
#define RCC_USARTENR RCC_USART1ENR
#define RCC_USARTEN RCC_USART1EN
#elif POET_UART == 2
#define USART_BASE 0x40004400u
#define RCC_USARTENR RCC_USART23ENR
#define RCC_USARTEN (1u << 17)
#elif POET_UART == 3
#define USART_BASE 0x40004800u
#define RCC_USARTENR RCC_USART23ENR
#define RCC_USARTEN (1u << 18)
#else
#error "POET_UART must be 1, 2 or 3"
#endif

#if USART_IS_OLD
#define USART_STATUS REGISTER(USART_BASE + 0x00u)
#define USART_RECEIVED REGISTER(USART_BASE + 0x04u)
#define USART_SEND REGISTER(USART_BASE + 0x04u)
#define USART_BRR REGISTER(USART_BASE + 0x08u)
#define USART_CR1 REGISTER(USART_BASE + 0x0Cu)
#define USART_CR1_UE (1u << 13)
#else
#define USART_CR1 REGISTER(USART_BASE + 0x00u)
#define USART_CR1_UE (1u << 0)
#define USART_BRR REGISTER(USART_BASE + 0x0Cu)
#define USART_STATUS REGISTER(USART_BASE + 0x1Cu)
#define USART_ICR REGISTER(USART_BASE + 0x20u)
#define USART_RECEIVED REGISTER(USART_BASE + 0x24u)
#define USART_SEND REGISTER(USART_BASE + 0x28u)
#endif
#define USART_CR1_RE (1u << 2)
#define USART_CR1_TE (1u << 3)
#define USART_CR1_RXNEIE (1u << 5)
#define USART_ORE (1u << 3)
#define USART_RXNE (1u << 5)
#define USART_TC (1u << 6)
#define USART_TXE (1u << 7)

#endif
