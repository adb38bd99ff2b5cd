#ifndef POET_RANDOM_H
#define POET_RANDOM_H

/*
 * Random numbers by their position: nothing is kept between calls, so that a number can be drawn again.
 */
#include <stdint.h>

/*
 * Philox4x32-10: four random words for a counter under a key. Source: Salmon, Moraes, Dror and Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011; tests hold the known answers of their library Random123. Two 32 x 32 -> 64 bit
 * products a round: a cycle each on a Cortex-M3 and up; a Cortex-M0 calls the compiler's library for them.
 */
void poet_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);

#endif
