/*
 * A memory chip on the bus, behind poet_hal_sync_memory(): the driver calls it after it wrote, and what was written is
 * then taken or not.
 */
#include <stdbool.h>
#include <string.h>

#include "model.h"
#include "poet/hal.h"

/* Ways to go wrong; those with a parameter say what it is. */
enum {
    FINE,
    MISSING,   /* the bus reads as parameter */
    PROTECTED, /* writes do nothing */
    STUCK_BIT, /* address: a bit that stays 1 */
    TOO_SMALL, /* bytes that are there; behind them writes do nothing */
};

extern uint8_t poet_storage_memory[POET_STORAGE_BYTES];
uint8_t poet_storage_memory[POET_STORAGE_BYTES];

static uint8_t taken[POET_STORAGE_BYTES];
static uint32_t how;
static uint32_t parameter;

void poet_hal_sync_memory(void)
{
    if (how == MISSING) {
        memset(poet_storage_memory, (int)parameter, sizeof poet_storage_memory);
    } else if (how == PROTECTED) {
        memcpy(poet_storage_memory, taken, sizeof taken);
    } else if (how == STUCK_BIT) {
        poet_storage_memory[parameter] |= 0x80u;
    } else if (how == TOO_SMALL) {
        memset(poet_storage_memory + parameter, 0, sizeof poet_storage_memory - parameter);
    }
    memcpy(taken, poet_storage_memory, sizeof taken);
}

void model_go_wrong(uint32_t way, uint32_t with)
{
    how = way;
    parameter = with;
    poet_hal_sync_memory();
}
