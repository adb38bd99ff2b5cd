/*
 * The flash inside an nRF51 or nRF52, beside the firmware. It begins at the linker symbol poet_storage_memory and has
 * POET_STORAGE_BYTES, both from the board file.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "nvmc.h"
#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/hal.h"
#include "poet/storage.h"

#ifndef POET_STORAGE_ERASES
#define POET_STORAGE_ERASES 10000u /* nRF52; nRF51 has 20000 */
#endif

/* nRF51: 46 us a word, 22 ms a page; nRF52840: 41 us and 85 ms, 338 and 295 ms at most. */
#define READY_MS 500u
#define WORD_BYTES 4u

extern uint8_t poet_storage_memory[];

static poet_storage_info_t info = {.name = "nRF flash",
                                   .erase_bytes = 1,
                                   .endurance_erases = POET_STORAGE_ERASES,
                                   .write_bytes = WORD_BYTES,
                                   .stalls_core = true};
static poet_status_t up = POET_ERR_NO_DEVICE;

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

static poet_status_t wait_ready(void)
{
    const uint64_t deadline = poet_hal_ticks() + (uint64_t)READY_MS * poet_hal_tick_hz() / 1000u;
    while (!poet_nvmc_ready()) {
        if (poet_hal_ticks() >= deadline) {
            return POET_ERR_TIMEOUT;
        }
    }
    return POET_OK;
}

static poet_status_t bring_up(void)
{
    const uint32_t page_bytes = poet_nvmc_page_bytes();
    const uintptr_t origin = (uintptr_t)poet_storage_memory;
    if (page_bytes != 1024u && page_bytes != 4096u) {
        return POET_ERR_WRONG_DEVICE;
    }
    if (origin % page_bytes != 0 || POET_STORAGE_BYTES % page_bytes != 0) {
        return POET_ERR_RANGE;
    }
    if (origin + POET_STORAGE_BYTES > poet_nvmc_flash_end()) {
        return POET_ERR_STORAGE_FULL;
    }
    info.size_bytes = POET_STORAGE_BYTES;
    info.erase_bytes = page_bytes;
    return wait_ready();
}

poet_status_t poet_storage_init(void)
{
    up = bring_up();
    return up;
}

static poet_status_t check(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(up);
    return poet_bytes_in_range(address, size_bytes, info.size_bytes) ? POET_OK : POET_ERR_STORAGE_FULL;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    memcpy(data, poet_storage_memory + address, size_bytes);
    return POET_OK;
}

/* Program what of the word at `address`, a multiple of 4, lies in [from, from + size_bytes); its rest stays. */
static poet_status_t write_word(uint32_t address, uint32_t from, const uint8_t *data, uint32_t size_bytes)
{
    uint8_t bytes[WORD_BYTES];
    uint32_t word;
    for (uint32_t i = 0; i < WORD_BYTES; i++) {
        bytes[i] = address + i - from < size_bytes ? data[address + i - from] : POET_STORAGE_ERASED;
    }
    memcpy(&word, bytes, sizeof word);
    poet_nvmc_write_word((uintptr_t)poet_storage_memory + address, word);
    return wait_ready();
}

static poet_status_t write_words(uint32_t from, const uint8_t *data, uint32_t size_bytes)
{
    for (uint32_t at = from - from % WORD_BYTES; at < from + size_bytes; at += WORD_BYTES) {
        POET_TRY(write_word(at, from, data, size_bytes));
    }
    return POET_OK;
}

static bool is_erased(const uint8_t *data, uint32_t size_bytes)
{
    for (uint32_t i = 0; i < size_bytes; i++) {
        if (data[i] != POET_STORAGE_ERASED) {
            return false;
        }
    }
    return true;
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    const uint8_t *there = poet_storage_memory + address;
    const bool was_erased = is_erased(there, size_bytes);
    poet_nvmc_configure(POET_NVMC_WRITE);
    const poet_status_t status = write_words(address, data, size_bytes);
    poet_nvmc_configure(POET_NVMC_READ);
    POET_TRY(status);
    if (memcmp(there, data, size_bytes) == 0) {
        return POET_OK;
    }
    /* Protected flash takes nothing, worn flash takes something else. */
    return was_erased && is_erased(there, size_bytes) ? POET_ERR_READ_ONLY : POET_ERR_WORN;
}

static poet_status_t erase_page(uint8_t *page)
{
    const uint32_t before = poet_crc32(0, page, info.erase_bytes);
    poet_nvmc_configure(POET_NVMC_ERASE);
    poet_nvmc_erase_page((uintptr_t)page);
    const poet_status_t status = wait_ready();
    poet_nvmc_configure(POET_NVMC_READ);
    POET_TRY(status);
    if (is_erased(page, info.erase_bytes)) {
        return POET_OK;
    }
    return poet_crc32(0, page, info.erase_bytes) == before ? POET_ERR_READ_ONLY : POET_ERR_WORN;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    if (address % info.erase_bytes != 0 || size_bytes % info.erase_bytes != 0) {
        return POET_ERR_RANGE;
    }
    for (uint32_t done = 0; done < size_bytes; done += info.erase_bytes) {
        POET_TRY(erase_page(poet_storage_memory + address + done));
    }
    return POET_OK;
}

/* Every write has waited for the flash. */
poet_status_t poet_storage_sync(void)
{
    return up;
}
