#ifndef POET_MODEL_H
#define POET_MODEL_H

/*
 * The contract between generated code and the runtime. The code generator emits one `poet_model`, its tables,
 * and the two functions poet_step() and poet_infer(); the runtime knows the model only through them.
 *
 * POET_ABI grows with any change to this file. Generated code checks it at compile time, so that a stale
 * project fails to build instead of misbehaving.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

#define POET_ABI 5

#define POET_DIGEST_BYTES 16 /* leading bytes of a SHA-256 */

typedef enum {
    POET_HOME_ROM = 0,     /* frozen: read in place from flash, never written */
    POET_HOME_RAM = 1,     /* `at` is an arena offset in bytes; valid there between steps */
    POET_HOME_STORAGE = 2, /* `at` is the address of the parameter's page (page.h) */
    POET_HOME_FROZEN = 3,  /* `at` is the address of a page that came with storage and is never written */
} poet_home_t;

/* One parameter of the model, or state of its training, in the order of manifest.json's "params". */
typedef struct {
    const char *name;     /* the ONNX initializer, escaped; for messages only */
    const float *initial; /* size_bytes of initial values in flash; NULL: zeros (state), or POET_HOME_FROZEN */
    uint32_t size_bytes;
    uint32_t at;
    poet_home_t home;
    bool is_checked; /* on storage: each step reads all of it before it writes any parameter */
} poet_param_t;

/* One input of the model, in the order of manifest.json's "inputs". */
typedef struct {
    void *data; /* float32 or int32; NULL: it is on storage */
    uint32_t size_bytes;
    int32_t least; /* where int32 values pick rows of a table, each lies in [least, end) */
    int32_t end;   /* 0: values are not checked */
    uint32_t at;   /* where data is NULL: the address of its page, which no step writes */
} poet_input_t;

#define POET_INPUTS_MOST 32u

typedef struct {
    uint32_t abi; /* POET_ABI of the generated code */
    uint8_t model_digest[POET_DIGEST_BYTES];
    uint8_t schedule_digest[POET_DIGEST_BYTES];
    const char *board;        /* id of the board file */
    const char *tool_version; /* of the code generator */

    uint8_t *arena; /* 8-byte aligned */
    uint32_t arena_bytes;

    /* Input/output buffers; static, outside the arena. */
    const poet_input_t *inputs;
    uint32_t input_count; /* at most POET_INPUTS_MOST */
    void *label; /* int32 class indices, or float32 targets */
    uint32_t label_bytes;
    int32_t label_classes; /* class indices are in [0, label_classes); 0: targets, which are not checked */
    void *output;          /* filled by poet_infer() */
    uint32_t output_bytes;
    float *loss;          /* written by poet_step() */
    float *learning_rate; /* read by poet_step() */
    int32_t *step_index;  /* read by poet_step(): training steps done before it, modulo 2^31 */

    const poet_param_t *params;
    uint32_t param_count;

    /* Steps of poet_step() and, numbered behind them, of poet_infer(); the ticks of each are left here. */
    uint32_t *profile_ticks;
    uint32_t schedule_steps;

    /* Where pages lie: page.h. */
    uint32_t page_unit_bytes;   /* a multiple of the device's erase unit */
    uint32_t page_units;        /* of the ring; 0: no page */
    uint32_t page_window_units; /* at most page_units */
    uint32_t page_homes_unit;   /* where nothing is erased: first unit of the parameters' pages, the window's last */
    uint32_t page_swap_units;   /* from their first place to their second; 0: they have one, or storage is erased */
    uint32_t page_stride;       /* units that the window moves each training step; 0 where nothing is erased */
    uint8_t *page_clean;        /* page_window_units + page_stride bits, zero at first; NULL where page_stride is 0 */

    uint32_t storage_bytes; /* of the ring, from address 0 on; checkpoints lie behind */
    uint32_t frozen_at;     /* from this address on, behind the checkpoints: pages of frozen parameters; 0: none */
} poet_model_t;

extern const poet_model_t poet_model;

/*
 * Train on the sample in `inputs` and `label` at `learning_rate`: forward, loss, backward, update, exactly as
 * the schedule says. POET_ERR_NOT_FINITE: the loss is NaN or infinite, and all parameters are as they were before. On
 * another error the parameters are not to be trusted; restore a checkpoint.
 */
poet_status_t poet_step(void);

/*
 * Run the model forward on the sample in `inputs`; the result is in `output`. Parameters do not change, but on
 * an error they are not to be trusted: one may have been paged out.
 */
poet_status_t poet_infer(void);

/*
 * Provided by the runtime, called by generated code at the start of schedule step `index`: takes the time of
 * the step before, and lets the link send a heartbeat when the host has heard nothing for a while.
 */
void poet_mark(uint32_t index);

/* Provided by the runtime, called by generated code before a computation that runs again. Counts only. */
void poet_count_recompute(void);

#endif
