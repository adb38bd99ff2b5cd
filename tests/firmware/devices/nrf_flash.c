/*
 * The flash of an nRF52, behind fake/nvmc.h. What no driver may do ends the program with a message.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "nvmc.h"

/* Ways to go wrong; those with a parameter say what it is. */
enum {
    FINE,
    PAGE_BYTES, /* what the factory information says */
    BUSY_FOR_EVER,
    PROTECTED,   /* writes and erases do nothing */
    STUCK_BIT,   /* address: a bit that stays 1 */
    ERASE_FAILS, /* address: a bit that stays 0 */
    FLASH_BYTES, /* from where our region begins */
};

#define PAGE 4096u

extern uint8_t poet_storage_memory[POET_STORAGE_BYTES];
uint8_t poet_storage_memory[POET_STORAGE_BYTES] __attribute__((aligned(PAGE)));

static uint8_t writes[POET_STORAGE_BYTES / 4u]; /* of each word since its erase */
static uint32_t how;
static uint32_t parameter;
static poet_nvmc_mode_t mode;
static uint64_t busy_until;

static void forbid(bool wrong, const char *what)
{
    if (wrong) {
        (void)fprintf(stderr, "nrf_flash: %s\n", what);
        exit(3);
    }
}

void model_go_wrong(uint32_t way, uint32_t with)
{
    how = way;
    parameter = with;
    busy_until = 0;
}

static uint32_t offset_of(uintptr_t address)
{
    const uintptr_t offset = address - (uintptr_t)poet_storage_memory;
    forbid(offset >= POET_STORAGE_BYTES, "an address outside the region");
    return (uint32_t)offset;
}

static void be_busy(uint32_t time_us)
{
    busy_until = how == BUSY_FOR_EVER ? UINT64_MAX : model_time() + time_us;
}

bool poet_nvmc_ready(void)
{
    model_time_passes(1);
    return busy_until <= model_time();
}

void poet_nvmc_configure(poet_nvmc_mode_t wanted)
{
    mode = wanted;
}

void poet_nvmc_erase_page(uintptr_t address)
{
    const uint32_t offset = offset_of(address);
    forbid(mode != POET_NVMC_ERASE || busy_until > model_time(), "an erase out of turn");
    forbid(offset % PAGE != 0, "an erase within a page");
    be_busy(85000);
    if (how == PROTECTED) {
        return;
    }
    memset(poet_storage_memory + offset, 0xFF, PAGE);
    memset(writes + offset / 4u, 0, PAGE / 4u);
    if (how == ERASE_FAILS && parameter - offset < PAGE) {
        poet_storage_memory[parameter] &= 0xEFu;
    }
}

void poet_nvmc_write_word(uintptr_t address, uint32_t word)
{
    const uint32_t offset = offset_of(address);
    uint8_t bytes[4];
    memcpy(bytes, &word, sizeof bytes);
    forbid(mode != POET_NVMC_WRITE || busy_until > model_time(), "a write out of turn");
    forbid(offset % 4u != 0, "a write within a word");
    forbid(++writes[offset / 4u] > 2u, "a word written three times");
    be_busy(41);
    for (uint32_t i = 0; i < 4u && how != PROTECTED; i++) {
        const uint32_t stays = how == STUCK_BIT && offset + i == parameter ? 0x02u : 0u;
        poet_storage_memory[offset + i] &= (uint8_t)(bytes[i] | stays);
    }
}

uint32_t poet_nvmc_page_bytes(void)
{
    return how == PAGE_BYTES ? parameter : PAGE;
}

uintptr_t poet_nvmc_flash_end(void)
{
    return (uintptr_t)poet_storage_memory + (how == FLASH_BYTES ? parameter : POET_STORAGE_BYTES);
}
