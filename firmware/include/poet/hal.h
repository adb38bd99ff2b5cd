#ifndef POET_HAL_H
#define POET_HAL_H

/*
 * What a port provides (firmware/port/<family>/). Registers are touched nowhere else.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "poet/status.h"

/* The command line, where the port has one (host); before anything else. `argv` stays valid. */
void poet_hal_arguments(int argc, char **argv);

/* Clocks, UART, tick, marker pin. Called once, before what follows. */
void poet_hal_init(void);

/* Name of the port, for HELLO: "stm32f4". At most 16 bytes. */
const char *poet_hal_port(void);

/* Take up to `size` received bytes; returns how many, 0 when none wait. Never blocks. */
size_t poet_hal_uart_read(uint8_t *data, size_t size);

/* How often received bytes were lost because nobody took them in time. */
uint32_t poet_hal_uart_overruns(void);

/* Send all bytes; blocks until the last one left. */
void poet_hal_uart_write(const uint8_t *data, size_t size);

/* Nothing to do until something is received: may sleep, may return early. */
void poet_hal_idle(void);

/* A free-running counter and its rate. */
uint64_t poet_hal_ticks(void);
uint32_t poet_hal_tick_hz(void);

/* Drive the marker pin: high while a step runs, so that a meter's trace can be cut to it. */
void poet_hal_marker(bool high);

/* The stack: [lowest, highest) addresses, for painting. Both NULL where the port cannot tell (host). May be
 * called before poet_hal_init(). */
void poet_hal_stack(uint8_t **lowest, uint8_t **highest);

/* Make RAM and what the core sees of it the same, before and after something else than the core (a debug probe, DMA)
 * reads or writes there. Does nothing where there is no data cache. */
void poet_hal_sync_memory(void);

/* Reboot. Does not return on a target. */
void poet_hal_reset(void);

#endif
