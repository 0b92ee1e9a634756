// The column of the greatest value of each row, the lowest among equals; NONE where a value is a NaN or +Inf, or all are
// -Inf: no token can be chosen by such logits. Scalar twin: src/twin/likeliest.rs.
#include "quad.cuh"
#include "rank.cuh"

constexpr u32 NONE = ~0u;

struct LikeliestArgs {
    const float *x;  // (n_rows, stride)
    u32 *out;        // (n_rows)
    u32 width, stride;
};

// A block for each row.
KERNEL(likeliest, 1024, LikeliestArgs) {
    __shared__ u32 is_bad[32];
    __shared__ u64 of_warps[32];
    const float *x = args.x + u64(block_x()) * args.stride;
    u64 best = 0;
    bool is_bad_here = false;
    const auto take = [&](float value, u32 col) {
        is_bad_here |= !(value < float_of(0x7f800000));
        const u64 rank = rank_of(value, col);
        best = rank > best ? rank : best;
    };
    // Four loads of 16 bytes at a time, then what is left, or all of a row that is not aligned.
    const u32 n_whole = is_aligned(x) ? args.width / (n_threads() * 16) * (n_threads() * 16) : 0;
    for (u32 first = thread_idx() * 4; first < n_whole; first += n_threads() * 16) {
        F32x4 quads[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) quads[i] = *reinterpret_cast<const F32x4 *>(x + first + i * n_threads() * 4);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 col = first + i * n_threads() * 4;
            take(quads[i].x, col), take(quads[i].y, col + 1), take(quads[i].z, col + 2), take(quads[i].w, col + 3);
        }
    }
    for (u32 col = n_whole + thread_idx(); col < args.width; col += n_threads()) take(x[col], col);
    best = warp_greatest(best);
    const u32 bad_lanes = ballot(is_bad_here);
    if (lane_idx() == 0) of_warps[warp_idx()] = best, is_bad[warp_idx()] = bad_lanes;
    sync_threads();
    if (warp_idx() > 0) return;
    const bool is_there = lane_idx() < n_threads() / 32;
    best = warp_greatest(is_there ? of_warps[lane_idx()] : 0);
    const u32 bad_warps = ballot(is_there && is_bad[lane_idx()] != 0);
    if (lane_idx() == 0) {
        const u32 col = ~u32(best);
        args.out[block_x()] = bad_warps == 0 && x[col] > float_of(0xff800000) ? col : NONE;
    }
}
