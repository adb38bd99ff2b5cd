#ifndef POET_DEFERRED_H
#define POET_DEFERRED_H

/*
 * For drivers of devices that bring nothing by themselves (a file): `start` and `wait` of poet_storage_ahead_t as reads
 * that are put off until the wait. Until then each run begins with a NaN, so that whoever uses it too soon computes one.
 * The driver's other calls begin with poet_deferred_wait().
 */
#include "poet/storage.h"

extern const poet_storage_ahead_t poet_deferred;

/* Do, by poet_storage_read(), what was put off. */
poet_status_t poet_deferred_wait(void);

#endif
