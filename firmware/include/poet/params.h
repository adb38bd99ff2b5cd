#ifndef POET_PARAMS_H
#define POET_PARAMS_H

/*
 * The model's parameters, wherever their home is: the arena, a page on storage, or flash.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

/* Largest piece that read and write take: what fits into a frame. */
#define POET_PARAMS_CHUNK_BYTES 512u

/*
 * In place of initial values that flash has no room for: they are in the storage image, as a checkpoint of no steps,
 * which boot restores.
 */
extern const float poet_initial_on_storage[1];

/* Whether all initial values are in flash. Where they are not, the checkpoint that they came as is the only copy. */
bool poet_params_can_init(void);

/*
 * Put the initial values in place. POET_ERR_NO_CHECKPOINT when some are not in flash: boot restores them, or nobody;
 * POET_ERR_CORRUPT when the page of a frozen one is not there. What is free of the arena is not kept.
 */
poet_status_t poet_params_init(void);

/*
 * Read part of a parameter. A parameter on storage has its page checked first (once for many reads in a row):
 * POET_ERR_CORRUPT. POET_ERR_RANGE: no such parameter, or a part outside it.
 */
poet_status_t poet_params_read(uint32_t index, uint32_t offset, void *data, uint32_t size_bytes);

/*
 * Write part of a parameter, at most POET_PARAMS_CHUNK_BYTES. POET_ERR_RANGE also for one in ROM. A page
 * keeps a CRC over all of it: writing a part of a corrupt page does not make it good, writing the whole does.
 * On storage that has to be erased a parameter is written whole, its parts in order from offset 0 on (else
 * POET_ERR_RANGE), and is corrupt until the last. The first write behind a checkpoint that holds pages reads them all,
 * and copies them: POET_ERR_CORRUPT, and nothing written, when one went bad; the checkpoint before can be restored.
 */
poet_status_t poet_params_write(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes);

/* Whether the page of a parameter on storage is as it was sealed: POET_ERR_CORRUPT. Once for many calls in a row. */
poet_status_t poet_params_check(uint32_t index);

/* The next read checks its page again: something else may have written it. */
void poet_params_changed(void);

#endif
