#include "poet/paint.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "poet/hal.h"
#include "poet/model.h"

/* A NaN: no activation or weight is left with these bits. */
#define PAINT 0xFFE7A53Cu
#define WORD_BYTES ((uint32_t)sizeof(uint32_t))

/* The painting function's own frame, and what its caller keeps below the marker. */
#define STACK_MARGIN_BYTES 128u

static void paint_words(uint8_t *at, uint32_t size_bytes)
{
    const uint32_t paint = PAINT;
    for (uint32_t offset = 0; offset + WORD_BYTES <= size_bytes; offset += WORD_BYTES) {
        memcpy(at + offset, &paint, WORD_BYTES);
    }
}

static bool is_paint(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, WORD_BYTES);
    return word == PAINT;
}

void poet_paint_arena(void)
{
    paint_words(poet_model.arena, poet_model.arena_bytes);
}

uint32_t poet_paint_arena_high_water(void)
{
    uint32_t end = poet_model.arena_bytes / WORD_BYTES * WORD_BYTES;
    while (end > 0 && is_paint(poet_model.arena + end - WORD_BYTES)) {
        end -= WORD_BYTES;
    }
    return end;
}

void poet_paint_stack(void)
{
    uint8_t *lowest;
    uint8_t *highest;
    poet_hal_stack(&lowest, &highest);
    if (lowest == NULL) {
        return;
    }
    volatile uint8_t marker = 0;
    (void)marker;
    const uint32_t below_bytes = (uint32_t)((uintptr_t)&marker - (uintptr_t)lowest);
    if (below_bytes > STACK_MARGIN_BYTES) {
        paint_words(lowest, below_bytes - STACK_MARGIN_BYTES);
    }
}

uint32_t poet_paint_stack_high_water(void)
{
    uint8_t *lowest;
    uint8_t *highest;
    poet_hal_stack(&lowest, &highest);
    if (lowest == NULL) {
        return 0;
    }
    const uint8_t *at = lowest;
    while (at < highest && is_paint(at)) {
        at += WORD_BYTES;
    }
    return (uint32_t)(highest - at);
}

uint32_t poet_paint_stack_bytes(void)
{
    uint8_t *lowest;
    uint8_t *highest;
    poet_hal_stack(&lowest, &highest);
    return lowest == NULL ? 0u : (uint32_t)(highest - lowest);
}
