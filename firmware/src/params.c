#include "poet/params.h"

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/model.h"
#include "poet/page.h"
#include "poet/run.h"
#include "poet/spare.h"

#define NONE_CHECKED UINT32_MAX

/* The parameter whose page was found good and not written since. */
static uint32_t checked_index = NONE_CHECKED;

/* A parameter on storage that has to be erased, as it is written part after part. */
static struct {
    uint32_t index;
    uint32_t done_bytes;
    uint32_t crc;
} rewrite;

void poet_params_changed(void)
{
    checked_index = NONE_CHECKED;
}

const float poet_initial_on_storage[1];

bool poet_params_can_init(void)
{
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (poet_model.params[i].initial == poet_initial_on_storage) {
            return false;
        }
    }
    return true;
}

static poet_status_t init_page(const poet_param_t *param)
{
    if (param->initial != NULL) {
        return poet_page_out(param->at, param->initial, param->size_bytes);
    }
    const poet_spare_t zeros = poet_spare();
    memset(zeros.data, 0, zeros.size_bytes);
    return poet_page_zero_from(param->at, param->size_bytes, zeros.data, zeros.size_bytes);
}

static poet_status_t init_one(const poet_param_t *param)
{
    switch (param->home) {
    case POET_HOME_RAM:
        if (param->initial == NULL) {
            memset(poet_model.arena + param->at, 0, param->size_bytes);
            return POET_OK;
        }
        memcpy(poet_model.arena + param->at, param->initial, param->size_bytes);
        return POET_OK;
    case POET_HOME_STORAGE:
        return init_page(param);
    case POET_HOME_FROZEN: {
        uint32_t crc;
        return poet_page_crc_of_turn(param->at, param->size_bytes, &crc);
    }
    case POET_HOME_ROM:
        return POET_OK;
    }
    return POET_ERR_RANGE;
}

poet_status_t poet_params_init(void)
{
    poet_params_changed();
    if (!poet_params_can_init()) {
        return POET_ERR_NO_CHECKPOINT;
    }
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        POET_TRY(init_one(&poet_model.params[i]));
    }
    return POET_OK;
}

static poet_status_t find(uint32_t index, uint32_t offset, uint32_t size_bytes, const poet_param_t **param)
{
    if (index >= poet_model.param_count) {
        return POET_ERR_RANGE;
    }
    *param = &poet_model.params[index];
    return poet_bytes_in_range(offset, size_bytes, (*param)->size_bytes) ? POET_OK : POET_ERR_RANGE;
}

poet_status_t poet_params_check(uint32_t index)
{
    if (index == checked_index) {
        return POET_OK;
    }
    const poet_param_t *param = &poet_model.params[index];
    const poet_spare_t chunk = poet_spare();
    uint32_t crc = 0;
    for (uint32_t done = 0; done < param->size_bytes; done += chunk.size_bytes) {
        const uint32_t part = poet_spare_part(&chunk, param->size_bytes - done);
        POET_TRY(poet_page_read(param->at, done, chunk.data, part));
        crc = poet_crc32(crc, chunk.data, part);
        poet_run_alive(index, poet_model.param_count);
    }
    uint32_t sealed_crc;
    POET_TRY(poet_page_crc_of_turn(param->at, param->size_bytes, &sealed_crc));
    if (crc != sealed_crc) {
        return POET_ERR_CORRUPT;
    }
    checked_index = index;
    return POET_OK;
}

poet_status_t poet_params_read(uint32_t index, uint32_t offset, void *data, uint32_t size_bytes)
{
    const poet_param_t *param;
    POET_TRY(find(index, offset, size_bytes, &param));
    switch (param->home) {
    case POET_HOME_ROM:
        memcpy(data, (const uint8_t *)param->initial + offset, size_bytes);
        return POET_OK;
    case POET_HOME_RAM:
        memcpy(data, poet_model.arena + param->at + offset, size_bytes);
        return POET_OK;
    case POET_HOME_STORAGE:
    case POET_HOME_FROZEN:
        POET_TRY(poet_params_check(index));
        return poet_page_read(param->at, offset, data, size_bytes);
    }
    return POET_ERR_RANGE;
}

