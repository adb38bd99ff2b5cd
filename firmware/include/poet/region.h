#ifndef POET_REGION_H
#define POET_REGION_H

/*
 * Markers that QEMU's profiler plugin counts between. They are reserved hint instructions, which do nothing on
 * silicon: of 32 bits, and of 16 on ARMv6-M, which has no others. Elsewhere they are no code at all. They are aligned:
 * of an instruction that lies across two pages QEMU shows plugins only the first half.
 */
#if defined(__ARM_ARCH_7M__) || defined(__ARM_ARCH_7EM__)
#define POET_REGION_HINT(wide, narrow) __asm volatile(".balign 4\n\t.inst.w " wide ::: "memory")
#elif defined(__ARM_ARCH_6M__)
#define POET_REGION_HINT(wide, narrow) __asm volatile(".inst.n " narrow ::: "memory")
#else
#define POET_REGION_HINT(wide, narrow) ((void)0)
#endif

static inline void poet_region_begin(void)
{
    POET_REGION_HINT("0xf3af80a0", "0xbfa0");
}

static inline void poet_region_end(void)
{
    POET_REGION_HINT("0xf3af80a1", "0xbfb0");
}

#endif
