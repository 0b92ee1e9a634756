// Attention of prompts: a block takes up to 64 queries of one sequence that read the same head, 16 for each of its four
// warps, which walk through the pages on their own; what one of them loads, the others find in the cache. Spans are
// merged as they end, in shared memory. The bits are those of attend_span.cu. For numbers of 16 bits only.
#include "attention.cu"

const u32 TILE_THREADS = 128;

// Sums of two rows: of a span, or of all spans so far.
struct Sums {
    float greatest[2] = {no_score(), no_score()}, sum[2] = {0.0f, 0.0f};
};

// Adds one page to a span: means[i] are of dimensions 8 i..8 i + 8, in a fragment's order.
template <class Kv, u32 MAX_TILES>
INLINE void add_page(const AttendArgs &args, const U32x4 *queries, u32 slot, u32 page, u32 kv_head, const Seen seen[2],
                     u32 end, Sums &sums, float means[MAX_TILES][4]) {
    const u32 n_dims = padded_dims(args.head_dim), n_tiles = n_dims / 8, g = lane_idx() / 4, t = lane_idx() % 4;
    const u32 first_key = page * PAGE_KEYS;
    const u64 start = page_start(args, slot, page, kv_head);
    const u16 *keys = static_cast<const u16 *>(args.keys) + start;
    float scores[2][4][4], greatest[2], of_page[2], factors[2];
    U32x4 weights[4];
    multiply_keys<Kv>(scores, queries, keys, n_dims / 16);
    score(args, scores, first_key, seen, greatest);
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        const float now = max_of(sums.greatest[row], greatest[row]);
        factors[row] = factor_of(sums.greatest[row], now);
        sums.greatest[row] = now;
    }
    weigh<Kv>(scores, sums.greatest, weights, of_page);
#pragma unroll
    for (u32 row = 0; row < 2; row++) sums.sum[row] = fma(sums.sum[row], factors[row], of_page[row]);
#pragma unroll
    for (u32 i = 0; i < 4 * MAX_TILES; i++) means[i / 4][i % 4] *= factors[i / 2 % 2];
    const U32x4 *units = static_cast<const U32x4 *>(args.values) + start / 8 + t * n_dims + g;
#pragma unroll
    for (u32 b = 0; b < 2; b++) {
#pragma unroll
        for (u32 tile = 0; tile < MAX_TILES; tile++) {
            if (tile >= n_tiles) break;
            const U32x4 values = load_values<Kv>(units + b * 4 * n_dims + tile * 8, first_key + b * 32 + t * 8, end);
            Kv::multiply(means[tile], weights[b * 2], values.x, values.y);
            Kv::multiply(means[tile], weights[b * 2 + 1], values.z, values.w);
        }
    }
}

// Adds a span to those before it: totals[i * TILE_THREADS] is this thread's i-th number.
template <u32 MAX_TILES>
INLINE void add_span(const Sums &span, const float means[MAX_TILES][4], u32 n_tiles, bool is_first, Sums &sums,
                     float *totals) {
    float old[2], now[2];
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        const float greatest = max_of(sums.greatest[row], span.greatest[row]);
        old[row] = factor_of(sums.greatest[row], greatest), now[row] = factor_of(span.greatest[row], greatest);
        sums.sum[row] = fma(sums.sum[row], old[row], span.sum[row] * now[row]);
        sums.greatest[row] = greatest;
    }
#pragma unroll
    for (u32 i = 0; i < 4 * MAX_TILES; i++) {
        if (i / 4 >= n_tiles) break;
        float &total = totals[i * TILE_THREADS];
        total = fma(is_first ? 0.0f : total, old[i / 2 % 2], means[i / 4][i % 4] * now[i / 2 % 2]);
    }
}

