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

float poet_sqrtf(float x)
{
    uint32_t bits = bits_of(x);
    int32_t exponent = 0;
    if ((bits << 1) == 0 || x != x || bits == 0x7F800000u) {
        return x;
    }
    if (bits >> 31) {
        return from_bits(0x7FC00000u);
    }
    if (bits < 0x00800000u) {
        bits = bits_of(x * 0x1p24f);
        exponent = -24;
    }
    /* x = 2^exponent m / 2^23 with an even exponent; the root of m comes bit by bit, one more than a float has. */
    exponent += (int32_t)(bits >> 23) - 127;
    uint32_t rest = (bits & 0x007FFFFFu) | 0x00800000u;
    if (exponent & 1) {
        rest += rest;
        exponent--;
    }
    rest += rest;
    uint32_t root = 0;
    uint32_t twice_root = 0;
    for (uint32_t bit = 0x01000000u; bit != 0; bit >>= 1) {
        const uint32_t trial = twice_root + bit;
        if (trial <= rest) {
            twice_root = trial + bit;
            rest -= trial;
            root += bit;
        }
        rest += rest;
    }
    /* No root lies half way between two floats, so the last bit alone decides. */
    root += root & 1u;
    return from_bits((uint32_t)((int32_t)(root >> 1) + 0x3F000000 + exponent / 2 * 0x00800000));
}

float poet_tanhf(float x)
{
    const float size = x < 0.0f ? -x : x;
    if (size < 0.625f) {
        const float z = x * x;
        float p = -5.70498872745e-3f;
        p = p * z + 2.06390887954e-2f;
        p = p * z - 5.37397155531e-2f;
        p = p * z + 1.33314422036e-1f;
        p = p * z - 3.33332819422e-1f;
        return p * z * x + x;
    }
    const float y = 1.0f - 2.0f / (poet_expf(size + size) + 1.0f);
    return x < 0.0f ? -y : y;
}

float poet_erff(float x)
{
    const float size = x < 0.0f ? -x : x;
    const float z = x * x;
    if (size <= 0.921875f) {
        float p = -5.96761703e-4f;
        p = p * z + 4.99119423e-3f;
        p = p * z - 2.67681349e-2f;
        p = p * z + 1.12819925e-1f;
        p = p * z - 3.76125336e-1f;
        p = p * z + 1.28379166e-1f;
        return p * x + x;
    }
    if (size > 4.0f) {
        return x < 0.0f ? -1.0f : 1.0f;
    }
    /* erf x = 1 - e^p(x) */
    const float high = -1.72853470e-5f * size + 3.83197126e-4f;
    float p = high * z + (-3.88396438e-3f * size + 2.42546219e-2f);
    p = p * size - 1.06777877e-1f;
    p = p * size - 6.34846687e-1f;
    p = p * size - 1.28717512e-1f;
    p = p * size - size;
    const float y = 1.0f - poet_expf(p);
    return x < 0.0f ? -y : y;
}

#define MOST_MULTIPLICATIONS 64.0f /* whole exponents up to here are multiplied out */
#define ALL_WHOLE 0x1p23f          /* from here on every float is a whole number, from twice it an even one */

float poet_powf(float x, float y)
{
    const float size = y < 0.0f ? -y : y;
    if (y == 0.0f || x == 1.0f) {
        return 1.0f;
    }
    if (x != x || y != y) {
        return x + y;
    }
    if (size <= MOST_MULTIPLICATIONS && size == (float)(int32_t)size) {
        float power = 1.0f;
        float factor = x;
        for (int32_t left = (int32_t)size; left != 0; left >>= 1) {
            power = left & 1 ? power * factor : power;
            factor *= factor;
        }
        return y < 0.0f ? 1.0f / power : power;
    }
    const float base = x < 0.0f ? -x : x;
    const float result = poet_expf(y * poet_logf(base));
    if (x >= 0.0f) {
        return result;
    }
    if (size >= ALL_WHOLE) {
        return size < 2.0f * ALL_WHOLE && (int32_t)size & 1 ? -result : result;
    }
    if (size == (float)(int32_t)size) {
        return (int32_t)size & 1 ? -result : result;
    }
    return from_bits(0x7FC00000u);
}

float poet_average_weight(float gain, uint32_t count)
{
    /* With p = 1 - (1 - gain)^n: p of n + m is p(n) + p(m) (1 - p(n)), so that nothing cancels for small gains. */
    float all = 0.0f;
    float part = gain;
    for (; count != 0; count >>= 1) {
        if (count & 1u) {
            all += part * (1.0f - all);
        }
        part *= 2.0f - part;
    }
    return all;
}
