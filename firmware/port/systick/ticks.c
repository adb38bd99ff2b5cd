#include "ticks.h"

#include "core.h"
#include "poet/hal.h"
#include "port.h"

#define SYSTICK_PERIOD 0x01000000u /* all of its 24 bits: 100 ms at 168 MHz */

void poet_systick_handler(void);

static volatile uint32_t systick_wraps;
static uint64_t last_ticks;

void poet_ticks_init(void)
{
    SYST_RVR = SYSTICK_PERIOD - 1u;
    SYST_CVR = 0;
    SYST_CSR = SYST_CSR_CLKSOURCE | SYST_CSR_TICKINT | SYST_CSR_ENABLE;
}

void poet_systick_handler(void)
{
    systick_wraps++;
}

uint64_t poet_hal_ticks(void)
{
    const uint32_t primask = poet_core_lock();
    uint32_t count = SYST_CVR;
    uint32_t wraps = systick_wraps;
    if (SCB_ICSR & SCB_ICSR_PENDSTSET) {
        /* Wrapped, but the interrupt was not taken yet. */
        count = SYST_CVR;
        wraps++;
    }
    /* The interrupt comes with the count of 0, which is also what there is before the first load: 0 begins a period. */
    const uint32_t since_wrap = count == 0u ? 0u : SYSTICK_PERIOD - count;
    const uint64_t ticks = (uint64_t)wraps * SYSTICK_PERIOD + since_wrap;
    /* An emulator may show the new count before it raises the interrupt. */
    if (ticks > last_ticks) {
        last_ticks = ticks;
    }
    const uint64_t monotonic = last_ticks;
    poet_core_unlock(primask);
    return monotonic;
}

uint32_t poet_hal_tick_hz(void)
{
    return POET_TICK_HZ;
}