// Block (tile, head of keys and values). MAX_TILES: eighths of the longest head that it takes.
template <class Kv, u32 MAX_TILES>
INLINE void attend_tile(const AttendArgs &args) {
    DYNAMIC_SHARED(U32x4, memory);
    const u32 n_dims = padded_dims(args.head_dim), n_steps = n_dims / 16, n_tiles = n_dims / 8;
    U32x4 *queries = memory + warp_idx() * n_steps * 32;
    float *totals = reinterpret_cast<float *>(memory + TILE_THREADS / 32 * n_steps * 32) + thread_idx();
    const u32 group = args.n_heads / args.n_kv_heads, kv_head = block_y(), g = lane_idx() / 4, t = lane_idx() % 4;
    const u32 first_row = args.tiles[block_x() * 2];
    if (first_row >= args.n_rows) return;
    const u32 n_rows = min_of(args.tiles[block_x() * 2 + 1], args.n_rows - first_row);
    // Query 16 warp + i is head (16 warp + i) % group of row (16 warp + i) / group.
    const u32 first_query = warp_idx() * 16, n_queries = n_rows * group;
    if (first_query >= n_queries) return;
    const u32 slot = args.slots[first_row], last_query = min_of(first_query + 16, n_queries) - 1;
    const Seen first_seen = seen_by(args, first_row + first_query / group);
    const Seen last_seen = seen_by(args, first_row + last_query / group);
    if (first_seen.end == 0 || last_seen.end == 0) return;

    Seen seen[2] = {};
    const float *q[2] = {};
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 query = first_query + g + half * 8, row = first_row + query / group;
        if (query >= n_queries) continue;
        seen[half] = seen_by(args, row);
        q[half] = args.q + u64(row) * args.q_stride + (kv_head * group + query % group) * args.head_dim;
    }
    for (u32 step = 0; step < n_steps; step++)
        queries[step * 32 + lane_idx()] = query_fragment<Kv>(q[0], q[1], step, n_steps, args.head_dim);
    sync_warp();

    Sums sums;
    const u32 first_page = first_seen.first / PAGE_KEYS, end_page = (last_seen.end + PAGE_KEYS - 1) / PAGE_KEYS;
    for (u32 span = first_page / SPAN_PAGES; span * SPAN_PAGES < end_page; span++) {
        Sums of_span;
        float means[MAX_TILES][4];
#pragma unroll
        for (u32 i = 0; i < 4 * MAX_TILES; i++) means[i / 4][i % 4] = 0.0f;
        const u32 end = min_of((span + 1) * SPAN_PAGES, end_page);
        for (u32 page = max_of(span * SPAN_PAGES, first_page); page < end; page++)
            add_page<Kv, MAX_TILES>(args, queries, slot, page, kv_head, seen, last_seen.end, of_span, means);
        add_span<MAX_TILES>(of_span, means, n_tiles, span == first_page / SPAN_PAGES, sums, totals);
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 query = first_query + g + half * 8, row = first_row + query / group;
        if (query >= n_queries) continue;
        const u32 col = (kv_head * group + query % group) * args.head_dim;
        float *out = args.out + u64(row) * args.out_stride + col;
        u16 *out_bf16 = args.out_bf16 + u64(row) * args.out_bf16_stride + col;
        const float inverse = 1.0f / sums.sum[half];
        for (u32 idx = 0; idx < n_tiles * 2; idx++) {
            const u32 dim = idx / 2 * 8 + t * 2 + idx % 2;
            const float value = totals[(idx / 2 * 4 + half * 2 + idx % 2) * TILE_THREADS] * inverse;
            if (dim < args.head_dim) out[dim] = value, out_bf16[dim] = bf16_of(value);
        }
    }
}

KERNEL_RESIDENT(attend_tile_f16_128, TILE_THREADS, 2, AttendArgs) { attend_tile<KvF16, 16>(args); }
KERNEL(attend_tile_f16_256, TILE_THREADS, AttendArgs) { attend_tile<KvF16, 32>(args); }
KERNEL_RESIDENT(attend_tile_bf16_128, TILE_THREADS, 2, AttendArgs) { attend_tile<KvBf16, 16>(args); }
KERNEL(attend_tile_bf16_256, TILE_THREADS, AttendArgs) { attend_tile<KvBf16, 32>(args); }
