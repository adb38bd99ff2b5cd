#ifndef POET_STM32L4_PORT_H
#define POET_STM32L4_PORT_H

/*
 * STM32L475 and L476 (RM0351).
 */
#include "board.h"

#define POET_PORT_NAME "stm32l4"
#define POET_CACHES 0 /* the flash's caches need no care */

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 80000000u
#endif

#endif
