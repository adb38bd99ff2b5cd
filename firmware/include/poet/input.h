#ifndef POET_INPUT_H
#define POET_INPUT_H

/*
 * Inputs on storage: those that would take too much RAM as buffers. The host writes a page, which steps read like any.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

/*
 * Write part of an input on storage, its parts in order from offset 0 on; `whole`: this was the last one. POET_ERR_RANGE
 * for any other part.
 */
poet_status_t poet_input_write(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes, bool *whole);

#endif
