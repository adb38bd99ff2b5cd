#ifndef POET_CRC32_H
#define POET_CRC32_H

/*
 * CRC-32 as zlib computes it (reflected 0xEDB88320, initial value and final xor 0xFFFFFFFF).
 */
#include <stdint.h>

/* The CRC of data that follows data whose CRC is `crc`; 0 to begin. As zlib's crc32(). */
uint32_t poet_crc32(uint32_t crc, const void *data, uint32_t size_bytes);

/*
 * x^(8 * bytes) modulo the polynomial. Times a part's CRC, this is what the part contributes to the CRC of a message in
 * which so many bytes follow it: the exclusive or of all parts' contributions is the message's CRC, in whatever order they
 * are found.
 */
uint32_t poet_crc32_power(uint32_t bytes);

/* The product of two polynomials modulo CRC-32's. */
uint32_t poet_crc32_multiply(uint32_t a, uint32_t b);

/*
 * The CRC of a message after a part of it was overwritten, without reading the rest: `crc` of the message
 * before, CRCs of the old and the new part, and how many bytes follow the part.
 */
uint32_t poet_crc32_replace(uint32_t crc, uint32_t old_part, uint32_t new_part, uint32_t bytes_after);

#endif
