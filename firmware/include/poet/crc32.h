#ifndef POET_CRC32_H
#define POET_CRC32_H

/*
 * CRC-32 as zlib computes it (reflected 0xEDB88320, initial value and final xor 0xFFFFFFFF).
 */
#include <stdint.h>

/* The CRC of data that follows data whose CRC is `crc`; 0 to begin. As zlib's crc32(). */
uint32_t poet_crc32(uint32_t crc, const void *data, uint32_t size_bytes);

/*
 * What a part contributes to the CRC of its message, given the part's own CRC and how many bytes follow it: the
 * exclusive or of all parts' contributions is the message's CRC, in whatever order they are found.
 */
uint32_t poet_crc32_shift(uint32_t crc, uint32_t bytes_after);

/*
 * The CRC of a message after a part of it was overwritten, without reading the rest: `crc` of the message
 * before, CRCs of the old and the new part, and how many bytes follow the part.
 */
uint32_t poet_crc32_replace(uint32_t crc, uint32_t old_part, uint32_t new_part, uint32_t bytes_after);

#endif
