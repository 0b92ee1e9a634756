// Linear layers and embeddings over weights as a checkpoint has them, f16, f32 or bf16, with activations that are not
// rounded: plain fused multiply-adds. Scalar twin: src/twin/wide.rs.
#include "primitives.cuh"

enum WideKind : u32 { WIDE_BF16 = 0, WIDE_F16 = 1, WIDE_F32 = 2 };

struct WideArgs {
    const void *weights;  // (rows, cols) of `kind`
    const float *bias;    // (rows), or null
    const float *x;       // (n_tokens, x_stride)
    const u32 *tokens;    // embed_wide: (n_tokens)
    float *out;           // (n_tokens, out_stride), from the first row's column on
    u16 *out_bf16;        // embed_wide: (n_tokens, out_bf16_stride)
    u32 kind, rows, cols, n_tokens, x_stride, out_stride, out_bf16_stride, adds;
};

INLINE float wide_weight(const WideArgs &args, u64 at) {
    if (args.kind == WIDE_F32) return static_cast<const float *>(args.weights)[at];
    const u16 bits = static_cast<const u16 *>(args.weights)[at];
    return args.kind == WIDE_F16 ? of_f16(bits) : of_bf16(bits);
}

constexpr u32 WIDE_TOKENS = 8;

// A warp for each row, eight tokens at a time in block y. Lane i sums columns i, i + 32, ... ascending.
KERNEL(linear_wide, 256, WideArgs) {
    const u32 row = block_x() * 8 + warp_idx(), first_token = block_y() * WIDE_TOKENS;
    float sums[WIDE_TOKENS] = {};
    for (u32 col = lane_idx(); row < args.rows && col < args.cols; col += 32) {
        const float weight = wide_weight(args, u64(row) * args.cols + col);
        UNROLL for (u32 i = 0; i < WIDE_TOKENS; i++)
            if (first_token + i < args.n_tokens)
                sums[i] = fma(weight, args.x[u64(first_token + i) * args.x_stride + col], sums[i]);
    }
    UNROLL for (u32 i = 0; i < WIDE_TOKENS; i++) {
        float value = warp_sum(sums[i]);
        if (lane_idx() != 0 || row >= args.rows || first_token + i >= args.n_tokens) continue;
        if (args.bias) value += args.bias[row];
        float *out = args.out + u64(first_token + i) * args.out_stride + row;
        *out = args.adds ? *out + value : value;
    }
}

// Block x: token.
KERNEL(embed_wide, 256, WideArgs) {
    const u32 token = min_of(args.tokens[block_x()], args.rows - 1);
    for (u32 col = thread_idx(); col < args.cols; col += n_threads()) {
        const float value = wide_weight(args, u64(token) * args.cols + col);
        args.out[u64(block_x()) * args.out_stride + col] = value;
        args.out_bf16[u64(block_x()) * args.out_bf16_stride + col] = bf16_of(value);
    }
}
