#ifndef POET_STM32F4_CLOCK_H
#define POET_STM32F4_CLOCK_H

/* Run the CPU at POET_CPU_HZ from the PLL; APB1 at a quarter and APB2 at half of it. Does nothing on QEMU. */
void poet_clock_init(void);

#endif
