// RMSNorm over rows and over heads. Scalar twin: src/twin/norm.rs.
#include "quad.cuh"

struct RmsNormArgs {
    const float *x;       // (n_rows, stride)
    const float *weight;  // (width)
    float *out;           // (n_rows, out_stride)
    u16 *out_bf16;        // (n_rows, out_bf16_stride), rounded; rows begin at multiples of 8 bytes
    u32 width, stride, out_stride, out_bf16_stride;
    float eps;
    u32 padding;
};

struct HeadNormArgs {
    float *x;             // (n_rows, stride), from the first head's first column on
    u16 *x_bf16;          // (n_rows, bf16_stride)
    const float *weight;  // (head_dim)
    u32 stride, bf16_stride, n_rows, n_heads, head_dim;
    float eps;
};

const u32 RMS_NORM_THREADS = 1024;

INLINE float sum_of_squares(float sum, F32x4 x) {
    return fma(x.w, x.w, fma(x.z, x.z, fma(x.y, x.y, fma(x.x, x.x, sum))));
}

INLINE void store_scaled(const RmsNormArgs &args, u32 col, u32 count, F32x4 x, float scale, F32x4 weight) {
    store_quad(args.out + u64(block_x()) * args.out_stride, args.out_bf16 + u64(block_x()) * args.out_bf16_stride, col,
               count, {x.x * scale * weight.x, x.y * scale * weight.y, x.z * scale * weight.z, x.w * scale * weight.w});
}

// Block x: row. Thread i sums the squares of columns 4 i..4 i + 4, 4096 + 4 i.. and so on, ascending. The first quad and its
// weights stay in registers.
KERNEL(rms_norm, RMS_NORM_THREADS, RmsNormArgs) {
    __shared__ float scratch[32];
    const float *x = args.x + u64(block_x()) * args.stride;
    const u32 own = thread_idx() * 4, n_own = own < args.width ? min_of(4, args.width - own) : 0;
    F32x4 first = {}, first_weight = {};
    if (n_own > 0) first = load_quad(x, own, n_own), first_weight = load_quad(args.weight, own, n_own);
    float sum = sum_of_squares(0.0f, first);
    for (u32 col = own + RMS_NORM_THREADS * 4; col < args.width; col += RMS_NORM_THREADS * 4)
        sum = sum_of_squares(sum, load_quad(x, col, min_of(4, args.width - col)));
    const float scale = 1.0f / sqrtf(block_sum(sum, scratch) / float(args.width) + args.eps);
    if (n_own > 0) store_scaled(args, own, n_own, first, scale, first_weight);
    for (u32 col = own + RMS_NORM_THREADS * 4; col < args.width; col += RMS_NORM_THREADS * 4) {
        const u32 count = min_of(4, args.width - col);
        store_scaled(args, col, count, load_quad(x, col, count), scale, load_quad(args.weight, col, count));
    }
}

// A warp for each head. Lane i sums the squares of dimensions i, i + 32, ... ascending.
KERNEL(head_norm, 256, HeadNormArgs) {
    const u32 idx = block_x() * (n_threads() / 32) + warp_idx();
    if (idx >= args.n_rows * args.n_heads) return;
    const u32 row = idx / args.n_heads, head = idx % args.n_heads;
    float *x = args.x + u64(row) * args.stride + head * args.head_dim;
    u16 *x_bf16 = args.x_bf16 + u64(row) * args.bf16_stride + head * args.head_dim;
    float sum = 0.0f;
    for (u32 dim = lane_idx(); dim < args.head_dim; dim += 32) sum = fma(x[dim], x[dim], sum);
    const float scale = 1.0f / sqrtf(warp_sum(sum) / float(args.head_dim) + args.eps);
    for (u32 dim = lane_idx(); dim < args.head_dim; dim += 32) {
        const float value = x[dim] * scale * args.weight[dim];
        x[dim] = value;
        x_bf16[dim] = bf16_of(value);
    }
}
