#ifndef POET_CORTEXM_RECEIVE_H
#define POET_CORTEXM_RECEIVE_H

/*
 * The buffer between a port's UART interrupt and poet_hal_uart_read(). All but poet_receive_init() are for
 * poet_uart_handler().
 */
#include <stdbool.h>
#include <stdint.h>

/* Let the UART's interrupt come. */
void poet_receive_init(void);

/* Whether a byte may be taken from the UART. Where not, the interrupt is masked until some were read: an emulated
 * line then waits, a real one overruns, which is to be counted. */
bool poet_receive_room(void);

/* Keep a byte; only after poet_receive_room(). */
void poet_receive_put(uint8_t byte);

/* Note that the UART lost a byte. */
void poet_receive_overrun(void);

#endif
