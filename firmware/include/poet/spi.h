#ifndef POET_SPI_H
#define POET_SPI_H

/*
 * SPI, mode 0, most significant bit first, one device: what a port provides for the drivers of SD cards and NOR flash.
 *
 * The unit is a whole transaction, of which the port knows the length before it begins: some controllers count the
 * bytes of a transaction to hold chip select (SmartFusion2), others move it by DMA (nRF52).
 */
#include <stdbool.h>
#include <stdint.h>

/* A transaction has no more bytes than this, all parts together. */
#define POET_SPI_MOST_BYTES 32768u

/* Bytes that go out, come in, or both. */
typedef struct {
    const void *out; /* NULL: 0xFF goes out */
    void *in;        /* NULL: what comes in is dropped */
    uint32_t size_bytes;
} poet_spi_part_t;

typedef enum {
    POET_SPI_RELEASE = 0, /* chip select goes high at the end */
    POET_SPI_HOLD = 1,    /* it stays low: the next transaction goes on. Not every port can; SD cards need it */
} poet_spi_end_t;

/* Bring the controller and its pins up, chip select high, at no more than `clock_hz`. May be called again, for another
 * rate. */
void poet_spi_init(uint32_t clock_hz);

/* Select the device, unless it was held, and move all parts one after another. */
void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end);

/* Clock out 0xFF with the device not selected: SD cards wake up by it. */
void poet_spi_clock(uint32_t size_bytes);

#endif
