#ifndef POET_MATH_H
#define POET_MATH_H

/*
 * Elementary functions in float32 with the same bits on every host and target: libm's differ between newlib
 * and glibc. Compiled with -ffp-contract=off, like all arithmetic here. The error bounds of exp and log hold
 * for every float32 (all of them were tried against float64), those of tanh and erf for every fifth one;
 * tests/firmware/test_math.py and tests/codegen/test_ops_math.py check dense samples.
 */
#include <stdint.h>

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

/* Square root, rounded correctly. NaN below 0; -0 stays -0. */
float poet_sqrtf(float x);

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
