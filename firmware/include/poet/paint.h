#ifndef POET_PAINT_H
#define POET_PAINT_H

/*
 * High-water marks of the arena and the stack, by painting them at boot and looking how far the paint is
 * gone.
 */
#include <stdint.h>

/* Paint the whole arena; before parameters are put there. */
void poet_paint_arena(void);

/* End of the highest arena word that no longer holds paint, in bytes from the arena's start. */
uint32_t poet_paint_arena_high_water(void);

/* Paint the stack below the caller. Before interrupts are enabled. */
void poet_paint_stack(void);

/* Most bytes of stack in use since it was painted; 0 where the port cannot tell. */
uint32_t poet_paint_stack_high_water(void);

/* All bytes of stack there are; 0 where the port cannot tell. */
uint32_t poet_paint_stack_bytes(void);

#endif
