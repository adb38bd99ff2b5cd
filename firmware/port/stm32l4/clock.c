#include "clock.h"

#include "registers.h"

#define HSI16_HZ 16000000u
#define PLL_R 4u

/* From the internal 16 MHz oscillator: boards of this family need have no crystal. Range 1 of the core voltage, which
 * 80 MHz needs, is there from reset. */
void poet_clock_init(void)
{
    RCC_CR |= RCC_CR_HSION;
    while (!(RCC_CR & RCC_CR_HSIRDY)) {
    }
    const uint32_t multiply = POET_CPU_HZ / (HSI16_HZ / PLL_R);
    RCC_PLLCFGR = RCC_PLLCFGR_HSI16 | (multiply << RCC_PLLCFGR_N_SHIFT) | RCC_PLLCFGR_R_BY_4 | RCC_PLLCFGR_REN;
    RCC_CR |= RCC_CR_PLLON;
    while (!(RCC_CR & RCC_CR_PLLRDY)) {
    }
    FLASH_ACR = FLASH_ACR_CACHES | FLASH_ACR_4_WAIT_STATES;
    RCC_CFGR |= RCC_CFGR_SW_PLL;
    while ((RCC_CFGR & RCC_CFGR_SWS_MASK) != RCC_CFGR_SWS_PLL) {
    }
}
