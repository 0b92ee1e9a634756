// Attention over the pages of kv_cache.cu: what its two kernels share. Scalar twin, and the definition in words:
// src/twin/attention.rs. Next in the flow: attend_span.cu, for single steps, and attend_tile.cu, for prompts.
//
// There is one arithmetic. Up to 16 queries that read the same head are the rows of products of fragments; a row's
// result does not depend on the others, nor on where it stands. So both kernels give the same bits for a query, and
// the one that is faster may be taken.
#pragma once
#include "kv_cache.cu"
#include "math.cuh"

const u32 SPAN_PAGES = 4;
const u32 SPAN_KEYS = SPAN_PAGES * PAGE_KEYS;

struct AttendArgs {
    const float *q;          // (n_rows, q_stride)
    const u32 *slots;        // (n_rows)
    const u32 *positions;    // (n_rows)
    const u32 *block_table;  // (n_slots, max_pages)
    const void *keys;        // (n_pages, n_kv_heads, page)
    const void *values;      // (n_pages, n_kv_heads, page)
    float *means;            // (n_rows, n_heads, n_spans, padded head_dim): spans' results, for attend_merge
    float *stats;            // (n_rows, n_heads, n_spans, 2): their greatest score and sum of weights
    const u32 *tiles;        // (n_tiles, 2): first row and rows, of one slot, for attend_tile
    float *out;              // (n_rows, out_stride)
    u16 *out_bf16;           // (n_rows, out_bf16_stride)
    u32 q_stride, out_stride, out_bf16_stride;
    u32 n_rows, n_heads, n_kv_heads, head_dim, n_slots, max_pages, n_pages, n_spans;
    u32 window;              // positions that a query sees, its own among them
    float scale, softcap;    // no softcap: 0
};

INLINE float no_score() { return float_of(0xff800000u); }

// Keys first..end are what a row sees; none where it has no place.
struct Seen {
    u32 slot, first, end;
};

INLINE Seen seen_by(const AttendArgs &args, u32 row) {
    const u32 slot = args.slots[row], position = args.positions[row];
    if (slot >= args.n_slots || position / PAGE_KEYS >= args.max_pages) return {0, 0, 0};
    return {slot, position < args.window ? 0 : position + 1 - args.window, position + 1};
}

// Where a head's keys and values of a page begin, in numbers.
INLINE u64 page_start(const AttendArgs &args, u32 slot, u32 page_idx, u32 kv_head) {
    const u32 page = min_of(args.block_table[u64(slot) * args.max_pages + page_idx], args.n_pages - 1);
    return (u64(page) * args.n_kv_heads + kv_head) * (padded_dims(args.head_dim) * PAGE_KEYS);
}

// First dimension of the four that lane 4 g + t gives to a step of 16: two steps share units of 8 dimensions, the last
// step of an odd number takes halves of units.
INLINE u32 first_dim(u32 step, u32 n_steps) {
    const u32 t = lane_idx() % 4;
    return (step | 1) < n_steps ? step / 2 * 32 + 8 * t + step % 2 * 4 : step * 16 + 4 * t;
}

// Rows g and g + 8 of a fragment for one step; a row that is null is zeros.
template <class Kv>
INLINE typename Kv::Pairs4 query_fragment(const float *low, const float *high, u32 step, u32 n_steps, u32 head_dim) {
    const u32 dim = first_dim(step, n_steps);
    const auto pair = [&](const float *row, u32 dim) {
        const auto at = [&](u32 dim) { return row && dim < head_dim ? Kv::of(row[dim]) : typename Kv::Number(0); };
        return Kv::pair(at(dim), at(dim + 1));
    };
    return {pair(low, dim), pair(high, dim), pair(low, dim + 2), pair(high, dim + 2)};
}

// Products of 16 queries with the 64 keys of a page: lane 4 g + t has those of rows g, g, g + 8, g + 8 with keys
// 32 b + 8 t + 2 j + {0, 1, 0, 1} in products[b][j].
template <class Kv>
INLINE void multiply_keys(float products[2][4][4], const typename Kv::Pairs4 *queries, const typename Kv::Number *page,
                          u32 n_steps) {
    typedef typename Kv::Pairs4 Unit;
    typedef typename Kv::Pairs2 HalfUnit;
    const u32 g = lane_idx() / 4, t = lane_idx() % 4;
#pragma unroll
    for (u32 i = 0; i < 32; i++) products[i / 16][i / 4 % 4][i % 4] = 0.0f;
    for (u32 step = 0; step + 1 < n_steps; step += 2) {
        const Unit *units = reinterpret_cast<const Unit *>(page) + (step * 2 + t) * PAGE_KEYS + g;
        Unit keys[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) keys[j] = units[j * 8];
        const Unit first = queries[step * 32 + lane_idx()], second = queries[(step + 1) * 32 + lane_idx()];
#pragma unroll
        for (u32 j = 0; j < 8; j++) Kv::multiply(products[j / 4][j % 4], first, keys[j].x, keys[j].y);
#pragma unroll
        for (u32 j = 0; j < 8; j++) Kv::multiply(products[j / 4][j % 4], second, keys[j].z, keys[j].w);
    }
    if (n_steps % 2 == 1) {
        const u32 step = n_steps - 1;
        const u32 unit = (step * 2 + t / 2) * PAGE_KEYS + g;
        const HalfUnit *halves = reinterpret_cast<const HalfUnit *>(page) + unit * 2 + t % 2;
        const Unit query = queries[step * 32 + lane_idx()];
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            const HalfUnit keys = halves[j * 16];
            Kv::multiply(products[j / 4][j % 4], query, keys.x, keys.y);
        }
    }
}