/* On storage that can be written over. */
static poet_status_t replace_part(const poet_param_t *param, uint32_t offset, const void *data, uint32_t size_bytes)
{
    /* Reading the whole page again for every part would make writing a large parameter quadratic. */
    uint8_t old_part[POET_PARAMS_CHUNK_BYTES];
    uint32_t crc;
    POET_TRY(poet_page_crc_of_turn(param->at, param->size_bytes, &crc));
    POET_TRY(poet_page_read(param->at, offset, old_part, size_bytes));
    POET_TRY(poet_page_write(param->at, offset, data, size_bytes));
    crc = poet_crc32_replace(crc, poet_crc32(0, old_part, size_bytes), poet_crc32(0, data, size_bytes),
                             param->size_bytes - offset - size_bytes);
    return poet_page_seal(param->at, param->size_bytes, crc);
}

/* On storage that has to be erased: parts come in order. */
static poet_status_t append_part(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes)
{
    const poet_param_t *param = &poet_model.params[index];
    if (offset == 0u) {
        POET_TRY(poet_page_begin(param->at, param->size_bytes));
        rewrite.index = index;
        rewrite.done_bytes = 0;
        rewrite.crc = 0;
    }
    if (index != rewrite.index || offset != rewrite.done_bytes) {
        return POET_ERR_RANGE;
    }
    POET_TRY(poet_page_write(param->at, offset, data, size_bytes));
    rewrite.done_bytes += size_bytes;
    rewrite.crc = poet_crc32(rewrite.crc, data, size_bytes);
    return rewrite.done_bytes < param->size_bytes ? POET_OK
                                                  : poet_page_seal(param->at, param->size_bytes, rewrite.crc);
}

/*
 * The pages that a checkpoint holds stay as they are: parameters are written in copies of them. These take the place of
 * the checkpoint before, so that the pages are read and found good first.
 */
static poet_status_t leave_checkpoint(void)
{
    const uint32_t swap_bytes = poet_model.page_swap_units * poet_model.page_unit_bytes;
    if (!poet_page_version().held || swap_bytes == 0u) {
        return POET_OK;
    }
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        if (poet_model.params[i].home == POET_HOME_STORAGE) {
            POET_TRY(poet_params_check(i));
        }
    }
    poet_params_changed();
    poet_page_turn();
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        const poet_param_t *param = &poet_model.params[i];
        if (param->home == POET_HOME_STORAGE) {
            POET_TRY(poet_page_keep(param->at + swap_bytes, param->at, param->size_bytes));
            poet_run_alive(i, poet_model.param_count);
        }
    }
    return POET_OK;
}

static poet_status_t write_page_part(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes)
{
    const poet_param_t *param = &poet_model.params[index];
    if (size_bytes == param->size_bytes) {
        return poet_page_out(param->at, data, size_bytes);
    }
    if (poet_model.page_stride == 0u) {
        return replace_part(param, offset, data, size_bytes);
    }
    return append_part(index, offset, data, size_bytes);
}

poet_status_t poet_params_write(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes)
{
    const poet_param_t *param;
    POET_TRY(find(index, offset, size_bytes, &param));
    if (size_bytes > POET_PARAMS_CHUNK_BYTES) {
        return POET_ERR_RANGE;
    }
    poet_params_changed();
    switch (param->home) {
    case POET_HOME_ROM:
    case POET_HOME_FROZEN:
        return POET_ERR_RANGE;
    case POET_HOME_RAM:
        memcpy(poet_model.arena + param->at + offset, data, size_bytes);
        return POET_OK;
    case POET_HOME_STORAGE:
        POET_TRY(leave_checkpoint());
        return write_page_part(index, offset, data, size_bytes);
    }
    return POET_ERR_RANGE;
}
