// What experts made of the rows that were sent to them, back to the rows. Scalar twin: src/twin/experts.rs.
#include "primitives.cuh"

struct CombineArgs {
    const float *x;        // (n_entries, x_stride): outputs, by expert and then by row
    const u32 *rows;       // (n_entries): the row of each
    const float *weights;  // (n_entries)
    float *out;            // (n_rows, out_stride)
    u32 n_entries, top_k, width, x_stride, out_stride, padding;
};

constexpr u32 MAX_TOP_K = 64;

// Block x: row. Its entries in their order, which is that of the experts: product and sum rounded each.
KERNEL(combine_experts, 256, CombineArgs) {
    __shared__ u32 entries[MAX_TOP_K];
    if (warp_idx() == 0) {
        u32 n_found = 0;
        for (u32 begin = 0; begin < args.n_entries && n_found < args.top_k; begin += 32) {
            const u32 entry = begin + lane_idx();
            const bool is_ours = entry < args.n_entries && args.rows[entry] == block_x();
            const u32 all = ballot(is_ours), at = n_found + count_ones(all & ((1u << lane_idx()) - 1));
            if (is_ours && at < args.top_k) entries[at] = entry;
            n_found += count_ones(all);
        }
    }
    sync_threads();
    for (u32 col = thread_idx(); col < args.width; col += n_threads()) {
        float sum = 0.0f;
        for (u32 i = 0; i < args.top_k; i++) {
            const float product = args.weights[entries[i]] * args.x[u64(entries[i]) * args.x_stride + col];
            sum += product;
        }
        args.out[u64(block_x()) * args.out_stride + col] = sum;
    }
}
