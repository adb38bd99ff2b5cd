#ifndef POET_CORTEXM_SPI_POLLED_H
#define POET_CORTEXM_SPI_POLLED_H

/*
 * The bytes of an SPI transaction, for a controller that is polled. A port's spi.c includes this, and defines the four
 * functions that come first; they are inlined into the loop.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "poet/spi.h"

/* Whether the controller takes a byte to send. */
static bool has_room(void);
static void send(uint8_t byte);

/* Whether a byte was received, and that byte. */
static bool has_received(void);
static uint8_t receive(void);

/* Move a part. No more than `most_under_way` bytes, what the controller's FIFO holds: nothing received is lost then. */
static inline void poet_spi_move(const poet_spi_part_t *part, uint32_t most_under_way)
{
    const uint8_t *out = part->out;
    uint8_t *in = part->in;
    uint32_t sent = 0;
    for (uint32_t received = 0; received < part->size_bytes;) {
        if (sent < part->size_bytes && sent - received < most_under_way && has_room()) {
            send(out != NULL ? out[sent] : 0xFFu);
            sent++;
        }
        if (has_received()) {
            const uint8_t byte = receive();
            if (in != NULL) {
                in[received] = byte;
            }
            received++;
        }
    }
}

#endif
