#ifndef POET_REGION_H
#define POET_REGION_H

/*
 * Markers that QEMU's profiler plugin counts between. They are reserved hint instructions, which do nothing on
 * silicon; ARMv6-M and other machines have no such hints, and there they are no code at all. They are aligned: of an
 * instruction that lies across two pages QEMU shows plugins only the first half.
 */
#if defined(__ARM_ARCH_7M__) || defined(__ARM_ARCH_7EM__)
#define POET_REGION_HINT(code) __asm volatile(".balign 4\n\t.inst.w 0xf3af80" code ::: "memory")
#else
#define POET_REGION_HINT(code) ((void)0)
#endif

static inline void poet_region_begin(void)
{
    POET_REGION_HINT("a0");
}

static inline void poet_region_end(void)
{
    POET_REGION_HINT("a1");
}

#endif
