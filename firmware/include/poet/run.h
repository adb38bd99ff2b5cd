#ifndef POET_RUN_H
#define POET_RUN_H

/*
 * Runs the model: training steps, inference, and what is counted about them.
 */
#include <stdint.h>

#include "poet/status.h"

typedef struct {
    uint32_t page_outs;
    uint32_t page_ins;
    uint32_t recomputes;
} poet_run_counts_t;

/* Parameters to their initial values, everything counted to 0. */
poet_status_t poet_run_init(void);

/* The command about to run, for its heartbeats. */
void poet_run_begin(uint16_t seq);

/* Let the host know that a long command is alive: at `index` of `total`; does nothing most times it is
 * called. */
void poet_run_alive(uint32_t index, uint32_t total);

/* The host wrote into the buffer of input `index`, or into that of the label. */
void poet_run_input_written(uint32_t index);
void poet_run_label_written(void);

/* One training step; statuses as for POET_CMD_TRAIN. */
poet_status_t poet_run_train(float learning_rate, uint64_t *ticks);

/* One inference. */
poet_status_t poet_run_infer(uint64_t *ticks);

poet_status_t poet_run_checkpoint(uint32_t *sequence);
poet_status_t poet_run_restore(uint32_t *sequence);

/* Training steps since the initial parameters; restored with a checkpoint. */
uint32_t poet_run_steps_done(void);

/* Of the last training step. */
poet_run_counts_t poet_run_counts(void);

#endif
