#ifndef FAKE_NVMC_H
#define FAKE_NVMC_H

/* What port/nrf/nvmc.h has, of the flash in nrf_flash.c. */
#include <stdbool.h>
#include <stdint.h>

typedef enum { POET_NVMC_READ = 0, POET_NVMC_WRITE = 1, POET_NVMC_ERASE = 2 } poet_nvmc_mode_t;

bool poet_nvmc_ready(void);
void poet_nvmc_configure(poet_nvmc_mode_t mode);
void poet_nvmc_erase_page(uintptr_t address);
void poet_nvmc_write_word(uintptr_t address, uint32_t word);
uint32_t poet_nvmc_page_bytes(void);
uintptr_t poet_nvmc_flash_end(void);

#endif
