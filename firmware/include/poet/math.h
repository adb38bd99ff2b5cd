#ifndef POET_MATH_H
#define POET_MATH_H

/*
 * Elementary functions in float32 with the same bits on every host and target: libm's differ between newlib
 * and glibc. Compiled with -ffp-contract=off, like all arithmetic here. The error bounds hold for every
 * float32 (all of them were tried against float64); tests/firmware/test_math.py checks a dense sample.
 */

/*
 * e^x. At most 1 ulp. 0 where e^x is less than the smallest normal number (x <= -87.33655), infinity where it
 * is more than the largest (x >= 88.72284). A NaN stays a NaN.
 */
float poet_expf(float x);

/*
 * Natural logarithm. At most 1 ulp, for subnormal x too. -infinity at 0, NaN below, infinity at infinity. A
 * NaN stays a NaN.
 */
float poet_logf(float x);

#endif
