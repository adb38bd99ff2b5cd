#ifndef POET_LM3S_REGISTERS_H
#define POET_LM3S_REGISTERS_H

/*
 * The few registers that this port touches: the LM3S6965's data sheet. UART and SSI are Arm's PL011 and PL022.
 */
#include "core.h"

#define SYSCTL_RIS REGISTER(0x400FE050u)
#define SYSCTL_RIS_PLL_LOCKED (1u << 6)
#define SYSCTL_RCC REGISTER(0x400FE060u)
#define SYSCTL_RCC_MAIN_OSCILLATOR_OFF (1u << 0)
#define SYSCTL_RCC_SOURCE_MASK (3u << 4) /* 0: main oscillator */
#define SYSCTL_RCC_CRYSTAL_MASK (0xFu << 6)
#define SYSCTL_RCC_CRYSTAL_8_MHZ (0xEu << 6)
#define SYSCTL_RCC_BYPASS (1u << 11)
#define SYSCTL_RCC_PLL_OFF (1u << 13)
#define SYSCTL_RCC_USE_DIVIDER (1u << 22)
#define SYSCTL_RCC_DIVIDER_MASK (0xFu << 23)
#define SYSCTL_RCC_DIVIDE_BY_4 (3u << 23)
#define SYSCTL_RCGC1 REGISTER(0x400FE104u)
#define SYSCTL_RCGC1_UART0 (1u << 0)
#define SYSCTL_RCGC1_SSI0 (1u << 4)
#define SYSCTL_RCGC2 REGISTER(0x400FE108u)
#define SYSCTL_RCGC2_GPIOA (1u << 0)
#define SYSCTL_RCGC2_GPIOD (1u << 3)
#define SYSCTL_RCGC2_GPIOF (1u << 5)

#define GPIOA 0x40004000u
#define GPIOD 0x40007000u
#define GPIOF 0x40025000u
/* Bits 2 to 9 of a data register's address choose the pins that it touches. */
#define GPIO_DATA(port, pins) REGISTER((port) + ((pins) << 2))
#define GPIO_DIR(port) REGISTER((port) + 0x400u)
#define GPIO_AFSEL(port) REGISTER((port) + 0x420u)
#define GPIO_PUR(port) REGISTER((port) + 0x510u)
#define GPIO_DEN(port) REGISTER((port) + 0x51Cu)

#define UART0_DATA REGISTER(0x4000C000u)
#define UART0_FLAGS REGISTER(0x4000C018u)
#define UART_FLAGS_BUSY (1u << 3)
#define UART_FLAGS_RX_EMPTY (1u << 4)
#define UART_FLAGS_TX_FULL (1u << 5)
#define UART0_IBRD REGISTER(0x4000C024u)
#define UART0_FBRD REGISTER(0x4000C028u)
#define UART0_LCRH REGISTER(0x4000C02Cu)
#define UART_LCRH_8_BITS (3u << 5)
#define UART0_CTL REGISTER(0x4000C030u)
#define UART_CTL_ENABLE (1u << 0)
#define UART_CTL_TX (1u << 8)
#define UART_CTL_RX (1u << 9)
#define UART0_IM REGISTER(0x4000C038u)
#define UART0_RIS REGISTER(0x4000C03Cu)
#define UART0_ICR REGISTER(0x4000C044u)
#define UART_INT_RX (1u << 4)
#define UART_INT_OVERRUN (1u << 10)

#define SSI0_CR0 REGISTER(0x40008000u)
#define SSI_CR0_8_BITS 7u
#define SSI0_CR1 REGISTER(0x40008004u)
#define SSI_CR1_ENABLE (1u << 1)
#define SSI0_DATA REGISTER(0x40008008u)
#define SSI0_STATUS REGISTER(0x4000800Cu)
#define SSI_STATUS_TX_NOT_FULL (1u << 1)
#define SSI_STATUS_RX_NOT_EMPTY (1u << 2)
#define SSI0_PRESCALE REGISTER(0x40008010u)

#endif
