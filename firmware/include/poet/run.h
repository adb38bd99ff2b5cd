#ifndef POET_RUN_H
#define POET_RUN_H

/*
 * Runs the model: training steps, inference, and what is counted about them.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

typedef struct {
    uint32_t page_outs;
    uint32_t page_ins;
    uint32_t recomputes;
} poet_run_counts_t;

/*
 * At boot: bring up storage and pages, and go on from the newest good checkpoint; where there is none, from the initial
 * parameters. After an error nothing trains.
 */
poet_status_t poet_run_start(void);

/*
 * Forget all checkpoints; parameters to their initial values, steps_done to 0. POET_ERR_NO_CHECKPOINT, and nothing
 * changes, where some of these came with storage: as a checkpoint, which would be lost.
 */
poet_status_t poet_run_init(void);

/* The command about to run, for its heartbeats, and its end. */
void poet_run_begin(uint16_t seq);
void poet_run_end(void);

/* Let the host know that a long command is alive: at `index` of `total`; does nothing most times it is
 * called, and while no command runs. */
void poet_run_alive(uint32_t index, uint32_t total);

/* The host wrote into the buffer of input `index`, or into that of the label; not `whole`: there is more to come. */
void poet_run_input_written(uint32_t index, bool whole);
void poet_run_label_written(void);

/* One training step; statuses as for POET_CMD_TRAIN. */
poet_status_t poet_run_train(float learning_rate, uint64_t *ticks);

/* One inference. */
poet_status_t poet_run_infer(uint64_t *ticks);

poet_status_t poet_run_checkpoint(uint32_t *sequence);
poet_status_t poet_run_restore(uint32_t *sequence);

/* Training steps since the initial parameters; restored with a checkpoint. */
uint32_t poet_run_steps_done(void);

/* Sequence number of the checkpoint that was restored last, at boot or since; 0: none. */
uint32_t poet_run_resumed_sequence(void);

/* Of the last training step. */
poet_run_counts_t poet_run_counts(void);

#endif
