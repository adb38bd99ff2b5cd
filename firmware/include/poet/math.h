#ifndef POET_MATH_H
#define POET_MATH_H

/*
 * Elementary functions in float32 with the same bits on every host and target: libm's differ between newlib
 * and glibc. Compiled with -ffp-contract=off, like all arithmetic here. The error bounds of exp and log hold
 * for every float32 (all of them were tried against float64), those of tanh and erf for every fifth one;
 * tests/firmware/test_math.py and tests/codegen/test_ops_math.py check dense samples. What is inline here has no
 * branches, so that kernels compute several elements side by side.
 */
#include <stdint.h>
#include <string.h>

/*
 * sum + a b, the step of every sum of products: with `separate` numerics rounded after the product and after the sum,
 * with `fused` (POET_FUSED, of kernels alone) once. The compiler takes the core's instruction where it may.
 */
static inline float poet_mac(float a, float b, float sum)
{
#ifdef POET_FUSED
    return __builtin_fmaf(a, b, sum);
#else
    return sum + a * b;
#endif
}

/* A core that has the square root and conditional moves in registers of its own: Cortex-M4F, M7. */
#if defined(__ARM_ARCH_7EM__) && defined(__ARM_FP)
#define POET_HAS_VFP
#endif

static inline uint32_t poet_bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float poet_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/*
 * `then` where x <= limit, else `otherwise`, without a branch where the core can: what is computed side by side then stays
 * so. A NaN is not at most anything.
 */
static inline float poet_at_most(float x, float limit, float then, float otherwise)
{
#ifdef POET_HAS_VFP
    __asm__("vcmp.f32 %[x], %[limit]\n\tvmrs APSR_nzcv, FPSCR\n\tit ls\n\tvmovls.f32 %[y], %[then]"
            : [y] "+t"(otherwise)
            : [x] "t"(x), [limit] "t"(limit), [then] "t"(then)
            : "cc", "vfpcc");
    return otherwise;
#else
    return x <= limit ? then : otherwise;
#endif
}

/* `then` where x < limit, else `otherwise`. A NaN is below nothing. */
static inline float poet_below(float x, float limit, float then, float otherwise)
{
#ifdef POET_HAS_VFP
    __asm__("vcmp.f32 %[x], %[limit]\n\tvmrs APSR_nzcv, FPSCR\n\tit mi\n\tvmovmi.f32 %[y], %[then]"
            : [y] "+t"(otherwise)
            : [x] "t"(x), [limit] "t"(limit), [then] "t"(then)
            : "cc", "vfpcc");
    return otherwise;
#else
    return x < limit ? then : otherwise;
#endif
}

#define POET_LN2_HIGH 0x1.63p-1f /* so few bits that its product with any exponent is exact */
#define POET_LN2_LOW -0x1.bd0106p-13f
#define POET_EXP_OVERFLOW 0x1.62e430p+6f   /* the largest x with a finite e^x is just below */
#define POET_EXP_UNDERFLOW -0x1.5d58a0p+6f /* the smallest x with a normal e^x is just above */
#define POET_TO_WHOLE 0x1.8p23f            /* added to a float below 2^22 it leaves no bits behind the point */

/* e^r 2^n = e^x with |r| <= ln 2 / 2: gives e^r, and 2^23 + 2^22 + n, whose low bits are n. */
static inline float poet_exp_split(float x, float *whole)
{
    *whole = x * 0x1.715476p+0f + POET_TO_WHOLE;
    const float n = *whole - POET_TO_WHOLE;
    const float r = (x - n * POET_LN2_HIGH) - n * POET_LN2_LOW;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r + 1.0f;
}

/*
 * e^x. At most 1 ulp. 0 where e^x is less than the smallest normal number (x <= -87.33655), infinity where it
 * is more than the largest (x >= 88.72284). A NaN stays a NaN.
 */
static inline float poet_expf(float x)
{
    float whole;
    const float e = poet_exp_split(x, &whole);
    /* Into the exponent: 2^128 is no float. */
    const float y = poet_from_bits(poet_bits_of(e) + (poet_bits_of(whole) << 23));
    const float small = poet_at_most(x, POET_EXP_UNDERFLOW, 0.0f, y);
    return poet_below(x, POET_EXP_OVERFLOW, small, x + poet_from_bits(0x7F800000u));
}

/* The same bits for x <= 0 in fewer instructions. A NaN stays a NaN. */
static inline float poet_exp_of_negative(float x)
{
    float whole;
    const float e = poet_exp_split(x, &whole);
    const float y = e * poet_from_bits((poet_bits_of(whole) << 23) + 0x3F800000u);
    return poet_at_most(x, POET_EXP_UNDERFLOW, 0.0f, y);
}

/*
 * Natural logarithm. At most 1 ulp, for subnormal x too. -infinity at 0, NaN below, infinity at infinity. A
 * NaN stays a NaN.
 */
float poet_logf(float x);

/* The square root by whole numbers: what poet_sqrtf() is where the core has no instruction for it. */
float poet_sqrt_by_bits(float x);

/* Square root, rounded correctly. NaN below 0; -0 stays -0. */
static inline float poet_sqrtf(float x)
{
#if defined(POET_HAS_VFP)
    float y;
    __asm__("vsqrt.f32 %0, %1" : "=t"(y) : "t"(x));
    return y;
#else
    return poet_sqrt_by_bits(x);
#endif
}

#define POET_CDF_STEPS 4 /* polynomials a unit of x */
#define POET_CDF_LAST 24 /* of those on one side of 0; beyond, the function is 0 or 1 */
#define POET_CDF_POLYNOMIALS (2 * POET_CDF_LAST + 1)
#define POET_CDF_TERMS 5
extern const float poet_cdf_terms[POET_CDF_POLYNOMIALS][POET_CDF_TERMS];

/* The normal distribution's cumulative function (1 + erf(x / sqrt 2)) / 2. Absolute error at most 7e-8; 0 for x <= -6 and a
 * NaN, 1 from 6 on. */
static inline float poet_normal_cdff(float x)
{
    const float last = (float)POET_CDF_LAST;
    const float steps = x * (float)POET_CDF_STEPS;
    const float raised = poet_below(-last, steps, steps, -last);
    const float place = poet_below(raised, last, raised, last);
    const float whole = place + POET_TO_WHOLE;
    const float d = place - (whole - POET_TO_WHOLE);
    const float *c = poet_cdf_terms[poet_bits_of(whole) - (poet_bits_of(POET_TO_WHOLE) - POET_CDF_LAST)];
    return (((c[4] * d + c[3]) * d + c[2]) * d + c[1]) * d + c[0];
}

/* Hyperbolic tangent. At most 1.5 ulp; odd, never beyond 1. A NaN stays a NaN. */
float poet_tanhf(float x);

/* Error function. At most 1.5 ulp; odd, never beyond 1. A NaN stays a NaN. */
float poet_erff(float x);

/*
 * x^y. At most 3 + 2 |y ln x| ulp, for a whole y up to 64 (multiplied out) 3 + |y| ulp, where the result is normal;
 * a subnormal one may be 0. Negative x where y is whole, with another y NaN. x^0 is 1, for a NaN too.
 */
float poet_powf(float x, float y);

/*
 * 1 - (1 - gain)^count: the weight that an exponential average which takes `gain` of each value, and began at 0, has
 * given to `count` values; `gain` from 0 to 1. Relative error at most 1e-6.
 */
float poet_average_weight(float gain, uint32_t count);

#endif
