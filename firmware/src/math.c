#include "poet/math.h"

float poet_logf(float x)
{
    uint32_t bits = poet_bits_of(x);
    int32_t exponent = 0;
    if (x != x || bits == 0x7F800000u) {
        return x;
    }
    if ((bits << 1) == 0) {
        return poet_from_bits(0xFF800000u);
    }
    if (bits >> 31) {
        return poet_from_bits(0x7FC00000u);
    }
    if (bits < 0x00800000u) {
        bits = poet_bits_of(x * 0x1p23f);
        exponent = -23;
    }
    /* x = 2^exponent m with m in [sqrt 1/2, sqrt 2): around 1 nothing is subtracted that could cancel. */
    const uint32_t shifted = bits - 0x3F3504F3u;
    exponent += (int32_t)shifted >> 23;
    const float m = poet_from_bits((shifted & 0x007FFFFFu) + 0x3F3504F3u);
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
    y += e * POET_LN2_LOW;
    y -= 0.5f * z;
    return (f + y) + e * POET_LN2_HIGH;
}

float poet_sqrt_by_bits(float x)
{
    uint32_t bits = poet_bits_of(x);
    int32_t exponent = 0;
    if ((bits << 1) == 0 || x != x || bits == 0x7F800000u) {
        return x;
    }
    if (bits >> 31) {
        return poet_from_bits(0x7FC00000u);
    }
    if (bits < 0x00800000u) {
        bits = poet_bits_of(x * 0x1p24f);
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
    return poet_from_bits((uint32_t)((int32_t)(root >> 1) + 0x3F000000 + exponent / 2 * 0x00800000));
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
    return poet_from_bits(0x7FC00000u);
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

/* Around each quarter from -6 to 6, by the distance in quarters: polynomials through the function's values at Chebyshev's
 * nodes. */
const float poet_cdf_terms[POET_CDF_POLYNOMIALS][POET_CDF_TERMS] = {
    {0.0f, 0.0f, 0.0f, 0.0f, 0.0f},
    {4.4621724e-9f, 6.5943e-9f, 4.7416027e-9f, 2.2644535e-9f, 7.5511947e-10f},
    {1.8989562e-8f, 2.691167e-8f, 1.8508047e-8f, 8.406829e-9f, 2.666737e-9f},
    {7.60496e-8f, 1.0317225e-7f, 6.772552e-8f, 2.91893e-8f, 8.780146e-9f},
    {2.8665158e-7f, 3.715661e-7f, 2.3228064e-7f, 9.473762e-8f, 2.6926005e-8f},
    {1.0170833e-6f, 1.2570739e-6f, 7.465201e-7f, 2.872599e-7f, 7.682395e-8f},
    {3.397673e-6f, 3.995191e-6f, 2.2476072e-6f, 8.131661e-7f, 2.0364295e-7f},
    {1.0688525e-5f, 1.19279775e-5f, 6.3374155e-6f, 2.1471963e-6f, 5.006474e-7f},
    {3.1671243e-5f, 3.345408e-5f, 1.6728385e-5f, 5.2833416e-6f, 1.1389787e-6f},
    {8.8417284e-5f, 8.8142384e-5f, 4.1319174e-5f, 1.2098722e-5f, 2.390837e-6f},
    {0.00023262909f, 0.00021815964f, 9.544881e-5f, 2.5743555e-5f, 4.6122505e-6f},
    {0.00057702506f, 0.00050724554f, 0.00020607428f, 5.079214e-5f, 8.131496e-6f},
    {0.001349898f, 0.001107941f, 0.00041548526f, 9.26679e-5f, 1.2992332e-5f},
    {0.0029797633f, 0.0022733693f, 0.0007814786f, 0.00015574935f, 1.856112e-5f},
    {0.0062096654f, 0.0043820627f, 0.0013694009f, 0.00023984686f, 2.314071e-5f},
    {0.012224473f, 0.007934921f, 0.002231699f, 0.00033564513f, 2.3897674e-5f},
    {0.022750132f, 0.013497785f, 0.0033744418f, 0.00042111732f, 1.7472343e-5f},
    {0.040059157f, 0.021569412f, 0.004718297f, 0.00046208882f, 1.4361864e-6f},
    {0.0668072f, 0.03237951f, 0.0060711405f, 0.00041981842f, -2.3765351e-5f},
    {0.10564978f, 0.045662384f, 0.007134727f, 0.0002657291f, -5.337355e-5f},
    {0.15865526f, 0.060492758f, 0.0075615756f, -1.22707e-6f, -7.8612815e-5f},
    {0.22662735f, 0.07528436f, 0.007057894f, -0.00034313602f, -8.937077e-5f},
    {0.30853754f, 0.08801624f, 0.0055010063f, -0.00068623014f, -7.8556746e-5f},
    {0.40129367f, 0.096666865f, 0.0030208356f, -0.0009414333f, -4.6070345e-5f},
    {0.5f, 0.09973538f, 3.016e-42f, -0.0010358741f, 4.2982e-41f},
    {0.5987063f, 0.096666865f, -0.0030208356f, -0.0009414333f, 4.6070345e-5f},
    {0.69146246f, 0.08801624f, -0.0055010063f, -0.00068623014f, 7.8556746e-5f},
    {0.77337265f, 0.07528436f, -0.007057894f, -0.00034313602f, 8.937077e-5f},
    {0.8413448f, 0.060492758f, -0.0075615756f, -1.22707e-6f, 7.8612815e-5f},
    {0.89435023f, 0.045662384f, -0.007134727f, 0.0002657291f, 5.337355e-5f},
    {0.9331928f, 0.03237951f, -0.0060711405f, 0.00041981842f, 2.3765351e-5f},
    {0.95994085f, 0.021569412f, -0.004718297f, 0.00046208882f, -1.4361864e-6f},
    {0.97724986f, 0.013497785f, -0.0033744418f, 0.00042111732f, -1.7472343e-5f},
    {0.9877755f, 0.007934921f, -0.002231699f, 0.00033564513f, -2.3897674e-5f},
    {0.9937903f, 0.0043820627f, -0.0013694009f, 0.00023984686f, -2.314071e-5f},
    {0.99702024f, 0.0022733693f, -0.0007814786f, 0.00015574935f, -1.856112e-5f},
    {0.9986501f, 0.001107941f, -0.00041548526f, 9.26679e-5f, -1.2992332e-5f},
    {0.99942297f, 0.00050724554f, -0.00020607428f, 5.079214e-5f, -8.131496e-6f},
    {0.99976736f, 0.00021815964f, -9.544881e-5f, 2.5743555e-5f, -4.6122505e-6f},
    {0.9999116f, 8.8142384e-5f, -4.1319174e-5f, 1.2098722e-5f, -2.390837e-6f},
    {0.99996835f, 3.345408e-5f, -1.6728385e-5f, 5.2833416e-6f, -1.1389787e-6f},
    {0.99998933f, 1.19279775e-5f, -6.3374155e-6f, 2.1471963e-6f, -5.006474e-7f},
    {0.9999966f, 3.995191e-6f, -2.2476072e-6f, 8.131661e-7f, -2.0364295e-7f},
    {0.999999f, 1.2570739e-6f, -7.465201e-7f, 2.872599e-7f, -7.682395e-8f},
    {0.9999997f, 3.715661e-7f, -2.3228064e-7f, 9.473762e-8f, -2.6926005e-8f},
    {0.99999994f, 1.0317225e-7f, -6.772552e-8f, 2.91893e-8f, -8.780146e-9f},
    {1.0f, 2.691167e-8f, -1.8508047e-8f, 8.406829e-9f, -2.666737e-9f},
    {1.0f, 6.5943e-9f, -4.7416027e-9f, 2.2644535e-9f, -7.5511947e-10f},
    {1.0f, 0.0f, 0.0f, 0.0f, 0.0f},
};
