// Attention of single steps: spans of 256 positions side by side, then their merge. A block has four warps. Each takes
// the scores of one page; then each takes a quarter of the dimensions over all pages. So keys and values are read once
// for all queries that share them, by blocks enough to fill a GPU with one long sequence.
#include "attention.cu"

const u32 SPAN_WARPS = 4;  // as many as pages
const u32 MERGE_THREADS = 128;

// Dynamic shared memory of attend_span.
template <class Kv>
struct SpanShared {
    typename Kv::Pairs4 *queries;  // (n_steps, 32)
    typename Kv::Pairs4 *weights;  // (16, 32): fragments of the steps of all pages
    float *greatest;               // (4, 16): of a page and row
    float *sums;                   // (4, 16)
};

INLINE u64 partial_idx(const AttendArgs &args, u32 row, u32 head, u32 span) {
    return (u64(row) * args.n_heads + head) * args.n_spans + span;
}

// Scores and weights of the page of this warp, into shared memory.
template <class Kv>
INLINE void weigh_span(const AttendArgs &args, const SpanShared<Kv> &shared, const Seen &row_sees, u32 span,
                       u32 kv_head) {
    typedef typename Kv::Number Number;
    const u32 page = span * SPAN_PAGES + warp_idx(), first_key = page * PAGE_KEYS, g = lane_idx() / 4;
    const bool is_seen = first_key < row_sees.end && first_key + PAGE_KEYS > row_sees.first;
    const Seen seen[2] = {row_sees, row_sees};
    float scores[2][4][4], greatest[2] = {no_score(), no_score()};
    if (is_seen) {
        const u64 start = page_start(args, row_sees.slot, page, kv_head);
        // Values are on their way while scores are computed: 128 bytes are a line.
        const u32 n_dims = padded_dims(args.head_dim), line_len = 128 / sizeof(Number);
        const Number *keys = static_cast<const Number *>(args.keys) + start;
        const Number *values = static_cast<const Number *>(args.values) + start;
        for (u32 i = lane_idx() * line_len; i < n_dims * PAGE_KEYS; i += 32 * line_len) prefetch(values + i);
        multiply_keys<Kv>(scores, shared.queries, keys, n_dims / 16);
        score(args, scores, first_key, seen, greatest);
    }
    if (lane_idx() % 4 == 0) {
        shared.greatest[warp_idx() * 16 + g] = greatest[0];
        shared.greatest[warp_idx() * 16 + g + 8] = greatest[1];
    }
    sync_threads();
    for (u32 before = 0; before < warp_idx(); before++) {
        greatest[0] = max_of(greatest[0], shared.greatest[before * 16 + g]);
        greatest[1] = max_of(greatest[1], shared.greatest[before * 16 + g + 8]);
    }
    if (is_seen) {
        typename Kv::Pairs4 fragments[4];
        float sums[2];
        weigh<Kv>(scores, greatest, fragments, sums);
#pragma unroll
        for (u32 step = 0; step < 4; step++)
            shared.weights[(warp_idx() * 4 + step) * 32 + lane_idx()] = fragments[step];
        if (lane_idx() % 4 == 0) {
            shared.sums[warp_idx() * 16 + g] = sums[0];
            shared.sums[warp_idx() * 16 + g + 8] = sums[1];
        }
    }
    sync_threads();
}

