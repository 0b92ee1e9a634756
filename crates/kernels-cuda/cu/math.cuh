// Functions of one float, within some units in the last place and with the same bits wherever they are compiled: of
// multiply-adds alone, no unit for transcendentals, no library. Scalar twin: src/twin/math.rs.
#pragma once
#include "primitives.cuh"

// min and max as `a < b ? a : b`: of a NaN and b they give b, so arguments stand in the order that keeps a NaN.
INLINE float clamp_keeping_nan(float x, float least, float most) {
    const float raised = least > x ? least : x;
    return most < raised ? most : raised;
}

// 2^n for -127 < n < 128.
INLINE float power_of_two(i32 n) { return float_of(u32(n + 127) << 23); }

// 2^n (1 + m) = e^x, n an integer, |m| < 0.42.
struct Exponential {
    i32 n;
    float m;
};

// For -104 <= x <= 89, or NaN. ln(2) is in two parts, the first of 15 bits; adding 1.5 * 2^23 rounds to an integer.
// (e^r - 1 - r) / r^2 is a polynomial, to 3e-9 of e^r for |r| <= ln(2) / 2.
INLINE Exponential exponential(float x) {
    const float rounder = 12582912.0f;
    const float shifted = fma(x, 1.44269504f, rounder);
    const float n = shifted - rounder;
    float r = fma(n, -0.69314575f, x);
    r = fma(n, -1.4286068e-6f, r);
    float q = 0.0013814582f;
    q = fma(q, r, 0.008368718f);
    q = fma(q, r, 0.04166839f);
    q = fma(q, r, 0.16666521f);
    q = fma(q, r, 0.49999994f);
    return {i32(bits_of(shifted) - bits_of(rounder)), fma(r * r, q, r)};
}

// e^x for every x. In two steps, because 2^n itself may be out of range; only the second can round.
INLINE float exp_of(float x) {
    const Exponential e = exponential(clamp_keeping_nan(x, -104.0f, 89.0f));
    const i32 half = e.n >> 1;
    return (e.m + 1.0f) * power_of_two(half) * power_of_two(e.n - half);
}

// e^x of x <= 0, 0 for x < -87, where it is about to become subnormal.
INLINE float softmax_exp(float x) {
    const Exponential e = exponential(-87.0f > x ? -87.0f : x);
    return x < -87.0f ? 0.0f : (e.m + 1.0f) * power_of_two(e.n);
}

// (e^2x - 1) / (e^2x + 1), with e^2x - 1 computed without cancellation.
INLINE float tanh_of(float x) {
    x = clamp_keeping_nan(x, -10.0f, 10.0f);
    const Exponential e = exponential(x + x);
    const float power = power_of_two(e.n);
    const float less_one = fma(power, e.m, power - 1.0f);
    return less_one / (less_one + 2.0f);
}

INLINE float silu(float x) { return x / (1.0f + exp_of(0.0f - x)); }

// x / 2 (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), written x / (1 + e^-2u), in which nothing cancels.
INLINE float gelu_tanh(float x) {
    const float root = 1.12837917f * 0.707106781f;
    const float factor = fma(x * x, -2.0f * root * 0.044715f, -2.0f * root);
    return x / (1.0f + exp_of(x * factor));
}

// x / 2 (1 + erf(x / sqrt 2)), written max(x, 0) - |x| / 2 erfc(|x| / sqrt 2); (ln(erfc(t)) + t^2) / t is a polynomial
// for 0 <= t <= 9, to 1.2e-8 of 1 + erf.
INLINE float gelu_erf(float x) {
    const float of_erfc[13] = {-1.1283809f,    0.36340275f,     -0.10286789f,    0.019312121f,  4.879045e-5f,
                               -0.0016935867f, 0.0007308354f,   -0.00018596863f, 3.1882133e-5f, -3.714573e-6f,
                               2.821013e-7f,   -1.2584464e-8f,  2.497723e-10f};
    const float negated = 0.0f - x, most = 9.0f * 1.41421356f;
    float magnitude = negated > x ? negated : x;
    magnitude = most < magnitude ? most : magnitude;
    const float t = magnitude * 0.707106781f;
    float q = of_erfc[12];
#pragma unroll
    for (i32 i = 11; i >= 0; i--) q = fma(q, t, of_erfc[i]);
    const float positive = 0.0f > x ? 0.0f : x;
    return positive - 0.5f * magnitude * exp_of(t * (q - t));
}
