#ifndef POET_MPS2_PORT_H
#define POET_MPS2_PORT_H

/*
 * Arm's MPS2 FPGA images AN386 (Cortex-M4F) and AN500 (Cortex-M7), as QEMU models them. They stand in for a
 * part with the same core: POET_CPU_HZ is that part's clock, while the image's own counts the ticks.
 */
#define POET_PORT_NAME "mps2"
#define POET_TICK_HZ 25000000u
#define POET_UART_IRQ 0u /* UART 0, receive */

/* 1 on AN500: QEMU has no caches, but runs what turns them on and flushes them. */
#ifndef POET_CACHES
#define POET_CACHES 0
#endif

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif

#endif
