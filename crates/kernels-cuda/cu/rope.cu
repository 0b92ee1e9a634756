// Rotary position embedding, with the halves of a head as the pairs. Scalar twin: src/twin/rope.rs.
#include "primitives.cuh"

struct RopeArgs {
    float *x;               // (n_rows, stride), from the first head's first column on
    u16 *x_bf16;            // (n_rows, bf16_stride)
    const float *table;     // (table_len, 2 * half): cosines, then sines
    const u32 *table_rows;  // (n_rows); a row that the table does not have leaves its heads as they are
    u32 stride, bf16_stride, n_heads, head_dim;
    u32 half, table_len;    // pairs of a head; rows of the table
};

// Block (row, 256 pairs): a pair for each thread, those of a head side by side.
KERNEL(rope, 256, RopeArgs) {
    const u32 idx = block_y() * n_threads() + thread_idx(), table_row = args.table_rows[block_x()];
    if (idx >= args.n_heads * args.half || table_row >= args.table_len) return;
    const u32 head = idx / args.half, pair = idx % args.half;
    const float *angles = args.table + u64(table_row) * (2 * args.half);
    const float cosine = angles[pair], sine = angles[args.half + pair];
    float *x = args.x + u64(block_x()) * args.stride + head * args.head_dim;
    u16 *x_bf16 = args.x_bf16 + u64(block_x()) * args.bf16_stride + head * args.head_dim;
    const float a = x[pair], b = x[args.half + pair];
    const float first = a * cosine - b * sine, second = b * cosine + a * sine;
    x[pair] = first, x[args.half + pair] = second;
    x_bf16[pair] = bf16_of(first), x_bf16[args.half + pair] = bf16_of(second);
}
