#ifndef POET_MPS2_REGISTERS_H
#define POET_MPS2_REGISTERS_H

/*
 * The few registers of the image that this port touches: DAI0386 (AN386), DDI0479 (CMSDK, APB UART).
 */
#include "core.h"

#define UART0_DATA REGISTER(0x40004000u)
#define UART0_STATE REGISTER(0x40004004u)
#define UART_STATE_TXFULL (1u << 0)
#define UART_STATE_RXFULL (1u << 1)
#define UART_STATE_RXOVERRUN (1u << 3) /* written back, it clears */
#define UART0_CTRL REGISTER(0x40004008u)
#define UART_CTRL_TX (1u << 0)
#define UART_CTRL_RX (1u << 1)
#define UART_CTRL_RX_INTERRUPT (1u << 3)
#define UART0_INTCLEAR REGISTER(0x4000400Cu)
#define UART_INT_RX (1u << 1)
#define UART0_BAUDDIV REGISTER(0x40004010u)

#define FPGAIO_LED0 REGISTER(0x40028000u)

#endif
