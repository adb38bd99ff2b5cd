#ifndef POET_SPARE_H
#define POET_SPARE_H

/*
 * Between two steps the arena holds nothing but the parameters whose home is RAM. What lies free is a buffer for moving
 * data about: storage takes long for many small transfers.
 */
#include <stdint.h>

typedef struct {
    uint8_t *data;
    uint32_t size_bytes; /* at least 64 */
} poet_spare_t;

/* Good until the next step. */
poet_spare_t poet_spare(void);

/* How much of `left` bytes goes through it at once. */
uint32_t poet_spare_part(const poet_spare_t *spare, uint32_t left);

#endif
