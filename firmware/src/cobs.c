#include "poet/cobs.h"

uint32_t poet_cobs_encode(const uint8_t *body, uint32_t size_bytes, uint8_t *encoded)
{
    uint32_t code_at = 0;
    uint32_t end = 1;
    uint8_t code = 1;

    for (uint32_t i = 0; i < size_bytes; i++) {
        if (code == 0xFFu) {
            encoded[code_at] = code;
            code_at = end++;
            code = 1;
        }
        if (body[i] == 0) {
            encoded[code_at] = code;
            code_at = end++;
            code = 1;
        } else {
            encoded[end++] = body[i];
            code++;
        }
    }
    encoded[code_at] = code;
    encoded[end++] = 0;
    return end;
}

static void append(poet_cobs_decoder_t *decoder, uint8_t byte)
{
    if (decoder->size_bytes == decoder->capacity_bytes) {
        decoder->too_long = true;
        return;
    }
    decoder->body[decoder->size_bytes++] = byte;
}

static void begin_block(poet_cobs_decoder_t *decoder, uint8_t code)
{
    decoder->run = (uint8_t)(code - 1u);
    decoder->zero_after_run = code != 0xFFu;
}

poet_cobs_event_t poet_cobs_decode(poet_cobs_decoder_t *decoder, uint8_t byte)
{
    if (byte == 0) {
        if (!decoder->started) {
            return POET_COBS_MORE;
        }
        decoder->started = false;
        return decoder->run == 0 && !decoder->too_long ? POET_COBS_FRAME : POET_COBS_BAD;
    }
    if (!decoder->started) {
        decoder->started = true;
        decoder->too_long = false;
        decoder->size_bytes = 0;
        begin_block(decoder, byte);
        return POET_COBS_MORE;
    }
    if (decoder->run > 0) {
        append(decoder, byte);
        decoder->run--;
        return POET_COBS_MORE;
    }
    if (decoder->zero_after_run) {
        append(decoder, 0);
    }
    begin_block(decoder, byte);
    return POET_COBS_MORE;
}
