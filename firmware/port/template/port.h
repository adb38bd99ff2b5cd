#ifndef POET_TEMPLATE_PORT_H
#define POET_TEMPLATE_PORT_H

/*
 * FILL IN: which parts this is for. Every #ifndef is something that a board file may set, under [defines].
 */
#define POET_PORT_NAME "template" /* at most 16 bytes */
#define POET_CACHES 0             /* 1 on a Cortex-M7 */

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 48000000u
#endif
#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif
#ifndef POET_MARKER_PIN
#define POET_MARKER_PIN 0u
#endif

/* The rate of poet_hal_ticks(): SysTick's is the core's. */
#define POET_TICK_HZ POET_CPU_HZ
/* The UART's interrupt, as the vector table counts them. */
#define POET_UART_IRQ 5u

#endif
