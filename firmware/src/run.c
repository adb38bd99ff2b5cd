#include "poet/run.h"

#include <stdbool.h>

#include "poet/bytes.h"
#include "poet/checkpoint.h"
#include "poet/hal.h"
#include "poet/link.h"
#include "poet/model.h"
#include "poet/page.h"
#include "poet/params.h"
#include "poet/region.h"
#include "poet/storage.h"

static struct {
    poet_status_t storage; /* of the device and its pages, at boot */
    bool params_good; /* false before they are initialised and after a run that stopped half way */
    uint32_t inputs_written; /* a bit for each */
    bool label_written;
    uint32_t steps_done;
    uint32_t resumed_sequence; /* of the checkpoint that steps_done goes back to; 0: none */
    uint32_t recomputes;
    poet_run_counts_t last_step;

    bool command_runs;
    uint16_t seq;
    uint64_t command_ticks; /* when the running command began */
    uint32_t mark_index;    /* the schedule step that runs, and since when */
    uint64_t mark_ticks;
} state;

static poet_status_t start_anew(void)
{
    state.params_good = false;
    state.steps_done = 0;
    state.resumed_sequence = 0;
    /* A model that pages nothing runs without storage; only checkpoints will fail then. */
    POET_TRY(poet_model.storage_bytes == 0u ? POET_OK : state.storage);
    POET_TRY(poet_params_init());
    state.params_good = true;
    return POET_OK;
}

poet_status_t poet_run_start(void)
{
    memset(&state, 0, sizeof state);
    if (poet_model.abi != POET_ABI) {
        return POET_ERR_ABI;
    }
    poet_checkpoint_init();
    state.storage = poet_storage_init();
    if (state.storage == POET_OK) {
        state.storage = poet_page_init();
    }
    if (state.storage != POET_OK) {
        return start_anew();
    }
    uint32_t sequence;
    const poet_status_t status = poet_run_restore(&sequence);
    /* No room for checkpoints is no error before one is asked for. */
    return status == POET_ERR_NO_CHECKPOINT || status == POET_ERR_STORAGE_FULL ? start_anew() : status;
}

poet_status_t poet_run_init(void)
{
    if (!poet_params_can_init()) {
        return POET_ERR_NO_CHECKPOINT;
    }
    if (state.storage == POET_OK) {
        POET_TRY(poet_checkpoint_forget());
    }
    return start_anew();
}

void poet_run_begin(uint16_t seq)
{
    state.command_runs = true;
    state.seq = seq;
    state.command_ticks = poet_hal_ticks();
}

void poet_run_end(void)
{
    state.command_runs = false;
}

void poet_run_alive(uint32_t index, uint32_t total)
{
    if (state.command_runs) {
        poet_link_heartbeat(state.seq, index, total, state.command_ticks);
    }
}

void poet_run_input_written(uint32_t index, bool whole)
{
    const uint32_t bit = 1u << index;
    state.inputs_written = whole ? state.inputs_written | bit : state.inputs_written & ~bit;
}

void poet_run_label_written(void)
{
    state.label_written = true;
}

static void end_mark(uint64_t now)
{
    if (state.mark_index >= poet_model.schedule_steps) {
        return;
    }
    const uint64_t ticks = now - state.mark_ticks;
    poet_model.profile_ticks[state.mark_index] = ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks;
}

void poet_mark(uint32_t index)
{
    poet_region_end();
    end_mark(poet_hal_ticks());
    poet_run_alive(index, poet_model.schedule_steps);
    state.mark_index = index;
    /* Read again: a heartbeat on a slow line must not count as work of the schedule step. */
    state.mark_ticks = poet_hal_ticks();
    poet_region_begin();
}

void poet_count_recompute(void)
{
    state.recomputes++;
}

/* Run poet_step() or poet_infer() between two edges of the marker pin. */
static poet_status_t run_marked(poet_status_t (*function)(void), uint64_t *ticks)
{
    state.mark_index = UINT32_MAX;
    const uint64_t began = poet_hal_ticks();
    poet_hal_marker(true);
    const poet_status_t status = function();
    poet_region_end();
    poet_hal_marker(false);
    const uint64_t ended = poet_hal_ticks();
    end_mark(ended);
    *ticks = ended - began;
    /* Stopped half way, the schedule may have had a parameter paged out, and something else in its place. */
    state.params_good = status == POET_OK || status == POET_ERR_NOT_FINITE;
    poet_params_changed();
    return status;
}

