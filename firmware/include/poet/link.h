#ifndef POET_LINK_H
#define POET_LINK_H

/*
 * Frames over the HAL's UART: see protocol.h for what is on the wire. One frame is received at a time, into a
 * fixed buffer; the last response is kept and can be sent again.
 */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint8_t abi;
    uint8_t type;
    uint16_t seq;
    const uint8_t *payload; /* valid until the next poet_link_receive() */
    uint32_t payload_bytes;
    uint32_t crc;
} poet_frame_t;

/* Forget everything, counters too. */
void poet_link_init(void);

/* Take what the UART has. True when a frame came whole; bytes behind it wait for the next call. Never blocks.
 */
bool poet_link_receive(poet_frame_t *frame);

/* Where the payload of the next response goes: POET_LINK_PAYLOAD_BYTES of room. */
uint8_t *poet_link_payload(void);

/* Answer `request` with the first payload_bytes of poet_link_payload(). */
void poet_link_respond(const poet_frame_t *request, int16_t status, uint32_t payload_bytes);

/* True when `request` repeats the one answered last, whose answer has then been sent again. */
bool poet_link_repeat(const poet_frame_t *request);

/* Let the next request be executed, whatever its seq and CRC. */
void poet_link_forget(void);

/* Send a heartbeat for the command `seq` if nothing was sent for POET_HEARTBEAT_MS. */
void poet_link_heartbeat(uint16_t seq, uint32_t step_index, uint32_t steps_total, uint64_t since_ticks);

/* Frames that could not be trusted. */
uint32_t poet_link_frames_dropped(void);

#endif
