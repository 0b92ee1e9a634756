// Rows of bf16 to exact11, in two passes as encode.cu has them. Scalar twin: src/layout/exact11.rs.
#include "exact11.cuh"

INLINE u32 exponent_of(u16 weight) { return weight >> 7 & 255; }

// Block x: tile. The commonest of 128 from the base on, the lower first among equals.
KERNEL(choose_palettes_exact11, 256, EncodeArgs) {
    __shared__ u32 counts[256];
    __shared__ u32 base;
    __shared__ u8 chosen[16];
    counts[thread_idx()] = 0;
    if (thread_idx() < 16) chosen[thread_idx()] = 0;
    sync_threads();
    const u32 first_row = block_x() * TILE_ROWS, end_row = min_of(first_row + TILE_ROWS, args.n_rows);
    for (u32 row = first_row; row < end_row; row++)
        for (u32 col = thread_idx(); col < args.cols; col += n_threads())
            atomic_add(&counts[exponent_of(args.from[u64(row) * args.cols + col])], 1);
    sync_threads();
    if (thread_idx() == 0) {
        u32 commonest = 0;
        for (u32 exponent = 1; exponent < 255; exponent++)
            if (counts[exponent] > counts[commonest]) commonest = exponent;
        base = min_of(max_of(commonest, 124) - 124, 127);
        chosen[3] = u8(base);
    }
    sync_threads();
    if (thread_idx() >= base && thread_idx() < base + 128) {
        const u32 count = counts[thread_idx()];
        u32 rank = 0;
        for (u32 other = base; other < base + 128; other++)
            rank += counts[other] > count || (counts[other] == count && other < thread_idx());
        if (rank < 3) chosen[rank] = u8(thread_idx());
        else if (rank < 11) chosen[rank + 1] = u8(thread_idx() - base);
    }
    sync_threads();
    if (thread_idx() < 2) {
        u32 words[2] = {0, 0};
        for (u32 i = 0; i < 8; i++) words[i / 4] |= u32(chosen[8 * thread_idx() + i]) << (i % 4 * 8);
        args.palettes[2 * block_x() + thread_idx()] = {words[0], words[1]};
    }
}

// A palette as encoding wants it: codes by exponent.
struct Exact11Codes {
    u32 common;
    U32x2 rare;

    static constexpr u32 RARE = 3, ESCAPE = 11;  // 3..11: a rare exponent's

    INLINE_MEMBER Exact11Codes(const U32x2 *palette)
        : common(palette[0].x), rare({palette[0].y, palette[1].x}) {}

    INLINE_MEMBER u32 of(u32 exponent) const {
        u32 code = ESCAPE;
        UNROLL for (u32 i = 8; i-- > 0;)
            if (((i < 4 ? rare.x : rare.y) >> (i % 4 * 8) & 255) + (common >> 24) == exponent) code = RARE + i;
        UNROLL for (u32 i = 3; i-- > 0;)
            if ((common >> (8 * i) & 255) == exponent) code = i;
        return code;
    }
};

// A step's weights of one lane, in exact11.
struct Exact11Step {
    u32 raw[8], codes[2], escapes;  // escapes: a bit for each weight, whose code is 0
    u32 rare_codes[3], n_rare;
    u8 changes[32];

    INLINE_MEMBER Exact11Step(const EncodeArgs &args, const Exact11Codes &codes_of, u32 first_row, u32 first_col) {
        for (u32 i = 0; i < 8; i++) raw[i] = 0;
        codes[0] = codes[1] = escapes = rare_codes[0] = rare_codes[1] = rare_codes[2] = n_rare = 0;
        for (u32 idx = 0; idx < 32; idx++) {
            const u32 m = idx / 8, i = idx % 8;
            const u32 row = first_row + i / 2 % 2 * 8, col = first_col + m / 2 * 32 + m % 2 * 4 + i / 4 * 2 + i % 2;
            changes[idx] = 0;
            if (row >= args.n_rows || col >= args.cols) continue;
            const u16 weight = args.from[u64(row) * args.cols + col];
            raw[idx / 4] |= (weight & 127) << (idx % 4 * 8 + 1) | u32(weight >> 15) << ((idx ^ 1) % 4 * 8);
            const u32 code = codes_of.of(exponent_of(weight));
            const bool is_escape = code == Exact11Codes::ESCAPE;
            escapes |= u32(is_escape) << idx;
            changes[idx] = u8(exponent_of(weight) ^ (codes_of.common & 255));
            if (is_escape) continue;
            codes[m / 2] |= min_of(code, Exact11Codes::RARE) << (4 * i + m % 2 * 2);
            if (code < Exact11Codes::RARE) continue;
            const u64 bits = u64(code - Exact11Codes::RARE) << (3 * n_rare % 32);
            rare_codes[3 * n_rare / 32] |= u32(bits);
            if (bits >> 32) rare_codes[3 * n_rare / 32 + 1] |= u32(bits >> 32);
            n_rare++;
        }
    }

