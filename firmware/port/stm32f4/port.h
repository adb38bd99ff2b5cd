#ifndef POET_STM32F4_PORT_H
#define POET_STM32F4_PORT_H

/*
 * What the board file may set with -D. The defaults are an STM32F405/F407 at 168 MHz.
 */

#define POET_PORT_NAME "stm32f4"
#define POET_UART_IRQ 37u /* USART1 */

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 168000000u
#endif

#define POET_TICK_HZ POET_CPU_HZ

/* The crystal; where it does not start, the internal 16 MHz oscillator feeds the PLL instead. A multiple of 2
 * MHz. */
#ifndef POET_HSE_HZ
#define POET_HSE_HZ 8000000u
#endif

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif

/* 1 on QEMU, which models no RCC: waiting for a clock there never ends. */
#ifndef POET_QEMU
#define POET_QEMU 0
#endif

/* USART1's pins: GPIO port (0 is A) and pin numbers. PA9/PA10 or PB6/PB7. */
#ifndef POET_UART_GPIO
#define POET_UART_GPIO 0u
#endif
#ifndef POET_UART_TX_PIN
#define POET_UART_TX_PIN 9u
#endif
#ifndef POET_UART_RX_PIN
#define POET_UART_RX_PIN 10u
#endif

/* High while a training step or an inference runs. */
#ifndef POET_MARKER_GPIO
#define POET_MARKER_GPIO 0u
#endif
#ifndef POET_MARKER_PIN
#define POET_MARKER_PIN 8u
#endif

/* APB2 runs at half the CPU clock after poet_clock_init(), and at the full one where it is left alone. */
#define POET_UART_CLOCK_HZ (POET_QEMU ? POET_CPU_HZ : POET_CPU_HZ / 2u)

#endif
