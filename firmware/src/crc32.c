#include "poet/crc32.h"

#include <stddef.h>
#include <string.h>

#include "crc32_table.h"

#define POLYNOMIAL 0xEDB88320u

/* Of four bytes, the first in the low bits, as every core here is little-endian. */
static uint32_t word_at(const uint8_t *aligned)
{
    uint32_t word;
    memcpy(&word, __builtin_assume_aligned(aligned, sizeof word), sizeof word);
    return word;
}

static uint32_t after_byte(uint32_t value, uint8_t byte)
{
    return poet_crc32_table_0[(value ^ byte) & 0xFFu] ^ (value >> 8);
}

static uint32_t after_word(uint32_t value, uint32_t word)
{
    value ^= word;
    return poet_crc32_table_3[value & 0xFFu] ^ poet_crc32_table_2[(value >> 8) & 0xFFu] ^
           poet_crc32_table_1[(value >> 16) & 0xFFu] ^ poet_crc32_table_0[value >> 24];
}

uint32_t poet_crc32(uint32_t crc, const void *data, uint32_t size_bytes)
{
    const uint8_t *bytes = data;
    const uint8_t *const end = bytes + size_bytes;
    uint32_t value = ~crc;
    while (bytes != end && ((uintptr_t)bytes & 3u) != 0u) {
        value = after_byte(value, *bytes++);
    }
    for (const uint8_t *const last = end - ((size_t)(end - bytes) & 7u); bytes != last; bytes += 8) {
        value = after_word(value, word_at(bytes));
        value = after_word(value, word_at(bytes + 4));
    }
    while (bytes != end) {
        value = after_byte(value, *bytes++);
    }
    return ~value;
}

uint32_t poet_crc32_multiply(uint32_t a, uint32_t b)
{
    /* Bit 31 is the coefficient of x^0. */
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) {
            product ^= b;
        }
        b = (b & 1u) ? (b >> 1) ^ POLYNOMIAL : b >> 1;
    }
    return product;
}

uint32_t poet_crc32_power(uint32_t bytes)
{
    uint32_t power = 0x80000000u;
    const uint32_t *factor = poet_crc32_powers;
    for (uint32_t n = bytes; n != 0; n >>= 1) {
        if (n & 1u) {
            power = poet_crc32_multiply(*factor, power);
        }
        factor++;
    }
    return power;
}

uint32_t poet_crc32_replace(uint32_t crc, uint32_t old_part, uint32_t new_part, uint32_t bytes_after)
{
    /* CRCs of messages of equal length differ by what their differing bits contribute, whatever the rest is. */
    return crc ^ poet_crc32_multiply(old_part ^ new_part, poet_crc32_power(bytes_after));
}
