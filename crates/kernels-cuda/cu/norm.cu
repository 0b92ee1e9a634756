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

struct AddRmsNormArgs {
    RmsNormArgs norm;
    float *hidden;       // (n_rows, stride): norm.x, which becomes hidden + delta first
    u16 *hidden_bf16;    // (n_rows, hidden_bf16_stride)
    const float *delta;  // (n_rows, delta_stride)
    u32 hidden_bf16_stride, delta_stride;
};

struct HeadNormArgs {
    float *x;             // (n_rows, stride), from the first head's first column on
    u16 *x_bf16;          // (n_rows, bf16_stride)
    const float *weight;  // (head_dim)
    u32 stride, bf16_stride, n_rows, n_heads, head_dim;
    float eps;
};

const u32 RMS_NORM_THREADS = 512;

// Calls f(col, count) for columns col..col + count of this thread: 4 of each 2048, or what is left of them.
template <class F>
INLINE void for_quads(u32 width, F f) {
    for (u32 col = thread_idx() * 4; col < width; col += RMS_NORM_THREADS * 4) f(col, min_of(4, width - col));
}

INLINE float sum_of_squares(float sum, F32x4 x) {
    return fma(x.w, x.w, fma(x.z, x.z, fma(x.y, x.y, fma(x.x, x.x, sum))));
}

INLINE void scale_row(const RmsNormArgs &args, const float *x, float sum, float *scratch) {
    const float scale = 1.0f / sqrtf(block_sum(sum, scratch) / float(args.width) + args.eps);
    float *out = args.out + u64(block_x()) * args.out_stride;
    u16 *out_bf16 = args.out_bf16 + u64(block_x()) * args.out_bf16_stride;
    for_quads(args.width, [&](u32 col, u32 count) {
        const F32x4 value = load_quad(x, col, count), weight = load_quad(args.weight, col, count);
        store_quad(out, out_bf16, col, count, {value.x * scale * weight.x, value.y * scale * weight.y,
                                               value.z * scale * weight.z, value.w * scale * weight.w});
    });
}

// Block x: row. Thread i sums the squares of columns 4 i..4 i + 4, 2048 + 4 i.. and so on, ascending.
KERNEL(rms_norm, RMS_NORM_THREADS, RmsNormArgs) {
    __shared__ float scratch[32];
    const float *x = args.x + u64(block_x()) * args.stride;
    float sum = 0.0f;
    for_quads(args.width, [&](u32 col, u32 count) { sum = sum_of_squares(sum, load_quad(x, col, count)); });
    scale_row(args, x, sum, scratch);
}

// add, then rms_norm of the sum; each thread reads back what it wrote.
KERNEL(add_rms_norm, RMS_NORM_THREADS, AddRmsNormArgs) {
    __shared__ float scratch[32];
    float *hidden = args.hidden + u64(block_x()) * args.norm.stride;
    u16 *hidden_bf16 = args.hidden_bf16 + u64(block_x()) * args.hidden_bf16_stride;
    const float *delta_row = args.delta + u64(block_x()) * args.delta_stride;
    float sum = 0.0f;
    for_quads(args.norm.width, [&](u32 col, u32 count) {
        const F32x4 old = load_quad(hidden, col, count), delta = load_quad(delta_row, col, count);
        const F32x4 both = {old.x + delta.x, old.y + delta.y, old.z + delta.z, old.w + delta.w};
        store_quad(hidden, hidden_bf16, col, count, both);
        sum = sum_of_squares(sum, both);
    });
    scale_row(args.norm, hidden, sum, scratch);
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
