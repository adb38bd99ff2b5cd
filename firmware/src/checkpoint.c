#include "poet/checkpoint.h"

#include <stdbool.h>

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/erase.h"
#include "poet/model.h"
#include "poet/page.h"
#include "poet/params.h"
#include "poet/run.h"
#include "poet/spare.h"
#include "poet/storage.h"

/*
 * A slot: u32 magic, u32 sequence, u32 steps_done, u32 data_bytes, u32 data_crc, u8 model_digest[16], u32 turn,
 * u32 place, u32 pages_crc, u32 CRC of what is before; then the data: every parameter that is copied, in order.
 *
 * Pages of parameters that have two places are not copied: the slot says which pages they are (page.h's turn and
 * place), and pages_crc is the CRC of the CRCs in their headers, in order.
 */
#define MAGIC 0x4B435450u
#define DIGEST_AT 20u
#define TURN_AT (DIGEST_AT + POET_DIGEST_BYTES)
#define HEADER_CRC_AT (TURN_AT + 12u)

typedef struct {
    poet_checkpoint_t checkpoint;
    uint32_t slot;
    uint32_t data_crc;
    uint32_t pages_crc;
    poet_page_version_t pages;
} slot_t;

static struct {
    bool scanned;
    bool found; /* a slot holds an intact checkpoint */
    slot_t newest;
} state;

void poet_checkpoint_init(void)
{
    state.scanned = false;
}

static bool has_pages(uint32_t index)
{
    return poet_model.params[index].home == POET_HOME_STORAGE && poet_model.page_swap_units > 0u;
}

static bool is_copied(uint32_t index)
{
    const poet_home_t home = poet_model.params[index].home;
    return home != POET_HOME_ROM && home != POET_HOME_FROZEN && !has_pages(index);
}

static uint32_t data_bytes(void)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        total += is_copied(i) ? poet_model.params[i].size_bytes : 0u;
    }
    return total;
}

static uint32_t slot_bytes(void)
{
    return poet_erase_round(POET_CHECKPOINT_HEADER_BYTES + data_bytes());
}

static uint32_t slot_address(uint32_t slot)
{
    return poet_erase_round(poet_model.storage_bytes) + slot * slot_bytes();
}

/* CRC of the data as they are on the device. */
static poet_status_t data_crc_of(uint32_t slot, uint32_t *crc)
{
    const poet_spare_t chunk = poet_spare();
    const uint32_t from = slot_address(slot) + POET_CHECKPOINT_HEADER_BYTES;
    *crc = 0;
    for (uint32_t done = 0; done < data_bytes(); done += chunk.size_bytes) {
        const uint32_t part = poet_spare_part(&chunk, data_bytes() - done);
        POET_TRY(poet_storage_read(from + done, chunk.data, part));
        *crc = poet_crc32(*crc, chunk.data, part);
        poet_run_alive(slot, POET_CHECKPOINT_SLOTS);
    }
    return POET_OK;
}

/* CRC of the CRCs in the headers of the pages that parameters have between two steps. */
static poet_status_t pages_crc_of(uint32_t *crc)
{
    *crc = 0;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (has_pages(i)) {
            uint32_t page_crc;
            uint8_t bytes[4];
            POET_TRY(poet_page_crc_of_turn(poet_model.params[i].at, poet_model.params[i].size_bytes, &page_crc));
            poet_bytes_put_u32(bytes, page_crc);
            *crc = poet_crc32(*crc, bytes, sizeof bytes);
        }
    }
    return POET_OK;
}

/* Whether a slot has the header of a checkpoint of this model. */
static poet_status_t read_slot(uint32_t slot, bool *there, slot_t *read)
{
    uint8_t header[POET_CHECKPOINT_HEADER_BYTES];
    POET_TRY(poet_storage_read(slot_address(slot), header, sizeof header));
    *there = poet_bytes_get_u32(header) == MAGIC && poet_bytes_get_u32(header + 12) == data_bytes() &&
             memcmp(header + DIGEST_AT, poet_model.model_digest, POET_DIGEST_BYTES) == 0 &&
             poet_bytes_get_u32(header + HEADER_CRC_AT) == poet_crc32(0, header, HEADER_CRC_AT);
    read->slot = slot;
    read->checkpoint.sequence = poet_bytes_get_u32(header + 4);
    read->checkpoint.steps_done = poet_bytes_get_u32(header + 8);
    read->data_crc = poet_bytes_get_u32(header + 16);
    read->pages.turn = poet_bytes_get_u32(header + TURN_AT);
    read->pages.place = poet_bytes_get_u32(header + TURN_AT + 4);
    read->pages.held = true;
    read->pages_crc = poet_bytes_get_u32(header + TURN_AT + 8);
    return POET_OK;
}

