#ifndef POET_ERASE_H
#define POET_ERASE_H

/*
 * Erases, counted: what wears a device out.
 */
#include <stdint.h>

#include "poet/status.h"

/* Bytes that an object on storage occupies: up to the device's erase unit, or to what it programs at once. */
uint32_t poet_erase_round(uint32_t size_bytes);

/* Make [address, address + size_bytes) writable; nothing is counted where the device needs no erase. */
poet_status_t poet_erase(uint32_t address, uint32_t size_bytes);

/* Erase units erased since boot. */
uint32_t poet_erase_count(void);

#endif
