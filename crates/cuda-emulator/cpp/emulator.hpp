// The emulator's spelling of primitives.cuh: each thread of a block is a fiber, and blocks run one after the other.
// A fiber runs until it meets a barrier or a warp's exchange; the order in which fibers get their turn is the
// caller's, so that a result that depends on it (a race) shows. Next in the flow: emulator.cpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

// What a lane gives to the other lanes of its warp.
struct Posted { u32 words[8]; };

extern thread_local u32 current_thread, current_threads, current_block[3], current_grid[3];
extern thread_local void *dynamic_shared;

void sync_threads();
// Gives `posted` to the warp, waits for all 32 lanes, and returns what they gave; it stays until the next exchange.
const Posted *exchange(const Posted &posted);

struct Registration {
    Registration(const char *name, u32 threads, size_t args_bytes, void (*run)(const void *));
};

float f32_of_f16(u16 value);
u16 f16_of_f32(float value);

}  // namespace emulator

#define KERNEL(NAME, THREADS, ARGS) \
    static void NAME##_thread(const ARGS &args); \
    static const emulator::Registration NAME##_registration( \
        #NAME, THREADS, sizeof(ARGS), [](const void *args) { NAME##_thread(*static_cast<const ARGS *>(args)); }); \
    static void NAME##_thread(const ARGS &args)
#define KERNEL_RESIDENT(NAME, THREADS, BLOCKS, ARGS) KERNEL(NAME, THREADS, ARGS)
#define INLINE static inline
#define INLINE_MEMBER inline
#define UNROLL
#define NO_UNROLL
#define __shared__ static thread_local
#define DYNAMIC_SHARED(TYPE, NAME) TYPE *NAME = static_cast<TYPE *>(emulator::dynamic_shared)

INLINE u32 thread_idx() { return emulator::current_thread; }
INLINE u32 n_threads() { return emulator::current_threads; }
INLINE u32 block_x() { return emulator::current_block[0]; }
INLINE u32 block_y() { return emulator::current_block[1]; }
INLINE u32 block_z() { return emulator::current_block[2]; }
INLINE u32 grid_x() { return emulator::current_grid[0]; }
INLINE void sync_threads() { emulator::sync_threads(); }
INLINE void sync_warp() { emulator::exchange(emulator::Posted{}); }

INLINE u32 shuffle(u32 value, u32 lane) { return emulator::exchange({{value}})[lane & 31].words[0]; }
INLINE u32 shuffle_xor(u32 value, u32 mask) {
    const u32 lane = thread_idx() & 31;
    return emulator::exchange({{value}})[lane ^ mask].words[0];
}
INLINE u32 shuffle_up(u32 value, u32 delta) {
    const u32 lane = thread_idx() & 31;
    const emulator::Posted *all = emulator::exchange({{value}});
    return all[lane < delta ? lane : lane - delta].words[0];
}
INLINE u32 add_from_below(u32 value, u32 delta) {
    const u32 lane = thread_idx() & 31;
    const emulator::Posted *all = emulator::exchange({{value}});
    return lane < delta ? value : value + all[lane - delta].words[0];
}
INLINE u32 ballot(bool value) {
    const emulator::Posted *all = emulator::exchange({{value}});
    u32 mask = 0;
    for (u32 lane = 0; lane < 32; lane++) mask |= all[lane].words[0] << lane;
    return mask;
}
INLINE u32 atomic_add(u32 *address, u32 value) { u32 old = *address; *address += value; return old; }

INLINE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    const u64 bytes = u64(b) << 32 | a;
    u32 out = 0;
    for (u32 i = 0; i < 4; i++) {
        const u32 nibble = selector >> (4 * i) & 15;
        u32 byte = u32(bytes >> (8 * (nibble & 7))) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}
INLINE u32 select_bits(u32 mask, u32 a, u32 b) { return (a & mask) | (b & ~mask); }
INLINE u32 shift_pair(u32 low, u32 high, u32 shift) { return u32((u64(high) << 32 | low) >> (shift & 31)); }
INLINE u32 rotate_right(u32 value) { return value >> 1 | value << 31; }
INLINE u32 count_ones(u32 value) { return u32(__builtin_popcount(value)); }
INLINE u64 multiply_high(u64 a, u64 b) { return u64(static_cast<unsigned __int128>(a) * b >> 64); }
INLINE u32 trailing_zeros(u32 value) { return value ? u32(__builtin_ctz(value)) : 32; }

INLINE float float_of(u32 bits) { float value; std::memcpy(&value, &bits, 4); return value; }
INLINE u32 bits_of(float value) { u32 bits; std::memcpy(&bits, &value, 4); return bits; }
INLINE float fma(float a, float b, float c) { return std::fma(a, b, c); }

INLINE u16 bf16_of(float value) {
    const u32 bits = bits_of(value);
    if (value != value) return 0x7fff;
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE u16 f16_of(float value) { return emulator::f16_of_f32(value); }
INLINE float of_f16(u16 value) { return emulator::f32_of_f16(value); }

INLINE U32x4 load_once(const U32x4 *from) { return *from; }
INLINE U32x4 load_cached(const U32x4 *from) { return *from; }
INLINE u32 load_once(const u32 *from) { return *from; }
INLINE U32x2 load_once(const U32x2 *from) { return *from; }
INLINE void prefetch(const void *) {}

// Products are exact in double, and so is nearly every sum of 16; one rounding to f32 at the end. GPUs align products
// to the largest and cut: they differ from this in the last bits, in a way that depends on the chip.
template <class Widen>
INLINE void mma(float d[4], const u32 a[4], u32 b0, u32 b1, Widen widen) {
    const u32 lane = thread_idx() & 31, g = lane / 4, t = lane % 4;
    const emulator::Posted *all = emulator::exchange({{a[0], a[1], a[2], a[3], b0, b1}});
    const auto half = [&](u32 pair, u32 odd) { return double(widen(u16(odd ? pair >> 16 : pair))); };
    double sums[4] = {d[0], d[1], d[2], d[3]};
    for (u32 k = 0; k < 16; k++) {
        const u32 owner = k % 8 / 2, upper = k / 8, odd = k % 2;
        const u32 *of_row = all[4 * g + owner].words;
        const double a0 = half(of_row[2 * upper], odd), a1 = half(of_row[2 * upper + 1], odd);
        const double x0 = half(all[4 * (2 * t) + owner].words[4 + upper], odd);
        const double x1 = half(all[4 * (2 * t + 1) + owner].words[4 + upper], odd);
        sums[0] += a0 * x0, sums[1] += a0 * x1, sums[2] += a1 * x0, sums[3] += a1 * x1;
    }
    for (u32 i = 0; i < 4; i++) d[i] = float(sums[i]);
}
INLINE void mma_bf16(float d[4], const u32 a[4], u32 b0, u32 b1) {
    mma(d, a, b0, b1, [](u16 value) { return float_of(u32(value) << 16); });
}
INLINE void mma_f16(float d[4], const u32 a[4], u32 b0, u32 b1) { mma(d, a, b0, b1, of_f16); }
