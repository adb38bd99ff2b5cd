#ifndef POET_LM3S_PORT_H
#define POET_LM3S_PORT_H

/*
 * Stellaris LM3S6965 (Cortex-M3, no FPU) on its evaluation board: UART 0 on PA0 and PA1; SD card on SSI 0, PA2, PA4
 * and PA5, with PD0 as chip select. What the board file may set with -D.
 */
#define POET_PORT_NAME "lm3s"
#define POET_CACHES 0

/* 50 MHz, the most, is the PLL's 200 MHz divided by 4. */
#define POET_TICK_HZ 50000000u

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif

#define POET_UART_IRQ 5u

#endif
