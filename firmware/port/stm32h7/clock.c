#include "clock.h"

#include "hse.h"
#include "registers.h"

#define HSI_HZ 64000000u
#define PLL_INPUT_HZ 2000000u
#define PLL_P 2u

void poet_clock_init(void)
{
    /* The supply is the LDO, as from reset; written once, the voltage scale may be chosen. */
    PWR_CR3 &= ~PWR_CR3_SCUEN;
    while (!(PWR_CSR1 & PWR_CSR1_ACTVOSRDY)) {
    }
    PWR_D3CR |= PWR_D3CR_VOS1;
    while (!(PWR_D3CR & PWR_D3CR_VOSRDY)) {
    }

    /* Where the outer clock does not start, the internal oscillator feeds the PLL instead. */
    if (poet_hse_start()) {
        RCC_PLLCKSELR = RCC_PLLCKSELR_HSE | ((POET_HSE_HZ / PLL_INPUT_HZ) << RCC_PLLCKSELR_M1_SHIFT);
    } else {
        RCC_PLLCKSELR = RCC_PLLCKSELR_HSI | ((HSI_HZ / PLL_INPUT_HZ) << RCC_PLLCKSELR_M1_SHIFT);
    }
    const uint32_t multiply = POET_CPU_HZ / (PLL_INPUT_HZ / PLL_P);
    RCC_PLLCFGR = RCC_PLLCFGR_PLL1_2_TO_4_MHZ | RCC_PLLCFGR_DIVP1EN;
    RCC_PLL1DIVR = (multiply - 1u) | ((PLL_P - 1u) << RCC_PLL1DIVR_P_SHIFT) | (1u << RCC_PLL1DIVR_Q_SHIFT) |
                   (1u << RCC_PLL1DIVR_R_SHIFT);
    RCC_CR |= RCC_CR_PLL1ON;
    while (!(RCC_CR & RCC_CR_PLL1RDY)) {
    }

    /* The flash must be slow enough, and the buses divided, before the fast clock comes. */
    FLASH_ACR = FLASH_ACR_2_WAIT_STATES | FLASH_ACR_WRHIGHFREQ;
    RCC_D1CFGR = RCC_D1CFGR_HPRE_BY_2 | RCC_D1CFGR_PPRE_BY_2;
    RCC_D2CFGR = RCC_D2CFGR_PPRE1_BY_2 | RCC_D2CFGR_PPRE2_BY_2;
    RCC_D3CFGR = RCC_D3CFGR_PPRE_BY_2;
    RCC_CFGR |= RCC_CFGR_SW_PLL1;
    while ((RCC_CFGR & RCC_CFGR_SWS_MASK) != RCC_CFGR_SWS_PLL1) {
    }
}
