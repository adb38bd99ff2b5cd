#ifndef POET_MATH_H
#define POET_MATH_H

/*
 * Elementary functions in float32 with the same bits on every host and target: libm's differ between newlib
 * and glibc. Compiled with -ffp-contract=off, like all arithmetic here. Error bounds are checked by
 * tests/test_math.py.
 */

/* e^x. At most 2 ulp for results in the normal range; 0 below -87.34, infinity above 88.72, NaN stays NaN. */
float poet_expf(float x);

/* Natural logarithm of x > 0. At most 2 ulp; -infinity at 0, NaN below. Subnormal arguments are scaled first.
 */
float poet_logf(float x);

#endif
