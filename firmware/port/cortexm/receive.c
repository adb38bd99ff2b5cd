#include "receive.h"

#include "core.h"
#include "poet/hal.h"
#include "port.h"

/* Bytes that come while a training step runs wait here; a power of two. The longest request has 528. */
#define RECEIVE_BYTES 1024u

static volatile uint8_t received[RECEIVE_BYTES];
static volatile uint32_t received_head; /* written by the interrupt */
static volatile uint32_t received_tail;
static volatile uint32_t overruns;

void poet_receive_init(void)
{
    NVIC_ISER(POET_UART_IRQ) = NVIC_BIT(POET_UART_IRQ);
}

bool poet_receive_room(void)
{
    if (received_head - received_tail < RECEIVE_BYTES) {
        return true;
    }
    NVIC_ICER(POET_UART_IRQ) = NVIC_BIT(POET_UART_IRQ);
    return false;
}

void poet_receive_put(uint8_t byte)
{
    const uint32_t head = received_head;
    received[head % RECEIVE_BYTES] = byte;
    received_head = head + 1u;
}

void poet_receive_overrun(void)
{
    overruns++;
}

size_t poet_hal_uart_read(uint8_t *data, size_t size)
{
    size_t taken = 0;
    while (taken < size && received_tail != received_head) {
        data[taken++] = received[received_tail % RECEIVE_BYTES];
        received_tail = received_tail + 1u;
    }
    NVIC_ISER(POET_UART_IRQ) = NVIC_BIT(POET_UART_IRQ);
    return taken;
}

uint32_t poet_hal_uart_overruns(void)
{
    return overruns;
}

void poet_hal_idle(void)
{
    /* With interrupts masked, one that comes between the look and the WFI still ends the WFI. */
    const uint32_t primask = poet_core_lock();
    if (received_tail == received_head) {
        __asm volatile("wfi" ::: "memory");
    }
    poet_core_unlock(primask);
}
