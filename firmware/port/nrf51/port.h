#ifndef POET_NRF51_PORT_H
#define POET_NRF51_PORT_H

/*
 * nRF51822 (Cortex-M0, no FPU, no SysTick). What the board file may set with -D.
 */
#define POET_PORT_NAME "nrf51"
#define POET_CACHES 0

#ifndef POET_UART_BAUD
#define POET_UART_BAUD 115200u
#endif
#ifndef POET_UART_TX_PIN
#define POET_UART_TX_PIN 24u
#endif
#ifndef POET_UART_RX_PIN
#define POET_UART_RX_PIN 25u
#endif

/* High while a training step or an inference runs. */
#ifndef POET_MARKER_PIN
#define POET_MARKER_PIN 3u
#endif

/* A card or chip on the headers. */
#ifndef POET_SPI_SCK_PIN
#define POET_SPI_SCK_PIN 23u
#endif
#ifndef POET_SPI_MOSI_PIN
#define POET_SPI_MOSI_PIN 21u
#endif
#ifndef POET_SPI_MISO_PIN
#define POET_SPI_MISO_PIN 22u
#endif
#ifndef POET_SPI_CS_PIN
#define POET_SPI_CS_PIN 16u
#endif

/* Timer 0, which counts while the core sleeps. */
#define POET_TICK_HZ 16000000u
#define POET_UART_IRQ 2u

/* There is neither a cache before the flash nor a DC/DC regulator worth its coil. */
#define POET_NRF_HAS_ICACHE 0
#define POET_DCDC 0

#endif
