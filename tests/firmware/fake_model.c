/*
 * A hand-written stand-in for generated code: two parameters that train, one frozen, and a schedule that
 * pages and recomputes. Its input steers what the tests need: input[0] is data, input[1] the milliseconds
 * that one schedule step takes, input[2] > 0 makes the loss a NaN, input[7]'s bits are where the sweep of
 * poet_infer() begins.
 */
#include <string.h>

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/hal.h"
#include "poet/math.h"
#include "poet/model.h"
#include "poet/page.h"

#define INPUTS 8
#define ROWS 2      /* of SCALES: the second input */
#define BIASES 16   /* in RAM */
#define WEIGHTS 300 /* on storage; more than one frame holds */
#define SCALES 4    /* in ROM */
#define ACTIVATIONS 64

#define ARENA_BIASES 0u
#define ARENA_WEIGHTS 64u
#define ARENA_ACTIVATIONS 1264u
#define ARENA_PEAK 1520u
#define ARENA_BYTES 4096u

/* With FAKE_NOR as on a device that is erased: the window moves, and there is little more room than it takes. */
#ifdef FAKE_NOR
#define PAGE_UNIT_BYTES 256u
#define PAGE_UNITS 11u
#define PAGE_WINDOW_UNITS 8u
#define PAGE_HOMES_UNIT 0u
#define PAGE_SWAP 0u
#define PAGE_STRIDE 1u
#define PAGE_WEIGHTS 0u
#define PAGE_WEIGHTS_BEFORE 256u
#define PAGE_ACTIVATIONS 1536u
#define PAGE_CLEAN clean_units
static uint8_t clean_units[PAGE_WINDOW_UNITS / 8u + 1u];
#else
#define PAGE_UNIT_BYTES 16u
#define PAGE_UNITS 169u
#define PAGE_WINDOW_UNITS 169u
#define PAGE_HOMES_UNIT 17u
#define PAGE_SWAP 76u
#define PAGE_STRIDE 0u
#define PAGE_WEIGHTS 272u
#define PAGE_WEIGHTS_BEFORE 1488u
#define PAGE_ACTIVATIONS 0u
#define PAGE_CLEAN NULL
#endif

#define STEPS 7u

static union {
    uint8_t bytes[ARENA_BYTES];
    float words[ARENA_BYTES / 4u];
} arena;

static float input[INPUTS];
static int32_t rows[ROWS];
static int32_t label[2];
static uint32_t output[4];
static float loss;
static float learning_rate;
static int32_t step_index;
static uint32_t ticks[STEPS];

static const float biases_initial[BIASES] = {0.5f, -0.25f, 0.125f};
static const float weights_initial[WEIGHTS] = {1.0f, 2.0f, 3.0f, 4.0f};
static const float scales[SCALES] = {0.1f, 0.2f, 0.3f, 0.4f};

static const poet_input_t inputs[] = {
    {input, sizeof input, 0, 0, 0},
    {rows, sizeof rows, -SCALES, SCALES, 0},
};

static const poet_param_t params[] = {
    {"bias", biases_initial, sizeof biases_initial, ARENA_BIASES, POET_HOME_RAM, false},
    {"weight", weights_initial, sizeof weights_initial, PAGE_WEIGHTS, POET_HOME_STORAGE, true},
    {"scale", scales, sizeof scales, 0, POET_HOME_ROM, false},
};

const poet_model_t poet_model = {
    .abi = POET_ABI,
    .model_digest = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    .schedule_digest = {16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1},
    .board = "fake_board",
    .tool_version = "0.0.0-test",
    .arena = arena.bytes,
    .arena_bytes = ARENA_BYTES,
    .inputs = inputs,
    .input_count = sizeof inputs / sizeof inputs[0],
    .label = label,
    .label_bytes = sizeof label,
    .label_classes = 10,
    .output = output,
    .output_bytes = sizeof output,
    .loss = &loss,
    .learning_rate = &learning_rate,
    .step_index = &step_index,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .profile_ticks = ticks,
    .schedule_steps = STEPS,
    .page_unit_bytes = PAGE_UNIT_BYTES,
    .page_units = PAGE_UNITS,
    .page_window_units = PAGE_WINDOW_UNITS,
    .page_homes_unit = PAGE_HOMES_UNIT,
    .page_swap_units = PAGE_SWAP,
    .page_stride = PAGE_STRIDE,
    .page_clean = PAGE_CLEAN,
    .storage_bytes = PAGE_UNITS * PAGE_UNIT_BYTES,
};

