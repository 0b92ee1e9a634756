// The linear layer over any loader of fragments.cuh. Scalar twin: src/twin/linear.rs.
//
// A block takes one or two tiles and up to 64 tokens; its eight warps take the eight slices of the columns. A slice is
// summed product by product, ascending, in f32 on the tensor cores; slices are added in order. So a result depends
// neither on the batch nor on the grid.
#pragma once
#include "fragments.cuh"
#include "math.cuh"

constexpr u32 MAX_PARTS = 4;
constexpr u32 LINEAR_THREADS = N_SLICES * 32;

// What becomes of a product.
enum Epilogue : u32 {
    STORE = 0,
    ADD = 1,                                // to what stands in `out`
    SILU = 2, GELU_TANH = 3, GELU_ERF = 4,  // out = activation(part 0's) * part 1's
};

struct LinearArgs {
    Matrix parts[MAX_PARTS];
    u32 first_blocks[MAX_PARTS];  // of each part; those of parts that are not there lie past the grid
    const u16 *x;                 // (n_tokens, x_stride) of bf16
    float *out;                   // (n_tokens, out_stride)
    u16 *out_bf16;                // (n_tokens, out_bf16_stride)
    const Matrix *experts;        // (n_experts, 1 or 2), or null; then `parts` are not looked at, and block z is one
    const u32 *expert_starts;     // (n_experts + 1) where an expert's tokens begin
    const u32 *x_rows;            // row of `x` by token; null: its own
    u32 n_tokens, cols, x_stride, out_stride, out_bf16_stride;
    u32 epilogue;
};

INLINE float activate(u32 epilogue, float x) {
    return epilogue == SILU ? silu(x) : epilogue == GELU_TANH ? gelu_tanh(x) : gelu_erf(x);
}

// What a block multiplies with: tokens first..first + 8 GROUPS, of those before `end`.
struct Tokens {
    u32 first, end;
};

// Columns `col..col + 8` of a token that begins at `x`; zero past the last.
INLINE U32x4 load_tail(const u16 *x, u32 col, u32 cols) {
    u32 words[4];
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 at = col + 2 * i;
        words[i] = (at < cols ? u32(x[at]) : 0) | (at + 1 < cols ? u32(x[at + 1]) << 16 : 0);
    }
    return {words[0], words[1], words[2], words[3]};
}

// One tile, or two side by side, so that activations are loaded once for both. DEPTH steps of weights are loaded ahead.
template <class Loader, u32 TILES, u32 GROUPS, u32 DEPTH>
struct Slice {
    typename Loader::Held held[DEPTH][TILES];
    const u16 *x[GROUPS];  // this lane's eight columns of the next step's first half, for its token of each group
    float sums[TILES][GROUPS][4];

    // A lane whose token is not there takes the last one's columns: what it sums, nobody looks at.
    INLINE_MEMBER Slice(const LinearArgs &args, Tokens tokens, u32 first_step) {
        UNROLL for (u32 group = 0; group < GROUPS; group++) {
            const u32 token = min_of(tokens.first + 8 * group + lane_idx() / 4, tokens.end - 1);
            const u32 row = args.x_rows ? args.x_rows[token] : token;
            x[group] = args.x + u64(row) * args.x_stride + first_step * STEP_COLS + 8 * (lane_idx() % 4);
            UNROLL for (u32 tile = 0; tile < TILES; tile++)
                UNROLL for (u32 i = 0; i < 4; i++) sums[tile][group][i] = 0.0f;
        }
    }

    INLINE_MEMBER void multiply_half(Loader (&loaders)[TILES], typename Loader::Held (&held)[TILES], u32 step, u32 half,
                                     const U32x4 (&words)[GROUPS]) {
        UNROLL for (u32 tile = 0; tile < TILES; tile++)
            UNROLL for (u32 s = 0; s < 2; s++) {
                u32 a[4];
                loaders[tile].fragment(held[tile], step, 2 * half + s, a);
                UNROLL for (u32 group = 0; group < GROUPS; group++)
                    mma_bf16(sums[tile][group], a, s ? words[group].z : words[group].x,
                             s ? words[group].w : words[group].y);
            }
    }

    // Step `step` of the slice, `ahead` steps after where `x` points.
    INLINE_MEMBER void multiply(Loader (&loaders)[TILES], typename Loader::Held (&held)[TILES], u32 step, u32 ahead) {
        UNROLL for (u32 half = 0; half < 2; half++) {
            U32x4 words[GROUPS];
            UNROLL for (u32 group = 0; group < GROUPS; group++)
                words[group] = load_cached(reinterpret_cast<const U32x4 *>(x[group] + ahead * STEP_COLS + 32 * half));
            multiply_half(loaders, held, step, half, words);
        }
    }

