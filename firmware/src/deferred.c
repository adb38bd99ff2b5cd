#include "poet/deferred.h"

#include <string.h>

#define NAN_BYTES 4u

static struct {
    uint32_t count;
    poet_storage_runs_t runs[POET_STORAGE_AHEAD_MOST];
} put_off;

static poet_status_t start(const poet_storage_runs_t *runs)
{
    if (put_off.count == POET_STORAGE_AHEAD_MOST) {
        return POET_ERR_RANGE;
    }
    for (uint32_t i = 0; i < runs->runs; i++) {
        memset(runs->data + i * runs->run_bytes, 0xFF, runs->run_bytes < NAN_BYTES ? runs->run_bytes : NAN_BYTES);
    }
    put_off.runs[put_off.count++] = *runs;
    return POET_OK;
}

poet_status_t poet_deferred_wait(void)
{
    const uint32_t count = put_off.count;
    /* What reads now finds nothing put off. */
    put_off.count = 0;
    for (uint32_t k = 0; k < count; k++) {
        const poet_storage_runs_t *runs = &put_off.runs[k];
        for (uint32_t i = 0; i < runs->runs; i++) {
            POET_TRY(poet_storage_read(runs->address + i * runs->stride_bytes, runs->data + i * runs->run_bytes,
                                       runs->run_bytes));
        }
    }
    return POET_OK;
}

const poet_storage_ahead_t poet_deferred = {start, poet_deferred_wait};