static float *at(uint32_t offset)
{
    return arena.words + offset / 4u;
}

static void take_time(void)
{
    const uint64_t until = poet_hal_ticks() + (uint64_t)(uint32_t)input[1] * (poet_hal_tick_hz() / 1000u);
    while (poet_hal_ticks() < until) {
    }
}

static void forward(void)
{
    for (uint32_t i = 0; i < ACTIVATIONS; i++) {
        at(ARENA_ACTIVATIONS)[i] =
            poet_expf(input[0] * 0.01f) * at(ARENA_WEIGHTS)[i] + at(ARENA_BIASES)[i % BIASES];
    }
}

poet_status_t poet_step(void)
{
    poet_page_turn();
    poet_mark(0);
    POET_TRY(poet_page_in(PAGE_WEIGHTS_BEFORE, at(ARENA_WEIGHTS), sizeof weights_initial));

    poet_mark(1);
    take_time();
    forward();

    poet_mark(2);
    POET_TRY(poet_page_out(PAGE_ACTIVATIONS, at(ARENA_ACTIVATIONS), ACTIVATIONS * 4u));
    memset(at(ARENA_ACTIVATIONS), 0, ACTIVATIONS * 4u);

    poet_mark(3);
    poet_count_recompute();
    forward();

    poet_mark(4);
    POET_TRY(poet_page_in(PAGE_ACTIVATIONS, at(ARENA_ACTIVATIONS), ACTIVATIONS * 4u));
    loss = (float)label[0];
    for (uint32_t i = 0; i < ACTIVATIONS; i++) {
        loss += poet_logf(1.0f + at(ARENA_ACTIVATIONS)[i] * at(ARENA_ACTIVATIONS)[i]) * scales[i % SCALES];
    }
    if (input[2] > 0.0f) {
        loss = poet_logf(-1.0f);
    }
    const bool loss_is_finite = poet_bytes_is_finite(loss);
    for (uint32_t i = 0; loss_is_finite && i < ACTIVATIONS; i++) {
        at(ARENA_BIASES)[i % BIASES] -= learning_rate * at(ARENA_ACTIVATIONS)[i];
        at(ARENA_WEIGHTS)[i] -= learning_rate * at(ARENA_ACTIVATIONS)[i] * 0.5f;
    }

    poet_mark(5);
    POET_TRY(poet_page_out(PAGE_WEIGHTS, at(ARENA_WEIGHTS), sizeof weights_initial));
    return loss_is_finite ? POET_OK : POET_ERR_NOT_FINITE;
}

static float cubic_root(float x)
{
    return poet_powf(x, 1.0f / 3.0f);
}

static float fifth_power(float x)
{
    return poet_powf(x, 5.0f);
}

static uint32_t sweep(float (*function)(float), uint32_t first, uint32_t crc)
{
    for (uint32_t i = 0; i < 4096u; i++) {
        const uint32_t bits = first + i * 1048573u;
        float x;
        memcpy(&x, &bits, sizeof x);
        /* A NaN's sign is not the same on every machine, and no promise. */
        float y = function(x);
        y = y != y ? 0.0f : y;
        crc = poet_crc32(crc, &y, sizeof y);
    }
    return crc;
}

poet_status_t poet_infer(void)
{
    uint32_t first;
    memcpy(&first, &input[7], sizeof first);
    poet_mark(6);
    POET_TRY(poet_page_in(PAGE_WEIGHTS, at(ARENA_WEIGHTS), sizeof weights_initial));
    output[0] = sweep(poet_logf, first, sweep(poet_expf, first, 0));
    output[1] = sweep(poet_tanhf, first, sweep(poet_erff, first, sweep(poet_sqrtf, first, 0)));
    output[1] = sweep(cubic_root, first, sweep(fifth_power, first, output[1]));
    output[1] = sweep(poet_normal_cdff, first, output[1]);
    output[2] = poet_crc32(0, at(ARENA_BIASES), sizeof biases_initial);
    output[3] = poet_crc32(0, input, sizeof input);
    return POET_OK;
}
