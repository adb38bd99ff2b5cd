#include "clock.h"

#include "hse.h"
#include "registers.h"

#if !POET_QEMU

#define HSI_HZ 16000000u
#define PLL_P 2u
#define PLL_Q 9u         /* USB and SDIO, which nobody uses, at no more than 48 MHz */
#define PLL_R (2u << 28) /* the reset value: 0 is not allowed where the field is there */

/* The core voltage of the highest clocks; while the PLL runs and before it is used. */
static void start_overdrive(void)
{
    PWR_CR |= PWR_CR_ODEN;
    while (!(PWR_CSR & PWR_CSR_ODRDY)) {
    }
    PWR_CR |= PWR_CR_ODSWEN;
    while (!(PWR_CSR & PWR_CSR_ODSWRDY)) {
    }
}

void poet_clock_init(void)
{
    RCC_APB1ENR |= RCC_APB1ENR_PWR;
    (void)RCC_APB1ENR;
    PWR_CR |= PWR_CR_VOS;

    const uint32_t multiply = POET_CPU_HZ / (PLL_INPUT_HZ / PLL_P);
    const uint32_t fixed = (multiply << 6) | ((PLL_P / 2u - 1u) << 16) | (PLL_Q << 24) | PLL_R;
    /* Where the outer clock does not start, the internal oscillator feeds the PLL instead. */
    if (poet_hse_start()) {
        RCC_PLLCFGR = fixed | RCC_PLLCFGR_HSE | (POET_HSE_HZ / PLL_INPUT_HZ);
    } else {
        RCC_PLLCFGR = fixed | (HSI_HZ / PLL_INPUT_HZ);
    }
    RCC_CR |= RCC_CR_PLLON;
    while (!(RCC_CR & RCC_CR_PLLRDY)) {
    }
    if (POET_CPU_HZ > OVERDRIVE_ABOVE_HZ) {
        start_overdrive();
    }

    /* The flash must be slow enough, and the buses divided, before the fast clock comes. */
    FLASH_ACR = FLASH_ACR_VALUE;
    RCC_CFGR = RCC_CFGR_APB1_BY_4 | RCC_CFGR_APB2_BY_2;
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    while ((RCC_CFGR & RCC_CFGR_SWS_MASK) != RCC_CFGR_SWS_PLL) {
    }
}

#else

void poet_clock_init(void)
{
}

#endif
