// Element by element: scale, add, softcap, zero, gate, gather, scatter_add. Scalar twin: src/twin/pointwise.rs.
#include "math.cuh"
#include "quad.cuh"

struct PointwiseArgs {
    const float *x;        // (x_rows, x_stride)
    float *out;            // (out_rows, out_stride)
    u16 *out_bf16;         // (out_rows, out_bf16_stride), rounded; rows begin at multiples of 8 bytes
    const u32 *rows;       // (n_rows): of x for gather, of out for scatter_add
    const float *weights;  // (n_rows), for scatter_add
    u32 width, x_stride, out_stride, out_bf16_stride;
    u32 x_rows, out_rows;  // what `rows` must be below; a row beyond is left out
    float factor;          // of scale; the cap of softcap
    u32 padding;
};

// Block (row, chunk of 4 columns a thread). out[col] = f(a[col], b[col]); a row that is null counts as zeros.
template <class F>
INLINE void for_columns(const PointwiseArgs &args, u32 out_row, const float *a, const float *b, F f) {
    const u32 col = (block_y() * n_threads() + thread_idx()) * 4;
    if (col >= args.width) return;
    float *out = args.out + u64(out_row) * args.out_stride;
    u16 *out_bf16 = args.out_bf16 + u64(out_row) * args.out_bf16_stride;
    const u32 count = min_of(4, args.width - col);
    F32x4 from_a = {}, from_b = {};
    if (a) from_a = load_quad(a, col, count);
    if (b) from_b = load_quad(b, col, count);
    store_quad(out, out_bf16, col, count,
               {f(from_a.x, from_b.x), f(from_a.y, from_b.y), f(from_a.z, from_b.z), f(from_a.w, from_b.w)});
}

INLINE float *row_of_out(const PointwiseArgs &args, u32 row) { return args.out + u64(row) * args.out_stride; }
INLINE const float *row_of_x(const PointwiseArgs &args, u32 row) { return args.x + u64(row) * args.x_stride; }

KERNEL(scale, 256, PointwiseArgs) {
    for_columns(args, block_x(), row_of_out(args, block_x()), nullptr,
                [&](float out, float) { return out * args.factor; });
}

KERNEL(add, 256, PointwiseArgs) {
    for_columns(args, block_x(), row_of_out(args, block_x()), row_of_x(args, block_x()),
                [](float out, float x) { return out + x; });
}

KERNEL(softcap, 256, PointwiseArgs) {
    for_columns(args, block_x(), row_of_out(args, block_x()), nullptr,
                [&](float out, float) { return args.factor * tanh_of(out / args.factor); });
}

KERNEL(zero, 256, PointwiseArgs) {
    for_columns(args, block_x(), nullptr, nullptr, [](float, float) { return 0.0f; });
}

// Rows of x are gate | up, of `width` columns each.
template <class F>
INLINE void gate(const PointwiseArgs &args, F activation) {
    const float *x = row_of_x(args, block_x());
    for_columns(args, block_x(), x, x + args.width, [&](float gate, float up) { return activation(gate) * up; });
}

KERNEL(gate_silu, 256, PointwiseArgs) { gate(args, [](float x) { return silu(x); }); }
KERNEL(gate_gelu_tanh, 256, PointwiseArgs) { gate(args, [](float x) { return gelu_tanh(x); }); }
KERNEL(gate_gelu_erf, 256, PointwiseArgs) { gate(args, [](float x) { return gelu_erf(x); }); }

KERNEL(gather, 256, PointwiseArgs) {
    const u32 row = args.rows[block_x()];
    if (row >= args.x_rows) return;
    for_columns(args, block_x(), row_of_x(args, row), nullptr, [](float x, float) { return x; });
}

KERNEL(scatter_add, 256, PointwiseArgs) {
    const u32 row = args.rows[block_x()];
    if (row >= args.out_rows) return;
    const float weight = args.weights[block_x()];
    for_columns(args, row, row_of_out(args, row), row_of_x(args, block_x()),
                [&](float out, float x) { return out + weight * x; });
}
