// What the vendor's GEMM leaves out.
#include "primitives.cuh"

struct AddBiasArgs {
    const float *bias;  // (width)
    float *out;         // (n_rows, out_stride), from its first column on
    u32 width, out_stride;
};

// Block x: 256 columns; block y: row.
KERNEL(add_bias, 256, AddBiasArgs) {
    const u32 col = block_x() * n_threads() + thread_idx();
    if (col < args.width) args.out[u64(block_y()) * args.out_stride + col] += args.bias[col];
}
