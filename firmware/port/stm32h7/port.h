#ifndef POET_STM32H7_PORT_H
#define POET_STM32H7_PORT_H

/*
 * STM32H743 (RM0433). 400 MHz at voltage scale 1, which silicon of revision Y can do as well; 480 MHz is for
 * revision V alone.
 */
#include "board.h"

#define POET_PORT_NAME "stm32h7"
#define POET_CACHES 1

#ifndef POET_CPU_HZ
#define POET_CPU_HZ 400000000u
#endif

#endif