// Block (row, head of keys and 16 of the query heads that read it, span).
template <class Kv>
INLINE void attend_span(const AttendArgs &args) {
    typedef typename Kv::Pairs4 Unit;
    DYNAMIC_SHARED(Unit, memory);
    const u32 n_dims = padded_dims(args.head_dim), n_steps = n_dims / 16, n_tiles = n_dims / 8;
    float *floats = reinterpret_cast<float *>(memory + (n_steps + 16) * 32);
    const SpanShared<Kv> shared = {memory, memory + n_steps * 32, floats, floats + 64};
    const u32 group = args.n_heads / args.n_kv_heads, n_parts = (group + 15) / 16, row = block_x(), span = block_z();
    const u32 kv_head = block_y() / n_parts, first = block_y() % n_parts * 16, n_heads = min_of(16, group - first);
    const u32 first_head = kv_head * group + first, g = lane_idx() / 4, t = lane_idx() % 4;
    const Seen seen = seen_by(args, row);
    if (span * SPAN_KEYS >= seen.end || (span + 1) * SPAN_KEYS <= seen.first) return;

    const float *q = args.q + u64(row) * args.q_stride + first_head * args.head_dim;
    const float *low = g < n_heads ? q + g * args.head_dim : nullptr;
    const float *high = g + 8 < n_heads ? q + (g + 8) * args.head_dim : nullptr;
    for (u32 step = warp_idx(); step < n_steps; step += SPAN_WARPS)
        shared.queries[step * 32 + lane_idx()] = query_fragment<Kv>(low, high, step, n_steps, args.head_dim);
    sync_threads();
    weigh_span<Kv>(args, shared, seen, span, kv_head);

    const Unit *pages[SPAN_PAGES];
    float factors[SPAN_PAGES][2], greatest[2] = {no_score(), no_score()}, sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 idx = 0; idx < SPAN_PAGES; idx++) {
        const u32 page = span * SPAN_PAGES + idx;
        const bool is_seen = page * PAGE_KEYS < seen.end && (page + 1) * PAGE_KEYS > seen.first;
        pages[idx] = is_seen ? static_cast<const Unit *>(args.values) + page_start(args, seen.slot, page, kv_head) / 8
                             : nullptr;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const float now = max_of(greatest[half], shared.greatest[idx * 16 + g + half * 8]);
            factors[idx][half] = factor_of(greatest[half], now);
            if (is_seen) sums[half] = fma(sums[half], factors[idx][half], shared.sums[idx * 16 + g + half * 8]);
            greatest[half] = now;
        }
    }
    const u64 partials[2] = {partial_idx(args, row, first_head + g, span),
                             partial_idx(args, row, first_head + g + 8, span)};
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (warp_idx() == 0 && t == 0 && g + half * 8 < n_heads)
            args.stats[partials[half] * 2] = greatest[half], args.stats[partials[half] * 2 + 1] = sums[half];
    }
    // Four tiles of 8 dimensions at a time, so that loads are in flight.
    for (u32 first_tile = warp_idx(); first_tile < n_tiles; first_tile += 4 * SPAN_WARPS) {
        float means[4][4] = {};
#pragma unroll
        for (u32 idx = 0; idx < SPAN_PAGES; idx++) {
            if (!pages[idx]) continue;
            const u32 first_key = (span * SPAN_PAGES + idx) * PAGE_KEYS;
            Unit values[2][4];
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 unit = i / 4 * 4 + t, tile = min_of(first_tile + i % 4 * SPAN_WARPS, n_tiles - 1);
                const Unit *units = pages[idx] + unit * n_dims + tile * 8 + g;
                values[i / 4][i % 4] = load_values<Kv>(units, first_key + unit * 8, seen.end);
            }
#pragma unroll
            for (u32 i = 0; i < 16; i++) means[i / 4][i % 4] *= factors[idx][i / 2 % 2];
#pragma unroll
            for (u32 b = 0; b < 2; b++) {
                const Unit *weights = shared.weights + (idx * 4 + b * 2) * 32 + lane_idx();
                const Unit low_keys = weights[0], high_keys = weights[32];
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    Kv::multiply(means[i], low_keys, values[b][i].x, values[b][i].y);
                    Kv::multiply(means[i], high_keys, values[b][i].z, values[b][i].w);
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 tile = first_tile + i / 2 * SPAN_WARPS, half = i % 2;
            if (tile < n_tiles && g + half * 8 < n_heads)
                *reinterpret_cast<F32x2 *>(args.means + partials[half] * n_dims + tile * 8 + t * 2) =
                    {means[i / 2][half * 2], means[i / 2][half * 2 + 1]};
        }
    }
}

KERNEL(attend_span_f16, 128, AttendArgs) { attend_span<KvF16>(args); }
KERNEL(attend_span_bf16, 128, AttendArgs) { attend_span<KvBf16>(args); }
KERNEL(attend_span_f32, 128, AttendArgs) { attend_span<KvF32>(args); }

// Block (row, query head): spans in ascending order, up to 128 at a time. Threads first find each span's factors, then
// each takes dimensions.
KERNEL(attend_merge, MERGE_THREADS, AttendArgs) {
    __shared__ float all_greatest[MERGE_THREADS], all_sums[MERGE_THREADS];
    __shared__ F32x2 factors[MERGE_THREADS];  // of what is merged so far, of the span
    const u32 row = block_x(), head = block_y(), n_dims = padded_dims(args.head_dim);
    const Seen seen = seen_by(args, row);
    const u32 end_span = min_of((seen.end + SPAN_KEYS - 1) / SPAN_KEYS, args.n_spans);
    float greatest = no_score(), sum = 0.0f, means[4] = {};
    for (u32 first = seen.first / SPAN_KEYS; first < end_span; first += MERGE_THREADS) {
        const u32 n = min_of(MERGE_THREADS, end_span - first);
        const u64 partial = partial_idx(args, row, head, first);
        sync_threads();
        if (thread_idx() < n) {
            all_greatest[thread_idx()] = args.stats[(partial + thread_idx()) * 2];
            all_sums[thread_idx()] = args.stats[(partial + thread_idx()) * 2 + 1];
        }
        sync_threads();
        float before = greatest;
        for (u32 idx = 0; idx < min_of(thread_idx(), n); idx++) before = max_of(before, all_greatest[idx]);
        if (thread_idx() < n) {
            const float own = all_greatest[thread_idx()], now = max_of(before, own);
            factors[thread_idx()] = {factor_of(before, now), factor_of(own, now)};
        }
        sync_threads();
        const float *from = args.means + partial * n_dims;
#pragma unroll 4
        for (u32 idx = 0; idx < n; idx++) {
            const F32x2 factor = factors[idx];
            greatest = max_of(greatest, all_greatest[idx]);
            sum = fma(sum, factor.x, all_sums[idx] * factor.y);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 dim = thread_idx() + i * MERGE_THREADS;
                if (dim < n_dims) means[i] = fma(means[i], factor.x, from[idx * n_dims + dim] * factor.y);
            }
        }
    }
    if (seen.end == 0) return;
    const float inverse = 1.0f / sum;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 dim = thread_idx() + i * MERGE_THREADS;
        if (dim >= args.head_dim) break;
        const u32 col = head * args.head_dim + dim;
        args.out[u64(row) * args.out_stride + col] = means[i] * inverse;
        args.out_bf16[u64(row) * args.out_bf16_stride + col] = bf16_of(means[i] * inverse);
    }
}
