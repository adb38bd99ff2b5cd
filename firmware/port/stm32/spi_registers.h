#ifndef POET_STM32_SPI_REGISTERS_H
#define POET_STM32_SPI_REGISTERS_H

/*
 * The three SPIs that ST builds in. registers.h gives SPI_KIND: 1 is F4's; 2 is that of F7 and L4, which has FIFOs and
 * else the same registers; 3 is H7's, which counts the bytes of a transfer. And RCC_SPI1ENR, RCC_SPI2ENR,
 * POET_SPI_CLOCK_HZ.
 */
#include "board.h"
#include "registers.h"

#if POET_SPI == 1
#define SPI_BASE 0x40013000u
#define RCC_SPIENR RCC_SPI1ENR
#define RCC_SPIEN (1u << 12)
#elif POET_SPI == 2
#define SPI_BASE 0x40003800u
#define RCC_SPIENR RCC_SPI2ENR
#define RCC_SPIEN (1u << 14)
#else
#error "POET_SPI must be 1 or 2"
#endif

#define SPI_CR1 REGISTER(SPI_BASE + 0x00u)
#define SPI_CR2 REGISTER(SPI_BASE + 0x04u)

#if SPI_KIND == 3
#define SPI_CR1_ENABLE (1u << 0)
#define SPI_CR1_START (1u << 9)
#define SPI_CR1_SSI (1u << 12)
#define SPI_CFG1 REGISTER(SPI_BASE + 0x08u)
#define SPI_CFG1_8_BITS 7u
#define SPI_CFG1_DIVIDER_SHIFT 28u
#define SPI_CFG2 REGISTER(SPI_BASE + 0x0Cu)
#define SPI_CFG2_MASTER (1u << 22)
#define SPI_CFG2_SSM (1u << 26)
#define SPI_CFG2_KEEP_PINS (1u << 31)
#define SPI_STATUS REGISTER(SPI_BASE + 0x14u)
#define SPI_STATUS_RX (1u << 0)
#define SPI_STATUS_TX (1u << 1)
#define SPI_STATUS_END (1u << 3)
#define SPI_IFCR REGISTER(SPI_BASE + 0x18u)
#define SPI_IFCR_ALL 0xFF8u
#define SPI_SEND (*(volatile uint8_t *)(SPI_BASE + 0x20u))
#define SPI_RECEIVED (*(volatile uint8_t *)(SPI_BASE + 0x30u))
#else
#define SPI_CR1_MASTER (1u << 2)
#define SPI_CR1_DIVIDER_SHIFT 3u
#define SPI_CR1_ENABLE (1u << 6)
#define SPI_CR1_SSI (1u << 8)
#define SPI_CR1_SSM (1u << 9)
#define SPI_CR2_8_BITS ((7u << 8) | (1u << 12)) /* kind 2: and a byte is enough to say that one was received */
#define SPI_STATUS REGISTER(SPI_BASE + 0x08u)
#define SPI_STATUS_RX (1u << 0)
#define SPI_STATUS_TX (1u << 1)
#define SPI_SEND (*(volatile uint8_t *)(SPI_BASE + 0x0Cu))
#define SPI_RECEIVED (*(volatile uint8_t *)(SPI_BASE + 0x0Cu))
#endif

#endif
