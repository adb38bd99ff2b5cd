#ifndef POET_CORTEXM_CORE_H
#define POET_CORTEXM_CORE_H

/*
 * The registers of Armv7-M and Armv6-M cores (DDI0403, DDI0419), and the masking of interrupts.
 *
 * What a port gives to the code of this folder: a header port.h with POET_PORT_NAME, POET_TICK_HZ (the rate of
 * poet_hal_ticks()), POET_UART_IRQ and POET_CACHES, and the functions poet_uart_handler(), poet_ticks_init() and
 * poet_hal_ticks(); the last two are those of port/systick, where the part has that timer.
 */
#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define SYST_CSR REGISTER(0xE000E010u)
#define SYST_CSR_ENABLE (1u << 0)
#define SYST_CSR_TICKINT (1u << 1)
#define SYST_CSR_CLKSOURCE (1u << 2)
#define SYST_RVR REGISTER(0xE000E014u)
#define SYST_CVR REGISTER(0xE000E018u)
#define NVIC_ISER(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_ICER(irq) REGISTER(0xE000E180u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))
#define SCB_ICSR REGISTER(0xE000ED04u)
#define SCB_ICSR_PENDSTSET (1u << 26)
#define SCB_VTOR REGISTER(0xE000ED08u)
#define SCB_AIRCR REGISTER(0xE000ED0Cu)
#define SCB_AIRCR_RESET 0x05FA0004u /* VECTKEY, SYSRESETREQ */
#define SCB_CPACR REGISTER(0xE000ED88u)
#define SCB_CPACR_FPU (0xFu << 20)

/* Interrupts off; returns what poet_core_unlock() wants. */
static inline uint32_t poet_core_lock(void)
{
    uint32_t primask;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(primask)::"memory");
    return primask;
}

static inline void poet_core_unlock(uint32_t primask)
{
    __asm volatile("msr primask, %0" ::"r"(primask) : "memory");
}

#endif
