#ifndef MODEL_H
#define MODEL_H

/*
 * Storage devices in software, which can go wrong in every way that a real one can. Written from data sheets, not from
 * the drivers. One of them is linked with the driver and console.c; with QEMU's own devices none.c takes its place.
 */
#include <stdint.h>

/* Go wrong in way `how`, of those that the model lists, from now on; 0: in no way. */
void model_go_wrong(uint32_t how, uint32_t parameter);

/* Time passes, as the ticks of poet_hal_ticks(), which are microseconds. */
void model_time_passes(uint32_t microseconds);

/* That clock. */
uint64_t model_time(void);

#endif
