// Rows of bf16 to exact12, in two passes: count, then, when each slice knows where its escapes go, write. Scalar twin:
// src/layout/exact12.rs. It runs once for each matrix, when it is loaded.
#include "fragments.cuh"

struct EncodeArgs {
    const u16 *from;     // (n_rows, cols): whole tiles of the matrix, the last of which may be cut short
    U32x2 *palettes;     // (n_tiles)
    u32 *n_escapes;      // (n_tiles, N_SLICES)
    U32x4 *weights;      // as the layout has them; null where only escapes are counted
    u32 *escapes;        // of the matrix
    const u32 *escape_starts;  // (n_tiles, N_SLICES) into `escapes`
    u32 n_rows, cols;
};

// Bits 14..8 of a bf16: what a palette has eight of.
INLINE u32 upper_of(u16 weight) { return weight >> 8 & 127; }

// Block x: tile. The eight commonest, the lower first among equals.
KERNEL(choose_palettes, 256, EncodeArgs) {
    __shared__ u32 counts[128];
    __shared__ u32 chosen[8];
    if (thread_idx() < 128) counts[thread_idx()] = 0;
    sync_threads();
    const u32 first_row = block_x() * TILE_ROWS, end_row = min_of(first_row + TILE_ROWS, args.n_rows);
    for (u32 row = first_row; row < end_row; row++)
        for (u32 col = thread_idx(); col < args.cols; col += n_threads())
            atomic_add(&counts[upper_of(args.from[u64(row) * args.cols + col])], 1);
    sync_threads();
    if (thread_idx() < 128) {
        u32 rank = 0;
        for (u32 other = 0; other < 128; other++)
            rank += counts[other] > counts[thread_idx()] || (counts[other] == counts[thread_idx()] && other < thread_idx());
        if (rank < 8) chosen[rank] = thread_idx();
    }
    sync_threads();
    if (thread_idx() == 0)
        args.palettes[block_x()] = {chosen[0] | chosen[1] << 8 | chosen[2] << 16 | chosen[3] << 24,
                                    chosen[4] | chosen[5] << 8 | chosen[6] << 16 | chosen[7] << 24};
}

// A product's weights of one lane, as they stand in a step of exact12.
struct Encoded { u32 low_0, low_1, code, is_escape; u32 high[8]; };

INLINE Encoded encode_product(const EncodeArgs &args, U32x2 palette, u32 first_row, u32 col) {
    Encoded out = {0, 0, 0, 0, {}};
    UNROLL for (u32 i = 0; i < 8; i++) {
        const u32 row = first_row + i / 2 % 2 * 8, at = col + i / 4 * 2 + i % 2;
        const bool is_there = row < args.n_rows && at < args.cols;
        const u16 weight = is_there ? args.from[u64(row) * args.cols + at] : 0;
        u32 code = 8;
        UNROLL for (u32 entry = 0; entry < 8; entry++) {
            const u32 value = (entry < 4 ? palette.x : palette.y) >> (entry % 4 * 8) & 255;
            if (code == 8 && value == upper_of(weight)) code = entry;
        }
        out.is_escape |= u32(is_there && code == 8) << i;
        if (!is_there || code == 8) code = 0;
        out.high[i] = weight >> 8;
        (i < 4 ? out.low_0 : out.low_1) |= u32(weight & 255) << (i % 4 * 8);
        out.code |= code << (4 * i) | u32(weight >> 15) << (i < 4 ? 8 * i + 7 : 8 * (i - 4) + 3);
    }
    return out;
}

// Block x: tile; warp: slice.
template <bool WRITES>
INLINE void encode_exact12_slice(const EncodeArgs &args) {
    const u32 tile = block_x(), slice = warp_idx(), lane = lane_idx();
    const u32 n_steps = (args.cols + STEP_COLS - 1) / STEP_COLS;
    const u32 first_step = slice_start(n_steps, slice), end_step = slice_start(n_steps, slice + 1);
    const U32x2 palette = args.palettes[tile];
    u32 n_escapes = WRITES ? args.escape_starts[tile * N_SLICES + slice] : 0;
    for (u32 step = first_step; step < end_step; step++) {
        Encoded of[STEP_PRODUCTS];
        UNROLL for (u32 m = 0; m < STEP_PRODUCTS; m++) {
            const u32 col = step * STEP_COLS + m / 2 * 32 + 8 * (lane % 4) + m % 2 * 4;
            of[m] = encode_product(args, palette, tile * TILE_ROWS + lane / 4, col);
            UNROLL for (u32 i = 0; i < 8; i++) {
                const bool is_escape = of[m].is_escape >> i & 1;
                const u32 all = ballot(is_escape);
                const u32 at = n_escapes + count_ones(all & ((1u << lane) - 1));
                const u32 product = (step - first_step) * STEP_PRODUCTS + m;
                if (WRITES && is_escape) args.escapes[at] = product << 16 | lane << 11 | i << 8 | of[m].high[i];
                n_escapes += count_ones(all);
            }
        }
        if (!WRITES) continue;
        U32x4 *at = args.weights + (u64(tile) * n_steps + step) * 96 + lane;
        at[0] = {of[0].low_0, of[0].low_1, of[1].low_0, of[1].low_1};
        at[32] = {of[2].low_0, of[2].low_1, of[3].low_0, of[3].low_1};
        at[64] = {of[0].code, of[1].code, of[2].code, of[3].code};
    }
    if (!WRITES && lane == 0) args.n_escapes[tile * N_SLICES + slice] = n_escapes;
}

KERNEL(count_escapes, N_SLICES * 32, EncodeArgs) { encode_exact12_slice<false>(args); }
KERNEL(encode_exact12, N_SLICES * 32, EncodeArgs) { encode_exact12_slice<true>(args); }

struct PadRowsArgs {
    const u16 *from;  // (n_rows, cols)
    u16 *out;         // (whole tiles of rows, whole steps of columns): the layout `Rows`
    u32 n_rows, cols, out_stride, padding;
};

// Block x: row of `out`.
KERNEL(pad_rows, 256, PadRowsArgs) {
    const u16 *from = args.from + u64(block_x()) * args.cols;
    u16 *out = args.out + u64(block_x()) * args.out_stride;
    for (u32 col = thread_idx(); col < args.out_stride; col += n_threads())
        out[col] = block_x() < args.n_rows && col < args.cols ? from[col] : 0;
}
