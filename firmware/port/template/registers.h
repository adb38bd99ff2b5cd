#ifndef POET_TEMPLATE_REGISTERS_H
#define POET_TEMPLATE_REGISTERS_H

/*
 * FILL IN: the few registers that this port touches, and the manual that they are from. Addresses and bits here are
 * made up, of a UART and an SPI as most parts have them.
 */
#include "core.h"

#define CLOCK_CONTROL REGISTER(0x40000000u)
#define CLOCK_CONTROL_PLL (1u << 0)
#define CLOCK_STATUS REGISTER(0x40000004u)
#define CLOCK_STATUS_READY (1u << 0)

#define UART_DATA REGISTER(0x40001000u)
#define UART_STATUS REGISTER(0x40001004u)
#define UART_STATUS_RECEIVED (1u << 0)
#define UART_STATUS_OVERRUN (1u << 1)
#define UART_STATUS_ROOM (1u << 2) /* for a byte to send */
#define UART_STATUS_SENT (1u << 3) /* the last bit is on the line */
#define UART_DIVISOR REGISTER(0x40001008u)
#define UART_CONTROL REGISTER(0x4000100Cu)
#define UART_CONTROL_ENABLE (1u << 0)
#define UART_CONTROL_RECEIVE_INTERRUPT (1u << 1)

#define SPI_DATA REGISTER(0x40002000u)
#define SPI_STATUS REGISTER(0x40002004u)
#define SPI_STATUS_RECEIVED (1u << 0)
#define SPI_STATUS_ROOM (1u << 1)
#define SPI_DIVISOR REGISTER(0x40002008u)
#define SPI_CONTROL REGISTER(0x4000200Cu)
#define SPI_CONTROL_ENABLE (1u << 0)
#define SPI_FIFO_BYTES 1u /* what may be under way before something received is lost */

#define GPIO_OUTPUT REGISTER(0x40003000u)
#define GPIO_SET REGISTER(0x40003004u)
#define GPIO_CLEAR REGISTER(0x40003008u)
#define SPI_SELECT_PIN 1u

#endif
