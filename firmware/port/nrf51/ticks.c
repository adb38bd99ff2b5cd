#include "ticks.h"

#include "poet/hal.h"
#include "port.h"
#include "registers.h"

static uint32_t last_count;
static uint32_t wraps;

void poet_ticks_init(void)
{
    TIMER0_MODE = TIMER0_MODE_TIMER;
    TIMER0_BITMODE = TIMER0_BITMODE_32;
    TIMER0_PRESCALER = 0;
    TIMER0_TASKS_CLEAR = 1;
    TIMER0_TASKS_START = 1;
}

/* A wrap is seen when somebody looks: 268 s may pass between two calls while time is being taken. */
uint64_t poet_hal_ticks(void)
{
    TIMER0_TASKS_CAPTURE0 = 1;
    const uint32_t count = TIMER0_CC0;
    if (count < last_count) {
        wraps++;
    }
    last_count = count;
    return ((uint64_t)wraps << 32) | count;
}

uint32_t poet_hal_tick_hz(void)
{
    return POET_TICK_HZ;
}
