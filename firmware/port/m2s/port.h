#ifndef POET_M2S_PORT_H
#define POET_M2S_PORT_H

/*
 * Microsemi SmartFusion2 (Cortex-M3, no FPU): MMUART 0, and MSS SPI 0 with the flash chip of Emcraft's module. The
 * design in the FPGA sets the clocks before firmware runs. What the board file may set with -D.
 */
#define POET_PORT_NAME "m2s"
#define POET_CACHES 0

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 142000000u
#endif

/* The bus of UART and SPI, APB 0. */
#ifndef POET_APB_HZ
#define POET_APB_HZ (POET_CPU_HZ / 2u)
#endif

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif

/* High while a training step or an inference runs: one of MSS GPIO 0 to 31. */
#ifndef POET_MARKER_PIN
#define POET_MARKER_PIN 0u
#endif

#define POET_TICK_HZ POET_CPU_HZ
#define POET_UART_IRQ 10u

#endif
