#ifndef POET_M2S_REGISTERS_H
#define POET_M2S_REGISTERS_H

/*
 * The few registers that this port touches: UG0331, SmartFusion2 microcontroller subsystem.
 */
#include "core.h"

#define SYSREG_SOFT_RESET REGISTER(0x40038048u)
#define SOFT_RESET_UART0 (1u << 7)
#define SOFT_RESET_SPI0 (1u << 9)
#define SOFT_RESET_GPIO (1u << 14)

/* A 16550 with its registers a word apart. */
#define UART0_DATA REGISTER(0x40000000u)
#define UART0_DIVISOR_LOW REGISTER(0x40000000u) /* while LCR has UART_LCR_DIVISOR */
#define UART0_DIVISOR_HIGH REGISTER(0x40000004u)
#define UART0_IER REGISTER(0x40000004u)
#define UART_IER_RX (1u << 0)
#define UART0_LCR REGISTER(0x4000000Cu)
#define UART_LCR_8_BITS 3u
#define UART_LCR_DIVISOR (1u << 7)
#define UART0_LSR REGISTER(0x40000014u)
#define UART_LSR_RX (1u << 0)
#define UART_LSR_OVERRUN (1u << 1)
#define UART_LSR_TX_HOLDING_EMPTY (1u << 5)
#define UART_LSR_TX_EMPTY (1u << 6)

#define SPI0_CONTROL REGISTER(0x40001000u)
#define SPI_CONTROL_ENABLE (1u << 0)
#define SPI_CONTROL_MASTER (1u << 1)
#define SPI_CONTROL_COUNT_SHIFT 8u
#define SPI_CONTROL_SELECT_ALL (1u << 26) /* SPS: chip select stays low until all frames went */
#define SPI0_FRAME_BITS REGISTER(0x40001004u)
#define SPI0_STATUS REGISTER(0x40001008u)
#define SPI_STATUS_RX_EMPTY (1u << 6)
#define SPI_STATUS_TX_FULL (1u << 8)
#define SPI0_RX REGISTER(0x40001010u)
#define SPI0_TX REGISTER(0x40001014u)
#define SPI0_CLOCK REGISTER(0x40001018u)
#define SPI0_SELECT REGISTER(0x4000101Cu)

#define GPIO_CONFIG(pin) REGISTER(0x40013000u + 4u * (pin))
#define GPIO_CONFIG_OUTPUT 5u /* output register and buffer enabled */
#define GPIO_OUT REGISTER(0x40013088u)

#endif
