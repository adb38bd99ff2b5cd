#include "clock.h"

#include <stdbool.h>

#include "port.h"
#include "registers.h"

#if !POET_QEMU

#define HSI_HZ 16000000u
#define PLL_INPUT_HZ 2000000u /* the rate with the least jitter, RM0090 7.3.2 */
#define PLL_P 2u
#define PLL_Q 7u

/* About 100 ms on the 16 MHz that the core starts with; crystals need about 2 ms. */
#define HSE_TRIES 200000u

static bool start_crystal(void)
{
    RCC_CR |= RCC_CR_HSEON;
    for (uint32_t i = 0; i < HSE_TRIES; i++) {
        if (RCC_CR & RCC_CR_HSERDY) {
            return true;
        }
    }
    RCC_CR &= ~RCC_CR_HSEON;
    return false;
}

void poet_clock_init(void)
{
    RCC_APB1ENR |= RCC_APB1ENR_PWR;
    (void)RCC_APB1ENR;
    PWR_CR |= PWR_CR_VOS;

    const uint32_t multiply = POET_CPU_HZ / (PLL_INPUT_HZ / PLL_P);
    const uint32_t fixed = (multiply << 6) | ((PLL_P / 2u - 1u) << 16) | (PLL_Q << 24);
    if (start_crystal()) {
        RCC_PLLCFGR = fixed | RCC_PLLCFGR_HSE | (POET_HSE_HZ / PLL_INPUT_HZ);
    } else {
        RCC_PLLCFGR = fixed | (HSI_HZ / PLL_INPUT_HZ);
    }
    RCC_CR |= RCC_CR_PLLON;
    while (!(RCC_CR & RCC_CR_PLLRDY)) {
    }

    /* The flash must be slow enough, and the buses divided, before the fast clock comes. */
    FLASH_ACR = FLASH_ACR_CACHES | FLASH_ACR_5_WAIT_STATES;
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
