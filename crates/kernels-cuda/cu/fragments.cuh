// Weights as the fragments that a matrix multiplication on tensor cores takes, one loader for each resident layout.
// src/layout defines the layouts. Next in the flow: exact11.cuh, which is one more; then linear.cuh, decode.cu.
//
// A tile is 16 rows, a step 64 columns of it: four products of 16 columns. Columns are dealt out so that a lane of a
// warp finds its weights, and its activations, side by side: lane 4 g + t has rows g and g + 8, and of each half step h
// columns 32 h + 8 t .. + 8. Product m = 2 h + s of the step takes columns 4 s .. 4 s + 4 of those eight.
#pragma once
#include "primitives.cuh"

constexpr u32 TILE_ROWS = 16;
constexpr u32 STEP_COLS = 64;
constexpr u32 STEP_PRODUCTS = 4;
// Parts that the columns of a matrix are cut into; each is summed on its own, and then all in order.
constexpr u32 N_SLICES = 8;

// A weight matrix on the GPU. What the pointers mean is its layout's.
struct Matrix {
    const U32x4 *weights;
    const u32 *escapes;        // and what else varies in length
    const u32 *escape_starts;  // (n_tiles, N_SLICES) and one more
    const U32x2 *palettes;     // (n_tiles); exact11: (n_tiles, 2)
    const float *bias;         // (rows), or null
    u32 rows;
    u32 out_col;  // where its first row's product goes
};

// First step of a slice.
INLINE u32 slice_start(u32 n_steps, u32 slice) { return u32(u64(n_steps) * slice / N_SLICES); }

// bf16 as it is: (n_tiles * 16, n_steps * 64), row after row, padding zero.
struct Rows {
    struct Held { U32x4 words[4]; };

    const U32x4 *row, *row_8;

    INLINE_MEMBER Rows(const Matrix &matrix, u32 tile, u32, u32 first_step, u32 n_steps) {
        const u32 g = lane_idx() / 4, t = lane_idx() % 4;
        const u64 row_units = u64(n_steps) * (STEP_COLS / 8);
        row = matrix.weights + (u64(tile) * TILE_ROWS + g) * row_units + first_step * (STEP_COLS / 8) + t;
        row_8 = row + 8 * row_units;
    }

    // Step `step`, counted from the slice's first.
    INLINE_MEMBER Held load(u32 step) const {
        const u32 at = step * (STEP_COLS / 8);
        return {{load_once(row + at), load_once(row_8 + at), load_once(row + at + 4), load_once(row_8 + at + 4)}};
    }

    // The fragment of product m of a step.
    INLINE_MEMBER void fragment(const Held &held, u32, u32 m, u32 a[4]) {
        const U32x4 &low = held.words[m / 2 * 2], &high = held.words[m / 2 * 2 + 1];
        a[0] = m % 2 ? low.z : low.x, a[1] = m % 2 ? high.z : high.x;
        a[2] = m % 2 ? low.w : low.y, a[3] = m % 2 ? high.w : high.y;
    }
};

// Bytes that a palette does not have, in the order in which a slice meets them. An entry is the product that it belongs
// to, counted from the slice's first, << 16 | lane << 11 | weight << 8 | byte. The warp holds 32 at a time, from a
// multiple of 32 on: perhaps some of what is before, too.
struct Escapes {
    const u32 *entries;
    u32 at, end, held, next;

    INLINE_MEMBER Escapes(const u32 *entries, u32 begin, u32 end) : entries(entries), at(begin), end(end) { hold(); }

    INLINE_MEMBER void hold() {
        const u32 lane_at = (at & ~31u) + lane_idx();
        held = lane_at < end ? entries[lane_at] : ~0u;
        next = shuffle(held, at % 32);
    }

    // Puts the bytes of product `product` into its fragment, as high ones.
    INLINE_MEMBER void patch(u32 product, u32 a[4]) {
        while (next < (product + 1) << 16) {
            const u32 selector = next >> 8 & 1 ? 0x4210 : 0x3240;
            const u32 word = (next >> 11 & 31) == lane_idx() ? next >> 9 & 3 : 4;
            for (u32 i = 0; i < 4; i++) a[i] = permute_bytes(a[i], next & 255, word == i ? selector : 0x3210);
            advance();
        }
    }

    // Exclusive or of the bytes of product `product` and those in their places among eight.
    INLINE_MEMBER void change(u32 product, u32 bytes[2]) {
        while (next < (product + 1) << 16) {
            const u32 byte = (next & 255) << (next >> 5 & 24), word = next >> 10 & 63;
            if (word == 2 * lane_idx()) bytes[0] ^= byte;
            if (word == 2 * lane_idx() + 1) bytes[1] ^= byte;
            advance();
        }
    }

    INLINE_MEMBER void advance() {
        if (++at % 32 == 0) hold();
        else next = shuffle(held, at % 32);
    }
};

// Exact in 12 bits and its escapes: low bytes as they are; of the high byte the sign, and which of eight values in the
// tile's palette the rest has. A step is three vectors a lane: the low bytes of each half step, then all codes.
struct Exact12 {
    struct Held { U32x4 low[2], codes; };

    const U32x4 *from;
    U32x2 palette;
    Escapes escapes;

    INLINE_MEMBER Exact12(const Matrix &matrix, u32 tile, u32 slice, u32 first_step, u32 n_steps)
        : from(matrix.weights + (u64(tile) * n_steps + first_step) * 96 + lane_idx()),
          palette(matrix.palettes[tile]),
          escapes(matrix.escapes, matrix.escape_starts[tile * N_SLICES + slice],
                  matrix.escape_starts[tile * N_SLICES + slice + 1]) {}

    INLINE_MEMBER Held load(u32 step) const {
        const U32x4 *at = from + u64(step) * 96;
        return {{load_once(at), load_once(at + 32)}, load_once(at + 64)};
    }

    // Nibble i of a code has the index of weight i; bit 3 of nibbles 1, 3, 5, 7 is the sign of weights 0..3, and that of
    // nibbles 0, 2, 4, 6 of weights 4..7, where a shift brings both to the signs' places in bytes.
    INLINE_MEMBER void fragment(const Held &held, u32 step, u32 m, u32 a[4]) {
        const U32x4 &low = held.low[m / 2];
        const u32 low_0 = m % 2 ? low.z : low.x, low_1 = m % 2 ? low.w : low.y;
        const u32 code = m == 0 ? held.codes.x : m == 1 ? held.codes.y : m == 2 ? held.codes.z : held.codes.w;
        const u32 indices = code & 0x77777777;
        const u32 high_0 = permute_bytes(palette.x, palette.y, indices) | (code & 0x80808080);
        const u32 high_1 = permute_bytes(palette.x, palette.y, indices >> 16) | (code << 4 & 0x80808080);
        a[0] = permute_bytes(low_0, high_0, 0x5140), a[1] = permute_bytes(low_0, high_0, 0x7362);
        a[2] = permute_bytes(low_1, high_1, 0x5140), a[3] = permute_bytes(low_1, high_1, 0x7362);
        escapes.patch(step * STEP_PRODUCTS + m, a);
    }
};