/* POET_ERR_CORRUPT when the pages in use are not those of a slot, or not as they were sealed. */
static poet_status_t check_pages(uint32_t pages_crc)
{
    uint32_t crc;
    POET_TRY(pages_crc_of(&crc));
    if (crc != pages_crc) {
        return POET_ERR_CORRUPT;
    }
    poet_params_changed();
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (has_pages(i)) {
            POET_TRY(poet_params_check(i));
        }
    }
    return POET_OK;
}

/* Whether all that belongs to a slot is intact. A slot that is not is no error: it is free. */
static poet_status_t check_slot(const slot_t *slot, bool *good)
{
    uint32_t crc;
    POET_TRY(data_crc_of(slot->slot, &crc));
    *good = crc == slot->data_crc;
    if (*good && poet_model.page_swap_units > 0u) {
        const poet_page_version_t now = poet_page_version();
        poet_page_use(slot->pages);
        const poet_status_t status = check_pages(slot->pages_crc);
        poet_page_use(now);
        poet_params_changed();
        *good = status == POET_OK;
        return status == POET_ERR_CORRUPT ? POET_OK : status;
    }
    return POET_OK;
}

static poet_status_t scan(void)
{
    if (slot_address(POET_CHECKPOINT_SLOTS) > poet_storage_info()->size_bytes) {
        return POET_ERR_STORAGE_FULL;
    }
    state.scanned = false;
    state.found = false;
    slot_t slots[POET_CHECKPOINT_SLOTS];
    bool there[POET_CHECKPOINT_SLOTS];
    for (uint32_t i = 0; i < POET_CHECKPOINT_SLOTS; i++) {
        POET_TRY(read_slot(i, &there[i], &slots[i]));
    }
    /* The newest first: where it is good, the other one need not be read. */
    const bool second = there[1] && (!there[0] || slots[1].checkpoint.sequence > slots[0].checkpoint.sequence);
    uint32_t slot = second ? 1u : 0u;
    for (uint32_t i = 0; i < POET_CHECKPOINT_SLOTS && !state.found; i++, slot = 1u - slot) {
        if (there[slot]) {
            POET_TRY(check_slot(&slots[slot], &state.found));
            state.newest = slots[slot];
        }
    }
    if (!state.found) {
        state.newest.checkpoint.sequence = 0;
    }
    state.scanned = true;
    return POET_OK;
}

static poet_status_t save_param(uint32_t index, uint32_t address, uint32_t *crc)
{
    const uint32_t size_bytes = poet_model.params[index].size_bytes;
    const poet_spare_t chunk = poet_spare();
    for (uint32_t done = 0; done < size_bytes; done += chunk.size_bytes) {
        const uint32_t part = poet_spare_part(&chunk, size_bytes - done);
        POET_TRY(poet_params_read(index, done, chunk.data, part));
        POET_TRY(poet_storage_write(address + done, chunk.data, part));
        *crc = poet_crc32(*crc, chunk.data, part);
        poet_run_alive(index, poet_model.param_count);
    }
    return POET_OK;
}

static poet_status_t load_param(uint32_t index, uint32_t address)
{
    const poet_param_t *param = &poet_model.params[index];
    if (param->home == POET_HOME_RAM) {
        return poet_storage_read(address, poet_model.arena + param->at, param->size_bytes);
    }
    POET_TRY(poet_page_begin(param->at, param->size_bytes));
    const poet_spare_t chunk = poet_spare();
    uint32_t crc = 0;
    for (uint32_t done = 0; done < param->size_bytes; done += chunk.size_bytes) {
        const uint32_t part = poet_spare_part(&chunk, param->size_bytes - done);
        POET_TRY(poet_storage_read(address + done, chunk.data, part));
        POET_TRY(poet_page_write(param->at, done, chunk.data, part));
        crc = poet_crc32(crc, chunk.data, part);
        poet_run_alive(index, poet_model.param_count);
    }
    return poet_page_seal(param->at, param->size_bytes, crc);
}

