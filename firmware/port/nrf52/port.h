#ifndef POET_NRF52_PORT_H
#define POET_NRF52_PORT_H

/*
 * nRF52832 and nRF52840. What the board file may set with -D; pins are counted as 32 x port + number.
 */
#define POET_PORT_NAME "nrf52"
#define POET_CACHES 0 /* the flash's cache needs no care */
#define POET_NRF_HAS_ICACHE 1

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 64000000u
#endif

/* 1: the DC/DC regulator's coil is on the board. */
#ifndef POET_DCDC
#define POET_DCDC 0
#endif

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif
#ifndef POET_UART_TX_PIN
#define POET_UART_TX_PIN 6u
#endif
#ifndef POET_UART_RX_PIN
#define POET_UART_RX_PIN 8u
#endif

/* High while a training step or an inference runs. */
#ifndef POET_MARKER_PIN
#define POET_MARKER_PIN 11u
#endif

/* A card or chip on the headers. */
#ifndef POET_SPI_SCK_PIN
#define POET_SPI_SCK_PIN 25u
#endif
#ifndef POET_SPI_MOSI_PIN
#define POET_SPI_MOSI_PIN 23u
#endif
#ifndef POET_SPI_MISO_PIN
#define POET_SPI_MISO_PIN 24u
#endif
#ifndef POET_SPI_CS_PIN
#define POET_SPI_CS_PIN 22u
#endif

/* SysTick stands still while the core sleeps: it counts work, not idle time. */
#define POET_TICK_HZ POET_CPU_HZ
#define POET_UART_IRQ 2u

#endif
