// Values in the order of unsigned integers: greater for greater values.
#pragma once
#include "primitives.cuh"

// Least for NaN. Adding 0 makes -0 the same as 0.
INLINE u32 key_of(float value) {
    const u32 bits = bits_of(value + 0.0f);
    return value != value ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
INLINE float value_of(u32 key) { return float_of(key & 0x80000000u ? key ^ 0x80000000u : ~key); }

// A value and its index as one number: greater for greater values, then for lower indices; least for NaN; never 0.
INLINE u64 rank_of(float value, u32 idx) { return u64(key_of(value)) << 32 | u32(~idx); }
INLINE u64 shuffle_xor(u64 value, u32 mask) {
    return u64(shuffle_xor(u32(value >> 32), mask)) << 32 | shuffle_xor(u32(value), mask);
}
INLINE u64 warp_greatest(u64 rank) {
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        const u64 other = shuffle_xor(rank, mask);
        rank = other > rank ? other : rank;
    }
    return rank;
}