    // The last step of a matrix whose columns do not fill it. `x` points to it.
    INLINE_MEMBER void multiply_tail(Loader (&loaders)[TILES], u32 step, u32 n_cols) {
        UNROLL for (u32 tile = 0; tile < TILES; tile++) held[0][tile] = loaders[tile].load(step);
        UNROLL for (u32 half = 0; half < 2; half++) {
            U32x4 words[GROUPS];
            const u32 col = 32 * half + 8 * (lane_idx() % 4);
            UNROLL for (u32 group = 0; group < GROUPS; group++)
                words[group] = load_tail(x[group] - 8 * (lane_idx() % 4), col, n_cols);
            multiply_half(loaders, held[0], step, half, words);
        }
    }

    // `n_steps` whole steps, then one of `n_tail_cols` columns, if there are any.
    INLINE_MEMBER void run(Loader (&loaders)[TILES], u32 n_steps, u32 n_tail_cols) {
        UNROLL for (u32 ahead = 0; ahead < DEPTH; ahead++)
            UNROLL for (u32 tile = 0; tile < TILES; tile++)
                if (ahead < n_steps) held[ahead][tile] = loaders[tile].load(ahead);
        u32 begin = 0;
        for (; begin + DEPTH <= n_steps; begin += DEPTH) {
            UNROLL for (u32 ahead = 0; ahead < DEPTH; ahead++) {
                multiply(loaders, held[ahead], begin + ahead, ahead);
                UNROLL for (u32 tile = 0; tile < TILES; tile++)
                    if (begin + ahead + DEPTH < n_steps) held[ahead][tile] = loaders[tile].load(begin + ahead + DEPTH);
            }
            UNROLL for (u32 group = 0; group < GROUPS; group++) x[group] += DEPTH * STEP_COLS;
        }
        UNROLL for (u32 ahead = 0; ahead + 1 < DEPTH; ahead++)
            if (begin + ahead < n_steps) multiply(loaders, held[ahead], begin + ahead, ahead);
        if (n_tail_cols == 0) return;
        UNROLL for (u32 group = 0; group < GROUPS; group++) x[group] += (n_steps - begin) * STEP_COLS;
        multiply_tail(loaders, n_steps, n_tail_cols);
    }
};

// The sums of all slices for one tile, and what becomes of them. `first_values` keeps those of a gate's first tile.
template <u32 GROUPS>
struct Output {
    static constexpr u32 TOKENS = 8 * GROUPS, ROW_STRIDE = 20;  // no two lanes of a warp in one bank
    static constexpr u32 N_VALUES = (TOKENS * TILE_ROWS + LINEAR_THREADS - 1) / LINEAR_THREADS;
    static constexpr u32 N_FLOATS = N_SLICES * TOKENS * ROW_STRIDE;

    float first_values[N_VALUES];

    INLINE_MEMBER void tile(const LinearArgs &args, const Matrix &matrix, u32 tile_idx, bool is_gates_first, Tokens tokens,
                            const float (&sums)[GROUPS][4], float *partial) {
        sync_threads();
        UNROLL for (u32 group = 0; group < GROUPS; group++)
            UNROLL for (u32 i = 0; i < 4; i++) {
                const u32 token = 8 * group + 2 * (lane_idx() % 4) + i % 2, row = lane_idx() / 4 + i / 2 * 8;
                partial[(warp_idx() * TOKENS + token) * ROW_STRIDE + row] = sums[group][i];
            }
        sync_threads();
        UNROLL for (u32 i = 0; i < N_VALUES; i++) {
            const u32 idx = i * LINEAR_THREADS + thread_idx();
            const u32 token = tokens.first + idx / TILE_ROWS, row = tile_idx * TILE_ROWS + idx % TILE_ROWS;
            if (idx >= TOKENS * TILE_ROWS || token >= tokens.end || row >= matrix.rows) continue;
            const float *from = partial + idx / TILE_ROWS * ROW_STRIDE + idx % TILE_ROWS;
            float value = from[0];
            for (u32 slice = 1; slice < N_SLICES; slice++) value += from[slice * TOKENS * ROW_STRIDE];
            if (matrix.bias) value += matrix.bias[row];
            if (is_gates_first) {
                first_values[i] = activate(args.epilogue, value);
            } else {
                store(args, matrix, token, row, args.epilogue >= SILU ? first_values[i] * value : value);
            }
        }
    }

    INLINE_MEMBER void store(const LinearArgs &args, const Matrix &matrix, u32 token, u32 row, float value) {
        float *out = args.out + u64(token) * args.out_stride + matrix.out_col + row;
        if (args.epilogue == ADD) value += *out;
        *out = value;
        if (args.out_bf16) args.out_bf16[u64(token) * args.out_bf16_stride + matrix.out_col + row] = bf16_of(value);
    }
};

