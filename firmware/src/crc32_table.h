#ifndef POET_CRC32_TABLE_H
#define POET_CRC32_TABLE_H

/*
 * crc32.c's tables, four kilobytes of flash, so that four bytes are looked up at once. They stand in a file of their own for
 * the compiler then keeps an address for each in a register.
 */
#include <stdint.h>

/* Entry n of table k: the remainder of the byte n with k bytes of zeros behind it. */
extern const uint32_t poet_crc32_table_0[256];
extern const uint32_t poet_crc32_table_1[256];
extern const uint32_t poet_crc32_table_2[256];
extern const uint32_t poet_crc32_table_3[256];

/* Entry k: x^(8 * 2^k) modulo the polynomial. */
extern const uint32_t poet_crc32_powers[32];

#endif