// The key of products[b][j][i] within its page.
INLINE u32 key_of(u32 b, u32 j, u32 i) { return 32 * b + 8 * (lane_idx() % 4) + 2 * j + i % 2; }

// Products become scores, those with keys that rows g and g + 8 do not see -infinity; and the greatest of each row's. A
// NaN is not greater than anything.
INLINE void score(const AttendArgs &args, float products[2][4][4], u32 first_key, const Seen seen[2],
                  float greatest[2]) {
#pragma unroll
    for (u32 i = 0; i < 32; i++) products[i / 16][i / 4 % 4][i % 4] *= args.scale;
    if (args.softcap > 0.0f) {
#pragma unroll
        for (u32 i = 0; i < 32; i++) {
            float &value = products[i / 16][i / 4 % 4][i % 4];
            value = args.softcap * tanh_of(value / args.softcap);
        }
    }
    const u32 first = max_of(seen[0].first, seen[1].first), end = min_of(seen[0].end, seen[1].end);
    if (first_key < first || first_key + PAGE_KEYS > end) {
#pragma unroll
        for (u32 idx = 0; idx < 32; idx++) {
            const u32 b = idx / 16, j = idx / 4 % 4, i = idx % 4, key = first_key + key_of(b, j, i);
            if (key < seen[i / 2].first || key >= seen[i / 2].end) products[b][j][i] = no_score();
        }
    }
    greatest[0] = greatest[1] = no_score();
#pragma unroll
    for (u32 i = 0; i < 32; i++)
        greatest[i / 2 % 2] = max_of(products[i / 16][i / 4 % 4][i % 4], greatest[i / 2 % 2]);
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        greatest[row] = max_of(greatest[row], shuffle_xor(greatest[row], 1));
        greatest[row] = max_of(greatest[row], shuffle_xor(greatest[row], 2));
    }
}

// What earlier sums are multiplied with when the greatest score becomes `now`.
INLINE float factor_of(float before, float now) { return before == now ? 1.0f : softmax_exp(before - now); }

// Weights of a page's keys, rounded, as the left fragments of four steps of 16 keys; and the sums of the rounded.
template <class Kv>
INLINE void weigh(const float scores[2][4][4], const float greatest[2], typename Kv::Pairs4 fragments[4],
                  float sums[2]) {
    // Where nothing is seen yet every weight is 0, and not e^(-infinity + infinity).
    const float base[2] = {greatest[0] == no_score() ? 0.0f : greatest[0],
                           greatest[1] == no_score() ? 0.0f : greatest[1]};
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (u32 step = 0; step < 4; step++) {
        typename Kv::Pair pairs[4];
#pragma unroll
        for (u32 word = 0; word < 4; word++) {
            const u32 b = step / 2, j = step % 2 * 2 + word / 2, row = word % 2;
            const auto even = Kv::of(softmax_exp(scores[b][j][row * 2] - base[row]));
            const auto odd = Kv::of(softmax_exp(scores[b][j][row * 2 + 1] - base[row]));
            sums[row] += Kv::wide(even);
            sums[row] += Kv::wide(odd);
            pairs[word] = Kv::pair(even, odd);
        }
        fragments[step] = {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        sums[row] += shuffle_xor(sums[row], 1);
        sums[row] += shuffle_xor(sums[row], 2);
    }
}

// Eight values of one dimension; those from key `end` on are what memory held before, and become 0.
template <class Kv>
INLINE typename Kv::Pairs4 load_values(const typename Kv::Pairs4 *unit, u32 first_key, u32 end) {
    typename Kv::Pairs4 out = *unit;
    if (first_key + 8 <= end) return out;
    const u32 n = first_key < end ? end - first_key : 0;
    const auto keep = [n](typename Kv::Pair pair, u32 first) {
        return n > first + 1 ? pair : n > first ? Kv::only_low(pair) : typename Kv::Pair{};
    };
    out.x = keep(out.x, 0), out.y = keep(out.y, 2), out.z = keep(out.z, 4), out.w = keep(out.w, 6);
    return out;
}
