// What measurements need: random weights, and memory that is read or copied and nothing else. Scalar twin:
// src/twin/random.rs.
#include "primitives.cuh"

struct RandomArgs {
    u16 *out;         // (len) of bf16
    u64 first, len;   // which values of the sequence
    u64 seed;
    float scale;      // half of it for each step of the sum below
    u32 padding;
};

// The finalizer of SplitMix64.
INLINE u64 mix_bits(u64 bits) {
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebull;
    return bits ^ bits >> 31;
}

INLINE i32 sum_of_parts(u64 bits) {
    return i32(bits & 0xffff) + i32(bits >> 16 & 0xffff) + i32(bits >> 32 & 0xffff) + i32(bits >> 48);
}

// Eight uniform values of 16 bits, summed: all but normal, symmetric, never zero.
KERNEL(random_halves, 256, RandomArgs) {
    for (u32 i = 0; i < 8; i++) {
        const u64 at = u64(block_x()) * 2048 + i * 256 + thread_idx();
        if (at >= args.len) return;
        const u64 state = args.seed + 2 * (args.first + at) * 0x9e3779b97f4a7c15ull;
        const i32 sum = sum_of_parts(mix_bits(state)) + sum_of_parts(mix_bits(state + 0x9e3779b97f4a7c15ull));
        args.out[at] = bf16_of(float(2 * sum + 1 - 8 * 65536) * args.scale);
    }
}

struct StreamArgs {
    const U32x4 *from;  // (n_units)
    U32x4 *to;          // (n_units), of copies
    u32 *sums;          // (n_blocks), of reads: the sum of what each block read is added
    u64 n_units;
};

// How memory is gone through: neighbouring threads take neighbouring units, with four loads under way each.
constexpr u32 STREAM_LOADS = 4;

KERNEL(read_memory, 256, StreamArgs) {
    const u64 n_all = u64(grid_x()) * n_threads();
    u32 sum = 0;
    for (u64 at = u64(block_x()) * n_threads() + thread_idx(); at < args.n_units; at += n_all * STREAM_LOADS) {
        U32x4 units[STREAM_LOADS] = {};
        UNROLL for (u32 i = 0; i < STREAM_LOADS; i++)
            if (at + i * n_all < args.n_units) units[i] = load_once(args.from + at + i * n_all);
        UNROLL for (u32 i = 0; i < STREAM_LOADS; i++) sum += units[i].x + units[i].y + units[i].z + units[i].w;
    }
    atomic_add(&args.sums[block_x()], sum);
}

KERNEL(copy_memory, 256, StreamArgs) {
    const u64 n_all = u64(grid_x()) * n_threads();
    for (u64 at = u64(block_x()) * n_threads() + thread_idx(); at < args.n_units; at += n_all * STREAM_LOADS) {
        U32x4 units[STREAM_LOADS] = {};
        UNROLL for (u32 i = 0; i < STREAM_LOADS; i++)
            if (at + i * n_all < args.n_units) units[i] = load_once(args.from + at + i * n_all);
        UNROLL for (u32 i = 0; i < STREAM_LOADS; i++)
            if (at + i * n_all < args.n_units) args.to[at + i * n_all] = units[i];
    }
}