/* What makes the slot count: it must not reach the medium before the data did, nor without them. */
static poet_status_t write_slot(const slot_t *slot)
{
    uint8_t header[POET_CHECKPOINT_HEADER_BYTES];
    poet_bytes_put_u32(header, MAGIC);
    poet_bytes_put_u32(header + 4, slot->checkpoint.sequence);
    poet_bytes_put_u32(header + 8, slot->checkpoint.steps_done);
    poet_bytes_put_u32(header + 12, data_bytes());
    poet_bytes_put_u32(header + 16, slot->data_crc);
    memcpy(header + DIGEST_AT, poet_model.model_digest, POET_DIGEST_BYTES);
    poet_bytes_put_u32(header + TURN_AT, slot->pages.turn);
    poet_bytes_put_u32(header + TURN_AT + 4, slot->pages.place);
    poet_bytes_put_u32(header + TURN_AT + 8, slot->pages_crc);
    poet_bytes_put_u32(header + HEADER_CRC_AT, poet_crc32(0, header, HEADER_CRC_AT));
    POET_TRY(poet_storage_write(slot_address(slot->slot), header, sizeof header));
    POET_TRY(poet_storage_sync());
    /* The next step gives up the checkpoint before. */
    uint8_t stored[POET_CHECKPOINT_HEADER_BYTES];
    POET_TRY(poet_storage_read(slot_address(slot->slot), stored, sizeof stored));
    return memcmp(stored, header, sizeof header) == 0 ? POET_OK : POET_ERR_WORN;
}

static poet_status_t copy_params(slot_t *slot)
{
    POET_TRY(poet_erase(slot_address(slot->slot), slot_bytes()));
    uint32_t at = slot_address(slot->slot) + POET_CHECKPOINT_HEADER_BYTES;
    slot->data_crc = 0;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (is_copied(i)) {
            POET_TRY(save_param(i, at, &slot->data_crc));
            at += poet_model.params[i].size_bytes;
        }
    }
    POET_TRY(poet_storage_sync());
    uint32_t stored_crc;
    POET_TRY(data_crc_of(slot->slot, &stored_crc));
    return stored_crc == slot->data_crc ? POET_OK : POET_ERR_WORN;
}

/*
 * Pages that the next step checks before it writes any are not read here; but they are where a checkpoint holds them
 * already, for then the slot that is written over is the last one with other pages.
 */
static poet_status_t check_kept_pages(bool held)
{
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (has_pages(i) && (held || !poet_model.params[i].is_checked)) {
            POET_TRY(poet_params_check(i));
        }
    }
    return POET_OK;
}

poet_status_t poet_checkpoint_commit(uint32_t steps_done, poet_checkpoint_t *committed)
{
    if (!state.scanned) {
        POET_TRY(scan());
    }
    slot_t slot = {
        .checkpoint = {state.newest.checkpoint.sequence + 1u, steps_done},
        .slot = state.found ? 1u - state.newest.slot : 0u,
        .pages = poet_page_version(),
    };
    poet_params_changed();
    POET_TRY(check_kept_pages(slot.pages.held));
    POET_TRY(copy_params(&slot));
    slot.pages.held = poet_model.page_swap_units > 0u;
    POET_TRY(pages_crc_of(&slot.pages_crc));
    POET_TRY(write_slot(&slot));
    poet_page_use(slot.pages);

    state.found = true;
    state.newest = slot;
    *committed = slot.checkpoint;
    return POET_OK;
}

poet_status_t poet_checkpoint_forget(void)
{
    static const uint8_t none[POET_CHECKPOINT_HEADER_BYTES];
    poet_checkpoint_init();
    poet_page_version_t pages = poet_page_version();
    pages.held = false;
    poet_page_use(pages);
    if (slot_address(POET_CHECKPOINT_SLOTS) > poet_storage_info()->size_bytes) {
        return POET_OK;
    }
    for (uint32_t i = 0; i < POET_CHECKPOINT_SLOTS; i++) {
        bool there;
        slot_t slot;
        POET_TRY(read_slot(i, &there, &slot));
        if (there) {
            POET_TRY(poet_erase(slot_address(i), poet_erase_round(POET_CHECKPOINT_HEADER_BYTES)));
            POET_TRY(poet_storage_write(slot_address(i), none, sizeof none));
        }
    }
    return poet_storage_sync();
}

poet_status_t poet_checkpoint_restore(poet_checkpoint_t *restored)
{
    POET_TRY(scan());
    if (!state.found) {
        return POET_ERR_NO_CHECKPOINT;
    }
    poet_params_changed();
    if (poet_model.page_swap_units > 0u) {
        poet_page_use(state.newest.pages);
    }
    uint32_t at = slot_address(state.newest.slot) + POET_CHECKPOINT_HEADER_BYTES;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (is_copied(i)) {
            POET_TRY(load_param(i, at));
            at += poet_model.params[i].size_bytes;
        }
    }
    *restored = state.newest.checkpoint;
    return POET_OK;
}
