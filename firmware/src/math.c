#include "poet/math.h"

#include <stdint.h>
#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^n for a normal result. */
static float power_of_two(int32_t n)
{
    return from_bits((uint32_t)(n + 127) << 23);
}

/* ln 2 in two parts: the first has so few bits that its product with any exponent is exact. */
#define LN2_HIGH 0x1.63p-1f
#define LN2_LOW -0x1.bd0106p-13f

#define EXP_OVERFLOW 0x1.62e430p+6f   /* the largest x with a finite e^x is just below */
#define EXP_UNDERFLOW -0x1.5d58a0p+6f /* the smallest x with a normal e^x is just above */

float poet_expf(float x)
{
    if (x != x) {
        return x;
    }
    if (x >= EXP_OVERFLOW) {
        return from_bits(0x7F800000u);
    }
    if (x <= EXP_UNDERFLOW) {
        return 0.0f;
    }
    /* e^x = 2^n e^r with |r| <= ln 2 / 2. */
    const float turns = x * 0x1.715476p+0f;
    const int32_t n = (int32_t)(turns + (turns < 0.0f ? -0.5f : 0.5f));
    const float n_float = (float)n;
    const float r = (x - n_float * LN2_HIGH) - n_float * LN2_LOW;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float e = p * (r * r) + r + 1.0f;
    /* In two factors: 2^128 is no float, and 2^-126 times e < 1 must round only once. */
    const int32_t half = n / 2;
    return e * power_of_two(half) * power_of_two(n - half);
}

float poet_logf(float x)
{
    uint32_t bits = bits_of(x);
    int32_t exponent = 0;
    if (x != x || bits == 0x7F800000u) {
        return x;
    }
    if ((bits << 1) == 0) {
        return from_bits(0xFF800000u);
    }
    if (bits >> 31) {
        return from_bits(0x7FC00000u);
    }
    if (bits < 0x00800000u) {
        bits = bits_of(x * 0x1p23f);
        exponent = -23;
    }
    /* x = 2^exponent m with m in [sqrt 1/2, sqrt 2): around 1 nothing is subtracted that could cancel. */
    const uint32_t shifted = bits - 0x3F3504F3u;
    exponent += (int32_t)shifted >> 23;
    const float m = from_bits((shifted & 0x007FFFFFu) + 0x3F3504F3u);
    const float f = m - 1.0f;
    const float z = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    const float e = (float)exponent;
    float y = p * f * z;
    y += e * LN2_LOW;
    y -= 0.5f * z;
    return (f + y) + e * LN2_HIGH;
}
