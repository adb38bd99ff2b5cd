#ifndef POET_STM32_CLOCK_H
#define POET_STM32_CLOCK_H

/* Run the CPU at POET_CPU_HZ from the PLL, and the UART's bus at POET_UART_CLOCK_HZ. Does nothing on QEMU. */
void poet_clock_init(void);

#endif
