#ifndef POET_BYTES_H
#define POET_BYTES_H

/*
 * Little-endian fields at any alignment, for the wire and for storage.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline void poet_bytes_put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void poet_bytes_put_u32(uint8_t *at, uint32_t value)
{
    poet_bytes_put_u16(at, (uint16_t)value);
    poet_bytes_put_u16(at + 2, (uint16_t)(value >> 16));
}

static inline void poet_bytes_put_u64(uint8_t *at, uint64_t value)
{
    poet_bytes_put_u32(at, (uint32_t)value);
    poet_bytes_put_u32(at + 4, (uint32_t)(value >> 32));
}

static inline void poet_bytes_put_f32(uint8_t *at, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    poet_bytes_put_u32(at, bits);
}

static inline uint16_t poet_bytes_get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | (at[1] << 8));
}

static inline uint32_t poet_bytes_get_u32(const uint8_t *at)
{
    return (uint32_t)poet_bytes_get_u16(at) | ((uint32_t)poet_bytes_get_u16(at + 2) << 16);
}

static inline float poet_bytes_get_f32(const uint8_t *at)
{
    const uint32_t bits = poet_bytes_get_u32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Whether [offset, offset + length) lies in an object of size_bytes; no overflow. */
static inline bool poet_bytes_in_range(uint32_t offset, uint32_t length, uint32_t size_bytes)
{
    return length <= size_bytes && offset <= size_bytes - length;
}

/* Not NaN and not infinite, without libm and without float comparisons. */
static inline bool poet_bytes_is_finite(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7F800000u) != 0x7F800000u;
}

#endif
