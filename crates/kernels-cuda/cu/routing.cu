// Which experts a token is sent to: choose, then sort by expert; and the sum of what experts give back. Scalar twin:
// src/twin/routing.rs.
#include "math.cuh"
#include "rank.cuh"

struct ChooseArgs {
    const float *logits;  // (n_rows, stride)
    u32 *chosen;          // (n_rows, top_k): experts, largest logit first
    float *weights;       // (n_rows, top_k)
    u32 n_rows, n_experts, stride, top_k, norm_top_k, padding;
};

struct SortArgs {
    const u32 *chosen;           // (n_rows, top_k)
    const float *weights;        // (n_rows, top_k)
    u32 *starts;                 // (n_experts + 1): where an expert's rows begin
    u32 *sorted_rows;            // (n_rows * top_k): by expert, then ascending
    float *sorted_weights;       // (n_rows * top_k)
    u32 *places;                 // (n_rows, top_k): where a row stands there, by expert ascending
    u32 n_rows, n_experts, top_k, padding;
};

struct CombineArgs {
    const float *x;        // (n_rows * top_k, x_stride): what experts give, in sorted order
    const u32 *places;     // (n_rows, top_k)
    const float *weights;  // (n_rows * top_k): sorted
    float *out;            // (n_rows, out_stride)
    u16 *out_bf16;         // (n_rows, out_bf16_stride)
    u32 x_stride, out_stride, out_bf16_stride, width, top_k, n_sorted;
};

// A warp for each row. Each choice is the greatest below the one before, so that nothing needs marking.
KERNEL(choose_experts, 128, ChooseArgs) {
    const u32 row = block_x() * (n_threads() / 32) + warp_idx();
    if (row >= args.n_rows) return;
    const float *logits = args.logits + u64(row) * args.stride;
    u32 *chosen = args.chosen + u64(row) * args.top_k;
    float *weights = args.weights + u64(row) * args.top_k;
    u64 before = ~u64(0);
    float greatest = 0.0f, total = 0.0f;
    for (u32 k = 0; k < args.top_k; k++) {
        u64 best = 0;
        for (u32 expert = lane_idx(); expert < args.n_experts; expert += 32) {
            const u64 rank = rank_of(logits[expert], expert);
            if (rank < before && rank > best) best = rank;
        }
        before = warp_greatest(best);
        const u32 expert = ~u32(before);
        if (k == 0) greatest = logits[expert];
        const float weight = exp_of(logits[expert] - greatest);
        if (args.norm_top_k) total += weight;
        if (lane_idx() == 0) chosen[k] = expert, weights[k] = weight;
    }
    if (!args.norm_top_k) {
        for (u32 expert = lane_idx(); expert < args.n_experts; expert += 32) total += exp_of(logits[expert] - greatest);
        total = warp_sum(total);
    }
    if (lane_idx() == 0)
        for (u32 k = 0; k < args.top_k; k++) weights[k] = weights[k] / total;
}

// A block for each expert, which counts all choices of lower experts and lists its own in ascending order of rows.
KERNEL(sort_by_expert, 256, SortArgs) {
    __shared__ u32 counts[2][8];
    const u32 expert = block_x(), n = args.n_rows * args.top_k, n_warps = n_threads() / 32;
    u32 n_lower = 0;
    for (u32 idx = thread_idx(); idx < n; idx += n_threads()) n_lower += args.chosen[idx] < expert;
    for (u32 mask = 16; mask > 0; mask >>= 1) n_lower += shuffle_xor(n_lower, mask);
    if (lane_idx() == 0) counts[0][warp_idx()] = n_lower;
    sync_threads();
    u32 next = 0;
    for (u32 warp = 0; warp < n_warps; warp++) next += counts[0][warp];
    if (thread_idx() == 0) {
        args.starts[expert] = next;
        if (expert + 1 == args.n_experts) args.starts[args.n_experts] = n;
    }
    for (u32 first = 0, turn = 1; first < n; first += n_threads(), turn ^= 1) {
        const u32 idx = first + thread_idx();
        const bool is_mine = idx < n && args.chosen[idx] == expert;
        const u32 mine = ballot(is_mine);
        if (lane_idx() == 0) counts[turn][warp_idx()] = count_ones(mine);
        sync_threads();
        u32 place = next + count_ones(mine & ((1u << lane_idx()) - 1));
        for (u32 warp = 0; warp < n_warps; warp++) {
            if (warp < warp_idx()) place += counts[turn][warp];
            next += counts[turn][warp];
        }
        if (!is_mine) continue;
        const u32 row = idx / args.top_k;
        u32 n_before = 0;
        for (u32 k = 0; k < args.top_k; k++) n_before += args.chosen[u64(row) * args.top_k + k] < expert;
        args.sorted_rows[place] = row;
        args.sorted_weights[place] = args.weights[idx];
        args.places[u64(row) * args.top_k + n_before] = place;
    }
}

// Block (row, 256 columns): from 0, experts in ascending order, product and sum rounded each.
KERNEL(combine_experts, 256, CombineArgs) {
    const u32 row = block_x(), col = block_y() * n_threads() + thread_idx();
    if (col >= args.width) return;
    float sum = 0.0f;
    for (u32 k = 0; k < args.top_k; k++) {
        const u32 place = min_of(args.places[u64(row) * args.top_k + k], args.n_sorted - 1);
        sum += args.weights[place] * args.x[u64(place) * args.x_stride + col];
    }
    args.out[u64(row) * args.out_stride + col] = sum;
    args.out_bf16[u64(row) * args.out_bf16_stride + col] = bf16_of(sum);
}
