#ifndef POET_STM32_BOARD_H
#define POET_STM32_BOARD_H

/*
 * What a board file may set with -D, whichever the family. GPIO ports count from 0, which is A.
 */

/* 1 on QEMU, which models no RCC: waiting for a clock there never ends. */
#ifndef POET_QEMU
#define POET_QEMU 0
#endif

/* The clock at OSC_IN, and 1 where it is a signal (from the ST-LINK) and no crystal. */
#ifndef POET_HSE_HZ
#define POET_HSE_HZ 8000000u
#endif
#ifndef POET_HSE_BYPASS
#define POET_HSE_BYPASS 0
#endif

/* USART 1, 2 or 3, all of them on alternate function 7, and its pins. */
#ifndef POET_UART
#define POET_UART 1
#endif
#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif
#ifndef POET_UART_TX_GPIO
#define POET_UART_TX_GPIO 0u
#endif
#ifndef POET_UART_TX_PIN
#define POET_UART_TX_PIN 9u
#endif
#ifndef POET_UART_RX_GPIO
#define POET_UART_RX_GPIO 0u
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

/* SPI 1 or 2, all on alternate function 5, for a card or chip on the headers; CS is any pin. */
#ifndef POET_SPI
#define POET_SPI 1
#endif
#ifndef POET_SPI_SCK_GPIO
#define POET_SPI_SCK_GPIO 0u
#endif
#ifndef POET_SPI_SCK_PIN
#define POET_SPI_SCK_PIN 5u
#endif
#ifndef POET_SPI_MISO_GPIO
#define POET_SPI_MISO_GPIO 0u
#endif
#ifndef POET_SPI_MISO_PIN
#define POET_SPI_MISO_PIN 6u
#endif
#ifndef POET_SPI_MOSI_GPIO
#define POET_SPI_MOSI_GPIO 0u
#endif
#ifndef POET_SPI_MOSI_PIN
#define POET_SPI_MOSI_PIN 7u
#endif
#ifndef POET_SPI_CS_GPIO
#define POET_SPI_CS_GPIO 0u
#endif
#ifndef POET_SPI_CS_PIN
#define POET_SPI_CS_PIN 4u
#endif

#define POET_TICK_HZ POET_CPU_HZ
#define POET_UART_IRQ (36u + POET_UART)

#endif
