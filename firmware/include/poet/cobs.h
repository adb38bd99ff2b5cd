#ifndef POET_COBS_H
#define POET_COBS_H

/*
 * Consistent Overhead Byte Stuffing: no 0x00 inside a frame, one 0x00 behind it.
 */
#include <stdbool.h>
#include <stdint.h>

/* The longest encoding of size_bytes, the 0x00 at its end included. */
#define POET_COBS_ENCODED_BYTES(size_bytes) ((size_bytes) + (size_bytes) / 254u + 2u)

/* Encode a body and the 0x00 behind it; `encoded` has POET_COBS_ENCODED_BYTES(size_bytes). Returns bytes
 * written. */
uint32_t poet_cobs_encode(const uint8_t *body, uint32_t size_bytes, uint8_t *encoded);

typedef enum {
    POET_COBS_MORE = 0,  /* the frame goes on */
    POET_COBS_FRAME = 1, /* a frame ended; body and size_bytes hold it until the next byte */
    POET_COBS_BAD = 2,   /* a frame ended that was too long or not COBS */
} poet_cobs_event_t;

/* Byte-at-a-time decoder. Set body and capacity_bytes, zero the rest. */
typedef struct {
    uint8_t *body;
    uint32_t capacity_bytes;
    uint32_t size_bytes; /* decoded so far */
    uint8_t run;         /* bytes left in the running block */
    bool zero_after_run; /* the running block stands for its bytes and a zero */
    bool started;        /* a byte of the frame has come */
    bool too_long;
} poet_cobs_decoder_t;

poet_cobs_event_t poet_cobs_decode(poet_cobs_decoder_t *decoder, uint8_t byte);

#endif
