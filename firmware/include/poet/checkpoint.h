#ifndef POET_CHECKPOINT_H
#define POET_CHECKPOINT_H

/*
 * Checkpoints: all parameters that can change, and steps_done, in two slots on storage behind the model's
 * pages. A commit overwrites the older slot, data first, then a header with sequence number and CRCs; power
 * may be cut at any write and the other slot is still whole.
 *
 * Parameters whose pages have two places (page.h) are not copied: a slot says which pages hold, and the step after a
 * commit gives up those of the slot before, once it has read the newest.
 */
#include <stdint.h>

#include "poet/status.h"

#define POET_CHECKPOINT_HEADER_BYTES 52u
#define POET_CHECKPOINT_SLOTS 2u

typedef struct {
    uint32_t sequence; /* 1 for the first commit on this storage */
    uint32_t steps_done;
} poet_checkpoint_t;

/* Look at the storage again at the next use: called at boot. */
void poet_checkpoint_init(void);

/*
 * POET_ERR_STORAGE_FULL when the slots do not fit; POET_ERR_CORRUPT when a parameter's page is; POET_ERR_WORN when the
 * data do not read back as they were written. The checkpoint before stays good then. Without a step since the last
 * commit all pages are read, for the slot that is overwritten is the last one that has others.
 */
poet_status_t poet_checkpoint_commit(uint32_t steps_done, poet_checkpoint_t *committed);

/* There is no checkpoint of this model any more. */
poet_status_t poet_checkpoint_forget(void);

/*
 * Bring back the newest intact checkpoint of this model. It is checked whole before the first parameter
 * changes, so POET_ERR_NO_CHECKPOINT leaves all as it was; an error after that leaves the parameters not to
 * be trusted.
 */
poet_status_t poet_checkpoint_restore(poet_checkpoint_t *restored);

#endif
