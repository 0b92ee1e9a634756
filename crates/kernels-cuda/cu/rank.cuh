// A value and its index as one number: greater for greater values, then for lower indices; least for NaN; never 0.
#pragma once
#include "primitives.cuh"

// Adding 0 makes -0 the same as 0.
INLINE u64 rank_of(float value, u32 idx) {
    const u32 bits = bits_of(value + 0.0f);
    const u32 order = value != value ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return u64(order) << 32 | u32(~idx);
}
INLINE u64 warp_greatest(u64 rank) {
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        const u64 other = u64(shuffle_xor(u32(rank >> 32), mask)) << 32 | shuffle_xor(u32(rank), mask);
        rank = other > rank ? other : rank;
    }
    return rank;
}
