#include "poet/spare.h"

#include "poet/model.h"

#define LEAST_BYTES 64u
#define MOST_BYTES 16384u /* more gains nothing, and heartbeats come between transfers */
#define ALIGNMENT_BYTES 8u

/* Where no parameter lies any more from `from` on: the end of the one that covers `from`, or `from`. */
static uint32_t end_of_cover(uint32_t from)
{
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        const poet_param_t *param = &poet_model.params[i];
        if (param->home == POET_HOME_RAM && param->at <= from && from - param->at < param->size_bytes) {
            return param->at + param->size_bytes;
        }
    }
    return from;
}

static uint32_t next_param(uint32_t from)
{
    uint32_t next = poet_model.arena_bytes;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        const poet_param_t *param = &poet_model.params[i];
        if (param->home == POET_HOME_RAM && param->at >= from && param->at < next) {
            next = param->at;
        }
    }
    return next;
}

poet_spare_t poet_spare(void)
{
    static uint8_t least[LEAST_BYTES];
    poet_spare_t spare = {least, sizeof least};
    uint32_t from = 0;
    while (from < poet_model.arena_bytes) {
        const uint32_t end = end_of_cover(from);
        if (end > from) {
            from = end;
            continue;
        }
        const uint32_t to = next_param(from);
        const uint32_t first = (from + ALIGNMENT_BYTES - 1u) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
        const uint32_t size_bytes = to > first ? to - first : 0u;
        const uint32_t useful = size_bytes < MOST_BYTES ? size_bytes : MOST_BYTES;
        if (useful > spare.size_bytes) {
            spare.data = poet_model.arena + first;
            spare.size_bytes = useful;
        }
        from = to;
    }
    return spare;
}

uint32_t poet_spare_part(const poet_spare_t *spare, uint32_t left)
{
    return left < spare->size_bytes ? left : spare->size_bytes;
}