template <class Loader, u32 TILES>
struct Loaders;
template <class Loader>
struct Loaders<Loader, 1> {
    Loader of[1];
    INLINE_MEMBER Loaders(const Matrix &a, const Matrix &, u32 tile, u32, u32 slice, u32 first_step, u32 n_steps)
        : of{Loader(a, tile, slice, first_step, n_steps)} {}
};
template <class Loader>
struct Loaders<Loader, 2> {
    Loader of[2];
    INLINE_MEMBER Loaders(const Matrix &a, const Matrix &b, u32 tile_a, u32 tile_b, u32 slice, u32 first_step, u32 n_steps)
        : of{Loader(a, tile_a, slice, first_step, n_steps), Loader(b, tile_b, slice, first_step, n_steps)} {}
};

// Block x: tiles of a part; block y: tokens; block z: expert, if there are any.
template <class Loader, u32 TILES, u32 GROUPS, u32 DEPTH>
INLINE void linear(const LinearArgs &args) {
    __shared__ float partial[Output<GROUPS>::N_FLOATS];
    Tokens tokens = {block_y() * GROUPS * 8, args.n_tokens};
    if (args.experts) {
        tokens.first += args.expert_starts[block_z()];
        tokens.end = args.expert_starts[block_z() + 1];
    }
    if (tokens.first >= tokens.end) return;
    const bool is_gate = args.epilogue >= SILU;
    u32 part = 0;
    while (!is_gate && part + 1 < MAX_PARTS && block_x() >= args.first_blocks[part + 1]) part++;
    // A copy in two branches: parameters are then read as constants, and not through an address that may be anything.
    const auto matrix = [&](u32 idx) -> Matrix {
        if (args.experts) return args.experts[block_z() * (is_gate ? 2 : 1) + (is_gate ? idx : 0)];
        return args.parts[is_gate ? idx : part];
    };
    const u32 first_tile = (block_x() - args.first_blocks[part]) * (is_gate ? 1 : TILES);
    // Past the last tile the same is computed twice, and written once.
    const u32 last_tile = (matrix(0).rows + TILE_ROWS - 1) / TILE_ROWS - 1;
    const u32 second_tile = is_gate ? first_tile : min_of(first_tile + 1, last_tile);

    const u32 n_steps = (args.cols + STEP_COLS - 1) / STEP_COLS;
    const u32 first_step = slice_start(n_steps, warp_idx()), end_step = slice_start(n_steps, warp_idx() + 1);
    Loaders<Loader, TILES> loaders(matrix(0), matrix(1), first_tile, second_tile, warp_idx(), first_step, n_steps);
    Slice<Loader, TILES, GROUPS, DEPTH> slice(args, tokens, first_step);
    const u32 n_whole = min_of(end_step, args.cols / STEP_COLS) - min_of(first_step, args.cols / STEP_COLS);
    slice.run(loaders.of, n_whole, end_step - first_step > n_whole ? args.cols % STEP_COLS : 0);

    Output<GROUPS> output;
    output.tile(args, matrix(0), first_tile, is_gate, tokens, slice.sums[0], partial);
    if (TILES == 2 && (is_gate || second_tile != first_tile))
        output.tile(args, matrix(1), second_tile, false, tokens, slice.sums[TILES - 1], partial);
}

// The kernels of one layout: up to 8 tokens with one tile a block, or two; more always with two. The numbers are steps
// loaded ahead, as many as registers allow without spills.
#define LINEAR_KERNELS(NAME, LOADER, DEPTH_8, DEPTH_8X2, DEPTH_16, DEPTH_32, DEPTH_64) \
    KERNEL_RESIDENT(linear_##NAME##_8, LINEAR_THREADS, 3, LinearArgs) { linear<LOADER, 1, 1, DEPTH_8>(args); } \
    KERNEL_RESIDENT(linear_##NAME##_8x2, LINEAR_THREADS, 2, LinearArgs) { linear<LOADER, 2, 1, DEPTH_8X2>(args); } \
    KERNEL_RESIDENT(linear_##NAME##_16, LINEAR_THREADS, 2, LinearArgs) { linear<LOADER, 2, 2, DEPTH_16>(args); } \
    KERNEL_RESIDENT(linear_##NAME##_32, LINEAR_THREADS, 1, LinearArgs) { linear<LOADER, 2, 4, DEPTH_32>(args); } \
    KERNEL_RESIDENT(linear_##NAME##_64, LINEAR_THREADS, 1, LinearArgs) { linear<LOADER, 2, 8, DEPTH_64>(args); }
