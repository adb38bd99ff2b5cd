/*
 * What the HAL wants of the core itself.
 */
#include "core.h"
#include "poet/hal.h"
#include "port.h"

/* From link.ld. */
extern uint8_t _poet_stack_bottom[];
extern uint8_t _poet_stack_top[];

void poet_hal_arguments(int argc, char **argv)
{
    (void)argc;
    (void)argv;
}

const char *poet_hal_port(void)
{
    return POET_PORT_NAME;
}

void poet_hal_stack(uint8_t **lowest, uint8_t **highest)
{
    *lowest = _poet_stack_bottom;
    *highest = _poet_stack_top;
}

void poet_hal_reset(void)
{
    SCB_AIRCR = SCB_AIRCR_RESET;
    for (;;) {
    }
}
