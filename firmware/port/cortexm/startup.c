/*
 * Vector table, reset, faults.
 */
#include <stdint.h>
#include <string.h>

#include "core.h"
#include "port.h"

int main(int argc, char **argv);

void poet_reset_handler(void);
void poet_fault_handler(void);
void poet_unexpected_handler(void);
void poet_uart_handler(void);

/* Defined in port/systick; a core without that timer never comes here. */
void poet_systick_handler(void) __attribute__((weak, alias("poet_unexpected_handler")));

/* From link.ld. */
extern uint32_t _poet_data_load[];
extern uint32_t _poet_data_begin[];
extern uint32_t _poet_data_end[];
extern uint32_t _poet_bss_begin[];
extern uint32_t _poet_bss_end[];
extern uint32_t _poet_stack_top[];

typedef union {
    uint32_t *stack_top;
    void (*handler)(void);
} vector_t;

/* Interrupts that nobody enables have no entry. */
__attribute__((used, section(".vectors"))) static const vector_t vectors[16u + POET_UART_IRQ + 1u] = {
    [0] = {.stack_top = _poet_stack_top},        [1] = {.handler = poet_reset_handler},
    [2] = {.handler = poet_unexpected_handler},                                               /* NMI */
    [3] = {.handler = poet_fault_handler},       [11] = {.handler = poet_unexpected_handler}, /* SVC */
    [14] = {.handler = poet_unexpected_handler},                                              /* PendSV */
    [15] = {.handler = poet_systick_handler},    [16u + POET_UART_IRQ] = {.handler = poet_uart_handler},
};

void poet_reset_handler(void)
{
#ifdef __ARM_FP
    /* First of all: the compiler may use FPU registers anywhere, block copies included. */
    SCB_CPACR |= SCB_CPACR_FPU;
#endif
#ifndef __ARM_ARCH_6M__
    /* A boot loader, or a part that boots from an alias of its flash, may have left another table there. */
    SCB_VTOR = (uint32_t)(uintptr_t)vectors;
#endif
    __asm volatile("dsb\n\tisb" ::: "memory");

    memcpy(_poet_data_begin, _poet_data_load, (uintptr_t)_poet_data_end - (uintptr_t)_poet_data_begin);
    memset(_poet_bss_begin, 0, (uintptr_t)_poet_bss_end - (uintptr_t)_poet_bss_begin);
    (void)main(0, (char **)0);
    poet_unexpected_handler();
}

void poet_unexpected_handler(void)
{
    SCB_AIRCR = SCB_AIRCR_RESET;
    for (;;) {
    }
}

/*
 * A semihosting call with no debugger to take it ends here: it returns -1, so that storage is missing instead
 * of the device dead. Any other fault resets. In assembly because after a stack overflow there is no stack to
 * run C on.
 */
__attribute__((naked)) void poet_fault_handler(void)
{
    __asm volatile(".syntax unified\n\t"
                   "mrs r0, msp\n\t"
                   "ldr r1, =_poet_stack_bottom\n\t"
                   "cmp r0, r1\n\t"
                   "blo 1f\n\t"
                   "ldr r1, [r0, #24]\n\t" /* the faulting instruction, */
                   "ldr r2, =_poet_text_begin\n\t" /* if it is code of ours: */
                   "cmp r1, r2\n\t"
                   "blo 1f\n\t"
                   "ldr r2, =_poet_text_end\n\t"
                   "cmp r1, r2\n\t"
                   "bhs 1f\n\t"
                   "ldrh r2, [r1]\n\t"
                   "ldr r3, =0xBEAB\n\t" /* BKPT 0xAB? */
                   "cmp r2, r3\n\t"
                   "bne 1f\n\t"
                   "adds r1, #2\n\t"
                   "str r1, [r0, #24]\n\t"
                   "movs r2, #0\n\t"
                   "mvns r2, r2\n\t"
                   "str r2, [r0, #0]\n\t"
                   "bx lr\n"
                   "1:\n\t"
                   "ldr r0, =poet_unexpected_handler\n\t"
                   "bx r0\n\t"
                   ".ltorg");
}
