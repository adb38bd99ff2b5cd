#include "poet/checkpoint.h"

#include <stdbool.h>

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/erase.h"
#include "poet/model.h"
#include "poet/page.h"
#include "poet/params.h"
#include "poet/run.h"
#include "poet/storage.h"

/*
 * A slot: u32 magic, u32 sequence, u32 steps_done, u32 data_bytes, u32 data_crc, u8 model_digest[16], u32 CRC
 * of what is before; then the data: every parameter that is not in ROM, in order.
 */
#define MAGIC 0x4B435450u
#define DIGEST_AT 20u
#define HEADER_CRC_AT (DIGEST_AT + POET_DIGEST_BYTES)
#define CHUNK_BYTES 256u

static struct {
    bool scanned;
    bool found;      /* a slot holds an intact checkpoint */
    uint32_t newest; /* that slot */
    poet_checkpoint_t checkpoint;
} state;

void poet_checkpoint_init(void)
{
    state.scanned = false;
}

static uint32_t data_bytes(void)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (poet_model.params[i].home != POET_HOME_ROM) {
            total += poet_model.params[i].size_bytes;
        }
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

static uint32_t chunk_of(uint32_t left)
{
    return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

/* CRC of the data as they are on the device. */
static poet_status_t data_crc_of(uint32_t slot, uint32_t *crc)
{
    uint8_t chunk[CHUNK_BYTES];
    *crc = 0;
    for (uint32_t done = 0; done < data_bytes(); done += CHUNK_BYTES) {
        const uint32_t part = chunk_of(data_bytes() - done);
        POET_TRY(poet_storage_read(slot_address(slot) + POET_CHECKPOINT_HEADER_BYTES + done, chunk, part));
        *crc = poet_crc32(*crc, chunk, part);
        poet_run_alive(slot, POET_CHECKPOINT_SLOTS);
    }
    return POET_OK;
}

/* Whether a slot holds an intact checkpoint of this model. A slot that does not is no error: it is free. */
static poet_status_t check_slot(uint32_t slot, bool *good, poet_checkpoint_t *checkpoint)
{
    const uint32_t address = slot_address(slot);
    uint8_t header[POET_CHECKPOINT_HEADER_BYTES];
    POET_TRY(poet_storage_read(address, header, sizeof header));
    *good = false;
    if (poet_bytes_get_u32(header) != MAGIC || poet_bytes_get_u32(header + 12) != data_bytes() ||
        memcmp(header + DIGEST_AT, poet_model.model_digest, POET_DIGEST_BYTES) != 0 ||
        poet_bytes_get_u32(header + HEADER_CRC_AT) != poet_crc32(0, header, HEADER_CRC_AT)) {
        return POET_OK;
    }
    uint32_t crc;
    POET_TRY(data_crc_of(slot, &crc));
    *good = crc == poet_bytes_get_u32(header + 16);
    checkpoint->sequence = poet_bytes_get_u32(header + 4);
    checkpoint->steps_done = poet_bytes_get_u32(header + 8);
    return POET_OK;
}

static poet_status_t scan(void)
{
    if (slot_address(POET_CHECKPOINT_SLOTS) > poet_storage_info()->size_bytes) {
        return POET_ERR_STORAGE_FULL;
    }
    state.scanned = false;
    state.found = false;
    state.checkpoint.sequence = 0;
    for (uint32_t slot = 0; slot < POET_CHECKPOINT_SLOTS; slot++) {
        bool good;
        poet_checkpoint_t checkpoint;
        POET_TRY(check_slot(slot, &good, &checkpoint));
        if (good && (!state.found || checkpoint.sequence > state.checkpoint.sequence)) {
            state.found = true;
            state.newest = slot;
            state.checkpoint = checkpoint;
        }
    }
    state.scanned = true;
    return POET_OK;
}

static poet_status_t save_param(uint32_t index, uint32_t address, uint32_t *crc)
{
    const uint32_t size_bytes = poet_model.params[index].size_bytes;
    uint8_t chunk[CHUNK_BYTES];
    for (uint32_t done = 0; done < size_bytes; done += CHUNK_BYTES) {
        const uint32_t part = chunk_of(size_bytes - done);
        POET_TRY(poet_params_read(index, done, chunk, part));
        POET_TRY(poet_storage_write(address + done, chunk, part));
        *crc = poet_crc32(*crc, chunk, part);
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
    uint8_t chunk[CHUNK_BYTES];
    uint32_t crc = 0;
    for (uint32_t done = 0; done < param->size_bytes; done += CHUNK_BYTES) {
        const uint32_t part = chunk_of(param->size_bytes - done);
        POET_TRY(poet_storage_read(address + done, chunk, part));
        POET_TRY(poet_page_write(param->at, done, chunk, part));
        crc = poet_crc32(crc, chunk, part);
        poet_run_alive(index, poet_model.param_count);
    }
    return poet_page_seal(param->at, param->size_bytes, crc);
}

static poet_status_t write_header(uint32_t address, const poet_checkpoint_t *checkpoint, uint32_t data_crc)
{
    uint8_t header[POET_CHECKPOINT_HEADER_BYTES];
    poet_bytes_put_u32(header, MAGIC);
    poet_bytes_put_u32(header + 4, checkpoint->sequence);
    poet_bytes_put_u32(header + 8, checkpoint->steps_done);
    poet_bytes_put_u32(header + 12, data_bytes());
    poet_bytes_put_u32(header + 16, data_crc);
    memcpy(header + DIGEST_AT, poet_model.model_digest, POET_DIGEST_BYTES);
    poet_bytes_put_u32(header + HEADER_CRC_AT, poet_crc32(0, header, HEADER_CRC_AT));
    return poet_storage_write(address, header, sizeof header);
}

poet_status_t poet_checkpoint_commit(uint32_t steps_done, poet_checkpoint_t *committed)
{
    if (!state.scanned) {
        POET_TRY(scan());
    }
    const uint32_t slot = state.found ? 1u - state.newest : 0u;
    const uint32_t address = slot_address(slot);
    const poet_checkpoint_t checkpoint = {state.checkpoint.sequence + 1u, steps_done};

    poet_params_changed();
    POET_TRY(poet_erase(address, slot_bytes()));
    uint32_t at = address + POET_CHECKPOINT_HEADER_BYTES;
    uint32_t crc = 0;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (poet_model.params[i].home != POET_HOME_ROM) {
            POET_TRY(save_param(i, at, &crc));
            at += poet_model.params[i].size_bytes;
        }
    }
    /* The header makes the slot count: it must not reach the medium before the data did, nor without them. */
    POET_TRY(poet_storage_sync());
    uint32_t stored_crc;
    POET_TRY(data_crc_of(slot, &stored_crc));
    if (stored_crc != crc) {
        return POET_ERR_WORN;
    }
    POET_TRY(write_header(address, &checkpoint, crc));
    POET_TRY(poet_storage_sync());

    state.found = true;
    state.newest = slot;
    state.checkpoint = checkpoint;
    *committed = checkpoint;
    return POET_OK;
}

poet_status_t poet_checkpoint_forget(void)
{
    static const uint8_t none[POET_CHECKPOINT_HEADER_BYTES];
    poet_checkpoint_init();
    if (slot_address(POET_CHECKPOINT_SLOTS) > poet_storage_info()->size_bytes) {
        return POET_OK;
    }
    for (uint32_t slot = 0; slot < POET_CHECKPOINT_SLOTS; slot++) {
        bool good;
        poet_checkpoint_t checkpoint;
        POET_TRY(check_slot(slot, &good, &checkpoint));
        if (good) {
            POET_TRY(poet_erase(slot_address(slot), poet_erase_round(POET_CHECKPOINT_HEADER_BYTES)));
            POET_TRY(poet_storage_write(slot_address(slot), none, sizeof none));
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
    uint32_t at = slot_address(state.newest) + POET_CHECKPOINT_HEADER_BYTES;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (poet_model.params[i].home != POET_HOME_ROM) {
            POET_TRY(load_param(i, at));
            at += poet_model.params[i].size_bytes;
        }
    }
    *restored = state.checkpoint;
    return POET_OK;
}
