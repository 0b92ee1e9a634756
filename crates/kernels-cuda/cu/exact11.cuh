// The loader of exact11, which src/layout/exact11.rs defines. Next in the flow: linear.cuh, decode.cu.
//
// For eight weights of a lane:
//   indices = two bits each, in nibbles                        selectors of common exponents; 3 selects the base
//   ranks   = how many with index 3 stand below, by one product of integers, or 8 and more where the index is not 3
//   rare    = the lane's next codes of three bits, spread to nibbles, as bytes of the second palette
//   exponents = common[indices] + rare[ranks]                  8 and more select the sign of a byte below 128: zero
// No lane waits for another, whatever its number of rare exponents. What was tried besides: notes.md.
#pragma once
#include "fragments.cuh"

constexpr u32 EXACT11_STEP_VECTORS = 80;

INLINE u64 exact11_tile_vectors(u32 n_steps) { return u64(n_steps) * EXACT11_STEP_VECTORS + (n_steps + 15) / 16; }

// Bits 3 i .. 3 i + 3 to nibble i, for eight.
INLINE u32 spread_to_nibbles(u32 bits) {
    bits = select_bits(0x0fff0000, bits << 4, bits);
    bits = select_bits(0x3f003f00, bits << 2, bits);
    return (bits << 1 & 0x70707070) | (bits & 0x07070707);
}

struct Exact11 {
    // `word`: of rare codes, where they are at most as many words as lanes; NONE at `start`; else where they are.
    struct Held { U32x4 raw[2]; U32x2 codes; u32 start, word; };
    static constexpr u32 NONE = ~0u;

    const U32x4 *raw;       // where this lane's stand
    u32 lengths_at;         // bytes from `raw` to this lane's of (n_steps), which say how many words the rare codes take
    u32 n_steps;            // of the slice
    u32 start;              // of the rare codes of the 32 steps that the warp knows of
    u32 place;              // of one step's, this lane's: words from there on << 8 | how many
    u32 bit;                // where this lane's next rare codes begin in the step's
    u32 common;             // three exponents and the base
    U32x2 rare;             // eight less the base
    Escapes escapes;

    INLINE_MEMBER Exact11(const Matrix &matrix, u32 tile, u32 slice, u32 first_step, u32 n_steps)
        : raw(matrix.weights + tile * exact11_tile_vectors(n_steps) + first_step * EXACT11_STEP_VECTORS + lane_idx()),
          lengths_at((n_steps - first_step) * EXACT11_STEP_VECTORS * 16 + first_step - 15 * lane_idx()),
          n_steps(slice_start(n_steps, slice + 1) - first_step),
          start(matrix.escape_starts[tile * N_SLICES + slice]),
          place(0),
          common(matrix.palettes[2 * tile].x),
          rare({matrix.palettes[2 * tile].y, matrix.palettes[2 * tile + 1].x}),
          escapes(matrix.escapes, start + n_words(), matrix.escape_starts[tile * N_SLICES + slice + 1]) {}

    // Of rare codes in step `first + lane_idx()`.
    INLINE_MEMBER u32 length(u32 first) const {
        return first + lane_idx() < n_steps ? *(reinterpret_cast<const u8 *>(raw) + lengths_at + first) : 0;
    }

    // Of rare codes, in the slice.
    INLINE_MEMBER u32 n_words() const {
        u32 sum = 0;
        NO_UNROLL for (u32 first = 0; first < n_steps; first += 32) sum += length(first);
        return shuffle(warp_sum_below(sum), 31);
    }

    // Steps come in order.
    INLINE_MEMBER Held load(u32 step) {
        if (step % 32 == 0) {
            const u32 last = shuffle(place, 31), n_words = length(step);
            start += (last >> 8) + (last & 255);
            place = (warp_sum_below(n_words) - n_words) << 8 | n_words;
        }
        const U32x4 *at = raw + step * EXACT11_STEP_VECTORS;
        const u32 at_rare = shuffle(place, step % 32), n_words = at_rare & 255, rare_start = start + (at_rare >> 8);
        return {{load_once(at), load_once(at + 32)},
                load_once(reinterpret_cast<const U32x2 *>(at + 64) - lane_idx()),
                n_words > 32 ? rare_start : NONE,
                lane_idx() < n_words ? load_once(escapes.entries + rare_start + lane_idx()) : 0};
    }

    // Each lane's rare codes follow those of the lanes below.
    INLINE_MEMBER void begin(const Held &held) {
        const u32 are_rare_0 = held.codes.x & held.codes.x >> 1 & 0x55555555;
        const u32 are_rare_1 = held.codes.y & held.codes.y >> 1 & 0x55555555;
        const u32 n_rare = count_ones(are_rare_0 + 2 * are_rare_1);
        bit = 3 * (warp_sum_below(n_rare) - n_rare);
    }

    // 24 bits of rare codes, at least, from `bit` on.
    INLINE_MEMBER u32 rare_bits(const Held &held) const {
        const u32 word = bit / 32;
        u32 low = shuffle(held.word, word), high = shuffle(held.word, word + 1);
        if (held.start != NONE) {  // a third of the weights and more have them, which models have not
            const u32 at = held.start + word;  // the last lanes' may lie behind all, where they have none
            low = at < escapes.end ? escapes.entries[at] : 0;
            high = at + 1 < escapes.end ? escapes.entries[at + 1] : 0;
        }
        return shift_pair(low, high, bit);
    }

    INLINE_MEMBER void fragment(const Held &held, u32 step, u32 m, u32 a[4]) {
        if (m == 0) begin(held);
        const u32 indices = (m < 2 ? held.codes.x : held.codes.y) >> (m % 2 * 2) & 0x33333333;
        const u32 are_rare = indices & indices >> 1 & 0x11111111;
        const u32 ranks = are_rare * 0x11111108 + 0x88888888;
        const u32 codes = spread_to_nibbles(rare_bits(held));
        bit += 3 * (are_rare * 0x11111111 >> 28);
        const u32 rare_0 = permute_bytes(rare.x, rare.y, codes), rare_1 = permute_bytes(rare.x, rare.y, codes >> 16);
        u32 exponents[2] = {permute_bytes(common, common, indices) + permute_bytes(rare_0, rare_1, ranks),
                            permute_bytes(common, common, indices >> 16) + permute_bytes(rare_0, rare_1, ranks >> 16)};
        escapes.change(step * STEP_PRODUCTS + m, exponents);
        const U32x4 bytes = m < 2 ? held.raw[0] : held.raw[1];
        const u32 raw_0 = m % 2 ? bytes.z : bytes.x, raw_1 = m % 2 ? bytes.w : bytes.y;
        // A raw byte is a mantissa and, lowest, the sign of the pair's other weight.
        a[0] = rotate_right(permute_bytes(raw_0, exponents[0], 0x5140));
        a[1] = rotate_right(permute_bytes(raw_0, exponents[0], 0x7362));
        a[2] = rotate_right(permute_bytes(raw_1, exponents[1], 0x5140));
        a[3] = rotate_right(permute_bytes(raw_1, exponents[1], 0x7362));
    }
};
