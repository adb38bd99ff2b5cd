/*
 * Storage that the core reads and writes like RAM: a PSRAM or FRAM chip on a memory bus. It begins at the linker symbol
 * poet_storage_memory and has POET_STORAGE_BYTES, both from the board file; the port has set the bus up.
 */
#include <stdbool.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/hal.h"
#include "poet/storage.h"

#define PROBE_BYTES 64u

extern uint8_t poet_storage_memory[];

static const poet_storage_info_t info = {
    .name = "memory-mapped", .size_bytes = POET_STORAGE_BYTES, .erase_bytes = 1, .write_bytes = 1};
static poet_status_t up = POET_ERR_NO_DEVICE;

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

/* Whether a byte keeps what is written there; it gets back what it had. */
static bool keeps(uint32_t address)
{
    volatile uint8_t *byte = poet_storage_memory + address;
    const uint8_t had = *byte;
    const uint8_t other = had ^ 0xFFu;
    *byte = other;
    poet_hal_sync_memory();
    const bool kept = *byte == other;
    *byte = had;
    poet_hal_sync_memory();
    return kept;
}

/* A bus with nothing on it reads as one byte, everywhere. */
static bool is_bare(void)
{
    for (uint32_t i = 1; i < PROBE_BYTES; i++) {
        if (poet_storage_memory[i] != poet_storage_memory[0]) {
            return false;
        }
    }
    return true;
}

poet_status_t poet_storage_init(void)
{
    if (!keeps(0)) {
        up = is_bare() ? POET_ERR_NO_DEVICE : POET_ERR_READ_ONLY;
    } else {
        up = keeps(POET_STORAGE_BYTES - 1u) ? POET_OK : POET_ERR_STORAGE_FULL;
    }
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

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    memcpy(poet_storage_memory + address, data, size_bytes);
    poet_hal_sync_memory();
    return memcmp(poet_storage_memory + address, data, size_bytes) == 0 ? POET_OK : POET_ERR_WORN;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    return check(address, size_bytes);
}

poet_status_t poet_storage_sync(void)
{
    POET_TRY(up);
    poet_hal_sync_memory();
    return POET_OK;
}
