#include "cache.h"

#include "core.h"
#include "poet/hal.h"
#include "port.h"

#if POET_CACHES

/* Registers: DDI0403, the Armv7-M architecture. */
#define SCB_CCR REGISTER(0xE000ED14u)
#define SCB_CCR_DC (1u << 16)
#define SCB_CCR_IC (1u << 17)
#define SCB_CCSIDR REGISTER(0xE000ED80u)
#define SCB_CSSELR REGISTER(0xE000ED84u)
#define SCB_ICIALLU REGISTER(0xE000EF50u)
#define SCB_DCISW_ADDRESS 0xE000EF60u  /* invalidate */
#define SCB_DCCISW_ADDRESS 0xE000EF74u /* write back and invalidate */

static void wait_for_memory(void)
{
    __asm volatile("dsb\n\tisb" ::: "memory");
}

/* Write each line's set and way to a maintenance register; lines have 32 bytes and caches 4 ways (DDI0489). */
static void for_each_line(uint32_t operation_address)
{
    SCB_CSSELR = 0; /* the data cache of level 1 */
    wait_for_memory();
    const uint32_t last_set = (SCB_CCSIDR >> 13) & 0x7FFFu;
    for (uint32_t way = 0; way < 4u; way++) {
        for (uint32_t set = 0; set <= last_set; set++) {
            REGISTER(operation_address) = (way << 30) | (set << 5);
        }
    }
    wait_for_memory();
}

void poet_cache_enable(void)
{
    wait_for_memory();
    SCB_ICIALLU = 0;
    wait_for_memory();
    SCB_CCR |= SCB_CCR_IC;
    for_each_line(SCB_DCISW_ADDRESS);
    SCB_CCR |= SCB_CCR_DC;
    wait_for_memory();
}

void poet_hal_sync_memory(void)
{
    for_each_line(SCB_DCCISW_ADDRESS);
}

#else

void poet_cache_enable(void)
{
}

void poet_hal_sync_memory(void)
{
}

#endif
