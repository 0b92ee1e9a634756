// Weights back to rows of bf16: whole matrices, for the vendor's GEMM, and single rows, which are embeddings. Scalar
// twin: src/layout.
#include "exact11.cuh"

struct DecodeArgs {
    Matrix matrix;
    U32x4 *out;  // (n_tiles * 16, n_steps * 64) of bf16, as the layout `Rows`
    u32 n_steps, first_tile;
};

// Columns `8 t..8 t + 8` of half step `half`, in rows g and g + 8.
template <class Loader>
INLINE void decode_half(Loader &loader, const typename Loader::Held &held, u32 step, u32 half, U32x4 rows[2]) {
    u32 a[4], b[4];
    loader.fragment(held, step, 2 * half, a);
    loader.fragment(held, step, 2 * half + 1, b);
    rows[0] = {a[0], a[2], b[0], b[2]};
    rows[1] = {a[1], a[3], b[1], b[3]};
}

// Block x: tile, from `first_tile` on; warp: slice.
template <class Loader>
INLINE void decode(const DecodeArgs &args) {
    const u32 tile = args.first_tile + block_x(), n_steps = args.n_steps;
    const u32 first_step = slice_start(n_steps, warp_idx()), end_step = slice_start(n_steps, warp_idx() + 1);
    Loader loader(args.matrix, tile, warp_idx(), first_step, n_steps);
    const u32 row_units = n_steps * (STEP_COLS / 8);
    U32x4 *out = args.out + (u64(block_x()) * TILE_ROWS + lane_idx() / 4) * row_units + lane_idx() % 4;
    for (u32 step = 0; step < end_step - first_step; step++) {
        const typename Loader::Held held = loader.load(step);
        for (u32 half = 0; half < 2; half++) {
            U32x4 rows[2];
            decode_half(loader, held, step, half, rows);
            U32x4 *at = out + (first_step + step) * (STEP_COLS / 8) + 4 * half;
            at[0] = rows[0];
            at[u64(8) * row_units] = rows[1];
        }
    }
}

struct EmbedArgs {
    Matrix table;
    const u32 *tokens;  // (n_tokens)
    float *out;         // (n_tokens, out_stride)
    u16 *out_bf16;      // (n_tokens, out_bf16_stride)
    u32 cols, out_stride, out_bf16_stride, padding;
};

// Block x: token; warp: slice. All 16 rows of the tile are decoded, and one is kept.
template <class Loader>
INLINE void embed(const EmbedArgs &args) {
    const u32 token = min_of(args.tokens[block_x()], args.table.rows - 1), row = token % TILE_ROWS;
    const u32 n_steps = (args.cols + STEP_COLS - 1) / STEP_COLS;
    const u32 first_step = slice_start(n_steps, warp_idx()), end_step = slice_start(n_steps, warp_idx() + 1);
    Loader loader(args.table, token / TILE_ROWS, warp_idx(), first_step, n_steps);
    float *out = args.out + u64(block_x()) * args.out_stride;
    u16 *out_bf16 = args.out_bf16 + u64(block_x()) * args.out_bf16_stride;
    for (u32 step = 0; step < end_step - first_step; step++) {
        const typename Loader::Held held = loader.load(step);
        for (u32 half = 0; half < 2; half++) {
            U32x4 rows[2];
            decode_half(loader, held, step, half, rows);
            if (lane_idx() / 4 != row % 8) continue;
            const U32x4 words = row < 8 ? rows[0] : rows[1];
            const u32 of[4] = {words.x, words.y, words.z, words.w};
            const u32 col = (first_step + step) * STEP_COLS + 32 * half + 8 * (lane_idx() % 4);
            for (u32 i = 0; i < 8 && col + i < args.cols; i++) {
                const u16 bits = u16(of[i / 2] >> (16 * (i % 2)));
                out[col + i] = of_bf16(bits);
                out_bf16[col + i] = bits;
            }
        }
    }
}

KERNEL(decode_rows, N_SLICES * 32, DecodeArgs) { decode<Rows>(args); }
KERNEL(decode_exact11, N_SLICES * 32, DecodeArgs) { decode<Exact11>(args); }
KERNEL(decode_exact12, N_SLICES * 32, DecodeArgs) { decode<Exact12>(args); }
KERNEL(embed_rows, N_SLICES * 32, EmbedArgs) { embed<Rows>(args); }
KERNEL(embed_exact11, N_SLICES * 32, EmbedArgs) { embed<Exact11>(args); }
KERNEL(embed_exact12, N_SLICES * 32, EmbedArgs) { embed<Exact12>(args); }
