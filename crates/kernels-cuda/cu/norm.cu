// RMSNorm over rows and over heads. Scalar twin: src/twin/norm.rs.
#include "primitives.cuh"

struct RmsNormArgs {
    const float *x;       // (n_rows, stride)
    const float *weight;  // (width)
    float *out;           // (n_rows, out_stride)
    u16 *out_bf16;        // (n_rows, out_bf16_stride), rounded
    u32 width, stride, out_stride, out_bf16_stride;
    float eps;
    u32 padding;
};

// Block x: row. Thread i sums columns i, i + 256, ... ascending, by fused multiply-add.
KERNEL(rms_norm, 256, RmsNormArgs) {
    __shared__ float scratch[32];
    const float *x = args.x + u64(block_x()) * args.stride;
    float sum = 0.0f;
    for (u32 col = thread_idx(); col < args.width; col += n_threads()) sum = fma(x[col], x[col], sum);
    const float mean = block_sum(sum, scratch) / float(args.width);
    const float scale = 1.0f / sqrtf(mean + args.eps);
    float *out = args.out + u64(block_x()) * args.out_stride;
    u16 *out_bf16 = args.out_bf16 + u64(block_x()) * args.out_bf16_stride;
    for (u32 col = thread_idx(); col < args.width; col += n_threads()) {
        const float value = x[col] * scale * args.weight[col];
        out[col] = value;
        out_bf16[col] = bf16_of(value);
    }
}
