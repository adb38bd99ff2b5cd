#ifndef POET_CORTEXM_TICKS_H
#define POET_CORTEXM_TICKS_H

/* Start the free-running counter behind poet_hal_ticks(), once the core has its final clock. */
void poet_ticks_init(void);

#endif
