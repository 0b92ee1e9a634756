// The column of the greatest value of each row, the lowest among equals; a NaN is less than everything. Scalar twin:
// src/twin/argmax.rs.
#include "rank.cuh"

struct ArgmaxArgs {
    const float *x;  // (n_rows, stride)
    u32 *out;        // (n_rows)
    u32 width, stride;
};

// A block for each row.
KERNEL(argmax, 1024, ArgmaxArgs) {
    __shared__ u64 of_warps[32];
    const float *x = args.x + u64(block_x()) * args.stride;
    u64 best = 0;
#pragma unroll 4
    for (u32 col = thread_idx(); col < args.width; col += n_threads()) {
        const u64 rank = rank_of(x[col], col);
        best = rank > best ? rank : best;
    }
    best = warp_greatest(best);
    if (lane_idx() == 0) of_warps[warp_idx()] = best;
    sync_threads();
    if (warp_idx() > 0) return;
    best = warp_greatest(lane_idx() < n_threads() / 32 ? of_warps[lane_idx()] : 0);
    if (lane_idx() == 0) args.out[block_x()] = ~u32(best);
}