    // The first vector that this lane has of the step, and where a byte for the words of rare codes stands.
    INLINE_MEMBER void write_codes(U32x4 *at, u32 *rare_words) const {
        const u32 lane = lane_idx(), first_bit = 3 * (warp_sum_below(n_rare) - n_rare);
        at[lane] = {raw[0], raw[1], raw[2], raw[3]};
        at[32 + lane] = {raw[4], raw[5], raw[6], raw[7]};
        reinterpret_cast<U32x2 *>(at + 64)[lane] = {codes[0], codes[1]};
        // Lanes share words, each with bits of its own, all zero before.
        for (u32 i = 0; i < 3; i++) {
            const u64 bits = u64(rare_codes[i]) << (first_bit % 32);
            if (u32(bits)) atomic_add(&rare_words[first_bit / 32 + i], u32(bits));
            if (bits >> 32) atomic_add(&rare_words[first_bit / 32 + i + 1], u32(bits >> 32));
        }
    }

    INLINE_MEMBER u32 n_rare_words() const { return (3 * shuffle(warp_sum_below(n_rare), 31) + 31) / 32; }

    // Writes the warp's escapes to `entries`, if there is room for any; returns how many those are.
    INLINE_MEMBER u32 write_escapes(u32 first_product, u32 *entries) const {
        u32 n_escapes = 0;
        for (u32 idx = 0; idx < 32; idx++) {
            const bool is_escape = escapes >> idx & 1;
            const u32 all = ballot(is_escape);
            const u32 at = n_escapes + count_ones(all & ((1u << lane_idx()) - 1));
            if (entries && is_escape)
                entries[at] = (first_product + idx / 8) << 16 | lane_idx() << 11 | idx % 8 << 8 | changes[idx];
            n_escapes += count_ones(all);
        }
        return n_escapes;
    }
};

// Words of a slice.
struct Exact11Counts { u32 rare, escapes; };

// Calls `use` with each step of the block's tile in the warp's slice, and where it stands in the matrix.
template <class Use>
INLINE void for_each_exact11_step(const EncodeArgs &args, Use use) {
    const u32 tile = block_x(), n_steps = (args.cols + STEP_COLS - 1) / STEP_COLS;
    const u32 first_step = slice_start(n_steps, warp_idx()), end_step = slice_start(n_steps, warp_idx() + 1);
    const Exact11Codes codes(args.palettes + 2 * tile);
    for (u32 step = first_step; step < end_step; step++) {
        const u32 col = step * STEP_COLS + 8 * (lane_idx() % 4);
        use(Exact11Step(args, codes, tile * TILE_ROWS + lane_idx() / 4, col), step, (step - first_step) * STEP_PRODUCTS);
    }
}

INLINE Exact11Counts count_exact11_slice(const EncodeArgs &args) {
    Exact11Counts counts = {0, 0};
    for_each_exact11_step(args, [&](const Exact11Step &step, u32, u32) {
        counts.rare += step.n_rare_words();
        counts.escapes += step.write_escapes(0, nullptr);
    });
    return counts;
}

// Block x: tile; warp: slice.
KERNEL(count_exact11, N_SLICES * 32, EncodeArgs) {
    const Exact11Counts counts = count_exact11_slice(args);
    if (lane_idx() == 0) args.n_escapes[block_x() * N_SLICES + warp_idx()] = counts.rare + counts.escapes;
}

KERNEL(encode_exact11, N_SLICES * 32, EncodeArgs) {
    const u32 n_steps = (args.cols + STEP_COLS - 1) / STEP_COLS;
    U32x4 *tile = args.weights + block_x() * exact11_tile_vectors(n_steps);
    u8 *lengths = reinterpret_cast<u8 *>(tile + n_steps * EXACT11_STEP_VECTORS);
    u32 *rare_words = args.escapes + args.escape_starts[block_x() * N_SLICES + warp_idx()];
    u32 *entries = rare_words + count_exact11_slice(args).rare;
    for_each_exact11_step(args, [&](const Exact11Step &encoded, u32 step, u32 first_product) {
        const u32 n_words = encoded.n_rare_words();
        encoded.write_codes(tile + step * EXACT11_STEP_VECTORS, rare_words);
        if (lane_idx() == 0) lengths[step] = u8(n_words);
        rare_words += n_words;
        entries += encoded.write_escapes(first_product, entries);
    });
}