/* Whether every int32 of a buffer lies in [least, end). */
static bool all_within(const void *data, uint32_t size_bytes, int32_t least, int32_t end)
{
    const uint8_t *bytes = data;
    for (uint32_t offset = 0; offset + sizeof(int32_t) <= size_bytes; offset += 4u) {
        int32_t value;
        memcpy(&value, bytes + offset, sizeof value);
        if (value < least || value >= end) {
            return false;
        }
    }
    return true;
}

static poet_status_t check_inputs(void)
{
    for (uint32_t i = 0; i < poet_model.input_count; i++) {
        if ((state.inputs_written & (1u << i)) == 0u) {
            return POET_ERR_NOT_READY;
        }
        const poet_input_t *input = &poet_model.inputs[i];
        if (input->end != 0 && !all_within(input->data, input->size_bytes, input->least, input->end)) {
            return POET_ERR_INPUT;
        }
    }
    return POET_OK;
}

static poet_status_t check_labels(void)
{
    if (!state.label_written) {
        return POET_ERR_NOT_READY;
    }
    if (poet_model.label_classes != 0 &&
        !all_within(poet_model.label, poet_model.label_bytes, 0, poet_model.label_classes)) {
        return POET_ERR_LABEL;
    }
    return POET_OK;
}

poet_status_t poet_run_train(float learning_rate, uint64_t *ticks)
{
    if (!poet_bytes_is_finite(learning_rate)) {
        return POET_ERR_RANGE;
    }
    if (!state.params_good) {
        return POET_ERR_NOT_READY;
    }
    POET_TRY(check_inputs());
    POET_TRY(check_labels());

    const poet_page_counts_t pages_before = poet_page_counts();
    state.recomputes = 0;
    *poet_model.learning_rate = learning_rate;
    *poet_model.step_index = (int32_t)(state.steps_done & (uint32_t)INT32_MAX);
    const poet_status_t status = run_marked(poet_step, ticks);
    const poet_page_counts_t pages = poet_page_counts();
    state.last_step.page_outs = pages.outs - pages_before.outs;
    state.last_step.page_ins = pages.ins - pages_before.ins;
    state.last_step.recomputes = state.recomputes;
    POET_TRY(status);
    state.steps_done++;
    if (poet_storage_info()->stalls_core) {
        /* Later, what the host sends would be lost. */
        while (poet_page_erase_ahead()) {
            poet_run_alive(poet_model.schedule_steps, poet_model.schedule_steps);
        }
    }
    return POET_OK;
}

poet_status_t poet_run_infer(uint64_t *ticks)
{
    if (!state.params_good) {
        return POET_ERR_NOT_READY;
    }
    POET_TRY(check_inputs());
    return run_marked(poet_infer, ticks);
}

poet_status_t poet_run_checkpoint(uint32_t *sequence)
{
    if (!state.params_good) {
        return POET_ERR_NOT_READY;
    }
    poet_checkpoint_t committed;
    POET_TRY(poet_checkpoint_commit(state.steps_done, &committed));
    *sequence = committed.sequence;
    return POET_OK;
}

poet_status_t poet_run_restore(uint32_t *sequence)
{
    poet_checkpoint_t restored;
    const poet_status_t status = poet_checkpoint_restore(&restored);
    if (status == POET_ERR_NO_CHECKPOINT || status == POET_ERR_STORAGE_FULL) {
        return status;
    }
    state.params_good = status == POET_OK;
    POET_TRY(status);
    state.steps_done = restored.steps_done;
    state.resumed_sequence = restored.sequence;
    *sequence = restored.sequence;
    return POET_OK;
}

uint32_t poet_run_steps_done(void)
{
    return state.steps_done;
}

uint32_t poet_run_resumed_sequence(void)
{
    return state.resumed_sequence;
}

poet_run_counts_t poet_run_counts(void)
{
    return state.last_step;
}
