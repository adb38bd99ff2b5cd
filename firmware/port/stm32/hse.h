#ifndef POET_STM32_HSE_H
#define POET_STM32_HSE_H

/*
 * The outer clock of the families that can do without. registers.h gives RCC_CR and its HSE bits.
 */
#include <stdbool.h>

#include "board.h"
#include "registers.h"

/* About 100 ms on the 16 MHz that F4 and F7 start with, 25 ms on H7's 64; crystals need about 2 ms, a signal less. */
#define POET_HSE_TRIES 200000u

/* False when it does not come, or there is none. */
static inline bool poet_hse_start(void)
{
    RCC_CR |= RCC_CR_HSEON | (POET_HSE_BYPASS ? RCC_CR_HSEBYP : 0u);
    for (uint32_t i = 0; i < POET_HSE_TRIES; i++) {
        if (RCC_CR & RCC_CR_HSERDY) {
            return true;
        }
    }
    RCC_CR &= ~RCC_CR_HSEON;
    return false;
}

#endif
