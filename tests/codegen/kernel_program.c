/*
 * What the programs of kernel_program.py have in common: tensors in one stretch of memory with guard words between them.
 */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define FORBID(words, count) __asan_poison_memory_region(words, sizeof(uint32_t) * (size_t)(count))
#define ALLOW(words, count) __asan_unpoison_memory_region(words, sizeof(uint32_t) * (size_t)(count))
#else
#define FORBID(words, count) ((void)0)
#define ALLOW(words, count) ((void)0)
#endif
#define MARKED(...) (poet_region_begin(), __VA_ARGS__, poet_region_end())
#define UNTOUCHED 0x7FD5D5D5u /* a NaN, so that a sum that takes one in shows it */
#define CLOSE 1e-3f           /* of the largest value: other algorithms add up in another order */

typedef struct {
    int place;
    int elements;
    int end; /* of int32 values; 0: floats */
    int is_filled;
    int is_written;
    int is_size; /* no negative values: a variance */
} buffer_t;

typedef struct {
    int number;
    int words;
    int count;
    const buffer_t *buffers;
} case_t;

static uint32_t memory[MEMORY_WORDS] __attribute__((aligned(8)));
static uint32_t before[MEMORY_WORDS], expected[MEMORY_WORDS];
static uint32_t state;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state;
}

/* Floats in [-4, 4), sizes in [0, 4): both sides of what functions tell apart. */
static void prepare(const case_t *c)
{
    state = 1;
    for (int i = 0; i < c->words; i++) {
        memory[i] = UNTOUCHED;
    }
    for (int k = 0; k < c->count; k++) {
        const buffer_t *b = c->buffers + k;
        for (int i = 0; b->is_filled && i < b->elements; i++) {
            const float value = (float)(int32_t)draw() / 536870912.0f;
            const float size = value < 0.0f ? -value : value;
            if (b->end > 0) {
                memory[b->place + i] = (draw() >> 8) % (uint32_t)b->end;
            } else {
                memcpy(memory + b->place + i, b->is_size ? &size : &value, sizeof value);
            }
        }
    }
    memcpy(before, memory, sizeof(uint32_t) * (size_t)c->words);
    FORBID(memory, c->words);
    for (int k = 0; k < c->count; k++) {
        ALLOW(memory + c->buffers[k].place, c->buffers[k].elements);
    }
}

/* Of all outputs; the sign of a NaN is not the same on every machine, and no promise. */
static uint32_t checksum(const case_t *c)
{
    uint32_t sum = 2166136261u;
    for (int k = 0; k < c->count; k++) {
        const buffer_t *b = c->buffers + k;
        for (int i = 0; b->is_written && i < b->elements; i++) {
            const uint32_t bits = memory[b->place + i];
            sum = (sum ^ ((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : bits)) * 16777619u;
        }
    }
    return sum;
}

/* The last tensor is the result. */
static int is_close(const case_t *c)
{
    const buffer_t *b = c->buffers + c->count - 1;
    float largest = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < b->elements; i++) {
            float ours, theirs;
            memcpy(&ours, expected + b->place + i, sizeof ours);
            memcpy(&theirs, memory + b->place + i, sizeof theirs);
            if (pass == 0) {
                largest = fmaxf(largest, fabsf(ours));
            } else if (!(fabsf(ours - theirs) <= CLOSE * largest)) {
                return 0;
            }
        }
    }
    return 1;
}

static int writes_outputs_alone(const case_t *c)
{
    int at = 0;
    for (int k = 0; k < c->count; k++) {
        const buffer_t *b = c->buffers + k;
        const int end = b->place + (b->is_written ? 0 : b->elements);
        if (memcmp(memory + at, before + at, sizeof(uint32_t) * (size_t)(end - at)) != 0) {
            return 0;
        }
        at = b->place + b->elements;
    }
    return memcmp(memory + at, before + at, sizeof(uint32_t) * (size_t)(c->words - at)) == 0;
}

static void check(const case_t *c, int form, int is_exact)
{
    const char *verdict = "right";
    ALLOW(memory, c->words);
    const size_t size = sizeof(uint32_t) * (size_t)c->words;
    if (form == 0) {
        memcpy(expected, memory, size);
    }
    if (!writes_outputs_alone(c)) {
        verdict = "wrote beside its outputs";
    } else if (is_exact ? memcmp(memory, expected, size) != 0 : !is_close(c)) {
        verdict = "differs from the first form";
    }
    printf("%d %d %08lx %s\n", c->number, form, (unsigned long)checksum(c), verdict);
}
