#ifndef POET_NRF_NVMC_H
#define POET_NRF_NVMC_H

/*
 * The controller of the flash that the firmware itself is in, the same on nRF51 and nRF52. While it programs or
 * erases, a core that runs from flash stands still.
 */
#include <stdbool.h>
#include <stdint.h>

#include "core.h"

typedef enum { POET_NVMC_READ = 0, POET_NVMC_WRITE = 1, POET_NVMC_ERASE = 2 } poet_nvmc_mode_t;

static inline bool poet_nvmc_ready(void)
{
    return REGISTER(0x4001E400u) & 1u;
}

static inline void poet_nvmc_configure(poet_nvmc_mode_t mode)
{
    REGISTER(0x4001E504u) = (uint32_t)mode;
}

/* Erase the page that begins at `address`; only in mode ERASE. */
static inline void poet_nvmc_erase_page(uintptr_t address)
{
    REGISTER(0x4001E508u) = (uint32_t)address;
}

/* Program a word; only in mode WRITE. */
static inline void poet_nvmc_write_word(uintptr_t address, uint32_t word)
{
    REGISTER(address) = word;
}

/* What this part has, from its factory information: pages of 1024 bytes on nRF51, of 4096 on nRF52. */
static inline uint32_t poet_nvmc_page_bytes(void)
{
    return REGISTER(0x10000010u);
}

/* Where the flash ends; it begins at 0. */
static inline uintptr_t poet_nvmc_flash_end(void)
{
    return REGISTER(0x10000010u) * REGISTER(0x10000014u);
}

#endif
