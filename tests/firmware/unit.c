/*
 * The pieces of the runtime that have no state, as a filter: records of u8 operation, u32 size, data on
 * stdin; results of u32 size, data on stdout. Operations:
 *
 *     e  COBS-encode            d  COBS-decode, into 64 bytes: u8 event of each frame end, and its body when
 * it is good c  CRC-32                 r  CRC-32 of a message with a part replaced: u32 crc, old, new,
 * bytes_after x  poet_expf of floats    l  poet_logf of floats
 */
#include <stdio.h>
#include <stdlib.h>

#include "poet/bytes.h"
#include "poet/cobs.h"
#include "poet/crc32.h"
#include "poet/math.h"

#define MOST_BYTES (1u << 24)
#define DECODED_BYTES 64u

static uint8_t data[MOST_BYTES];
static uint8_t result[POET_COBS_ENCODED_BYTES(MOST_BYTES)];

static uint32_t decode(uint32_t size_bytes)
{
    /* Exactly as long as promised, so that the sanitizer sees a write behind it. */
    uint8_t *body = malloc(DECODED_BYTES);
    poet_cobs_decoder_t decoder = {.body = body, .capacity_bytes = DECODED_BYTES};
    uint32_t end = 0;
    for (uint32_t i = 0; i < size_bytes; i++) {
        const poet_cobs_event_t event = poet_cobs_decode(&decoder, data[i]);
        if (event == POET_COBS_MORE) {
            continue;
        }
        result[end++] = (uint8_t)event;
        if (event == POET_COBS_FRAME) {
            result[end++] = (uint8_t)decoder.size_bytes;
            memcpy(result + end, body, decoder.size_bytes);
            end += decoder.size_bytes;
        }
    }
    free(body);
    return end;
}

static uint32_t map(float (*function)(float), uint32_t size_bytes)
{
    for (uint32_t i = 0; i < size_bytes; i += 4u) {
        poet_bytes_put_f32(result + i, function(poet_bytes_get_f32(data + i)));
    }
    return size_bytes;
}

static uint32_t execute(int operation, uint32_t size_bytes)
{
    switch (operation) {
    case 'e':
        return poet_cobs_encode(data, size_bytes, result);
    case 'd':
        return decode(size_bytes);
    case 'c':
        /* In two parts, so that they begin and end anywhere in a word. */
        poet_bytes_put_u32(result, poet_crc32(poet_crc32(0, data, size_bytes % 7u), data + size_bytes % 7u,
                                              size_bytes - size_bytes % 7u));
        return 4;
    case 'r':
        poet_bytes_put_u32(result,
                           poet_crc32_replace(poet_bytes_get_u32(data), poet_bytes_get_u32(data + 4),
                                              poet_bytes_get_u32(data + 8), poet_bytes_get_u32(data + 12)));
        return 4;
    case 'x':
        return map(poet_expf, size_bytes);
    case 'l':
        return map(poet_logf, size_bytes);
    default:
        exit(2);
    }
}

int main(void)
{
    uint8_t header[5];
    while (fread(header, 1, sizeof header, stdin) == sizeof header) {
        uint8_t size[4];
        const uint32_t size_bytes = poet_bytes_get_u32(header + 1);
        if (size_bytes > MOST_BYTES || fread(data, 1, size_bytes, stdin) != size_bytes) {
            return 2;
        }
        const uint32_t result_bytes = execute(header[0], size_bytes);
        poet_bytes_put_u32(size, result_bytes);
        (void)fwrite(size, 1, sizeof size, stdout);
        (void)fwrite(result, 1, result_bytes, stdout);
    }
    return 0;
}
