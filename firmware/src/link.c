#include "poet/link.h"

#include "poet/bytes.h"
#include "poet/cobs.h"
#include "poet/crc32.h"
#include "poet/hal.h"
#include "poet/protocol.h"
#include "poet/status.h"

#define HEARTBEAT_PAYLOAD_BYTES 16u
#define HEARTBEAT_BODY_BYTES (POET_LINK_HEADER_BYTES + HEARTBEAT_PAYLOAD_BYTES + POET_LINK_CRC_BYTES)

static uint8_t received_body[POET_LINK_BODY_BYTES];
static uint8_t staged[64];
static uint8_t response_body[POET_LINK_BODY_BYTES];
static uint8_t response_encoded[POET_COBS_ENCODED_BYTES(POET_LINK_BODY_BYTES)];

static struct {
    poet_cobs_decoder_t decoder;
    uint32_t staged_at;
    uint32_t staged_end;
    uint32_t frames_dropped;
    uint64_t heard_ticks; /* when the host last heard from us, or we from it */

    bool answered; /* response_encoded answers the request of this seq and CRC */
    uint16_t answered_seq;
    uint32_t answered_crc;
    uint32_t response_bytes;
} state;

void poet_link_init(void)
{
    memset(&state, 0, sizeof state);
    state.decoder.body = received_body;
    state.decoder.capacity_bytes = sizeof received_body;
}

static bool parse(poet_frame_t *frame)
{
    const uint8_t *body = received_body;
    const uint32_t size_bytes = state.decoder.size_bytes;
    if (size_bytes < POET_LINK_HEADER_BYTES + POET_LINK_CRC_BYTES) {
        return false;
    }
    const uint32_t covered_bytes = size_bytes - POET_LINK_CRC_BYTES;
    frame->crc = poet_bytes_get_u32(body + covered_bytes);
    if (poet_crc32(0, body, covered_bytes) != frame->crc) {
        return false;
    }
    frame->abi = body[0];
    frame->type = body[1];
    frame->seq = poet_bytes_get_u16(body + 2);
    frame->payload = body + POET_LINK_HEADER_BYTES;
    frame->payload_bytes = covered_bytes - POET_LINK_HEADER_BYTES;
    return true;
}

bool poet_link_receive(poet_frame_t *frame)
{
    for (;;) {
        if (state.staged_at == state.staged_end) {
            state.staged_at = 0;
            state.staged_end = (uint32_t)poet_hal_uart_read(staged, sizeof staged);
            if (state.staged_end == 0) {
                return false;
            }
        }
        const poet_cobs_event_t event = poet_cobs_decode(&state.decoder, staged[state.staged_at++]);
        if (event == POET_COBS_MORE) {
            continue;
        }
        if (event == POET_COBS_FRAME && parse(frame)) {
            state.heard_ticks = poet_hal_ticks();
            return true;
        }
        state.frames_dropped++;
    }
}

uint8_t *poet_link_payload(void)
{
    return response_body + POET_LINK_HEADER_BYTES;
}

/* Complete a body around its payload. Returns the bytes to send. */
static uint32_t encode(uint8_t *body, uint8_t type, uint16_t seq, int16_t status, uint32_t payload_bytes,
                       uint8_t *encoded)
{
    const uint32_t covered_bytes = POET_LINK_HEADER_BYTES + payload_bytes;
    body[0] = (uint8_t)POET_PROTOCOL_ABI;
    body[1] = type;
    poet_bytes_put_u16(body + 2, seq);
    poet_bytes_put_u16(body + 4, (uint16_t)status);
    poet_bytes_put_u32(body + covered_bytes, poet_crc32(0, body, covered_bytes));
    return poet_cobs_encode(body, covered_bytes + POET_LINK_CRC_BYTES, encoded);
}

static void send(const uint8_t *encoded, uint32_t size_bytes)
{
    poet_hal_uart_write(encoded, size_bytes);
    state.heard_ticks = poet_hal_ticks();
}

void poet_link_respond(const poet_frame_t *request, int16_t status, uint32_t payload_bytes)
{
    const uint8_t type = (uint8_t)(request->type | POET_LINK_RESPONSE);
    state.response_bytes = encode(response_body, type, request->seq, status, payload_bytes, response_encoded);
    state.answered = true;
    state.answered_seq = request->seq;
    state.answered_crc = request->crc;
    send(response_encoded, state.response_bytes);
}

bool poet_link_repeat(const poet_frame_t *request)
{
    if (!state.answered || request->seq != state.answered_seq || request->crc != state.answered_crc) {
        return false;
    }
    send(response_encoded, state.response_bytes);
    return true;
}

void poet_link_forget(void)
{
    state.answered = false;
}

void poet_link_heartbeat(uint16_t seq, uint32_t step_index, uint32_t steps_total, uint64_t since_ticks)
{
    const uint64_t now = poet_hal_ticks();
    if (now - state.heard_ticks < (uint64_t)poet_hal_tick_hz() * POET_HEARTBEAT_MS / 1000u) {
        return;
    }
    /* Buffers of its own: the response of the running command may be half built in the others. */
    uint8_t body[HEARTBEAT_BODY_BYTES];
    uint8_t encoded[POET_COBS_ENCODED_BYTES(HEARTBEAT_BODY_BYTES)];
    uint8_t *payload = body + POET_LINK_HEADER_BYTES;
    poet_bytes_put_u32(payload, step_index);
    poet_bytes_put_u32(payload + 4, steps_total);
    poet_bytes_put_u64(payload + 8, now - since_ticks);
    send(encoded, encode(body, POET_HEARTBEAT, seq, POET_OK, HEARTBEAT_PAYLOAD_BYTES, encoded));
}

uint32_t poet_link_frames_dropped(void)
{
    return state.frames_dropped;
}
