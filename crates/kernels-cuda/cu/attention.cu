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
    const u16 *keys;         // (n_pages, n_kv_heads, page)
    const u16 *values;       // (n_pages, n_kv_heads, page)
    float *means;            // (n_rows, n_heads, n_spans, padded head_dim): spans' results, for attend_merge
    float *stats;            // (n_rows, n_heads, n_spans, 2): their greatest score and sum of weights
    const u32 *tiles;        // (n_tiles, 2): first row and rows, of one slot, for attend_tile
    float *out;              // (n_rows, out_stride)
    u16 *out_bf16;           // (n_rows, out_bf16_stride)
    u32 q_stride, out_stride, out_bf16_stride, n_rows, n_heads, n_kv_heads, head_dim, n_slots, max_pages, n_pages, n_spans;
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
INLINE U32x4 query_fragment(const float *low, const float *high, u32 step, u32 n_steps, u32 head_dim) {
    const u32 dim = first_dim(step, n_steps);
    const auto pair = [&](const float *row, u32 dim) -> u32 {
        const u32 first = row && dim < head_dim ? Kv::of(row[dim]) : 0;
        return first | u32(row && dim + 1 < head_dim ? Kv::of(row[dim + 1]) : 0) << 16;
    };
    return {pair(low, dim), pair(high, dim), pair(low, dim + 2), pair(high, dim + 2)};
}

// Products of 16 queries with the 64 keys of a page: lane 4 g + t has those of rows g, g, g + 8, g + 8 with keys
// 32 b + 8 t + 2 j + {0, 1, 0, 1} in products[b][j].
template <class Kv>
INLINE void multiply_keys(float products[2][4][4], const U32x4 *queries, const u16 *page, u32 n_steps) {
    const u32 g = lane_idx() / 4, t = lane_idx() % 4;
#pragma unroll
    for (u32 i = 0; i < 32; i++) products[i / 16][i / 4 % 4][i % 4] = 0.0f;
    for (u32 step = 0; step + 1 < n_steps; step += 2) {
        const U32x4 *units = reinterpret_cast<const U32x4 *>(page) + (step * 2 + t) * PAGE_KEYS + g;
        U32x4 keys[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) keys[j] = units[j * 8];
        const U32x4 first = queries[step * 32 + lane_idx()], second = queries[(step + 1) * 32 + lane_idx()];
#pragma unroll
        for (u32 j = 0; j < 8; j++) Kv::multiply(products[j / 4][j % 4], first, keys[j].x, keys[j].y);
#pragma unroll
        for (u32 j = 0; j < 8; j++) Kv::multiply(products[j / 4][j % 4], second, keys[j].z, keys[j].w);
    }
    if (n_steps % 2 == 1) {
        const u32 step = n_steps - 1;
        const U32x2 *halves = reinterpret_cast<const U32x2 *>(page) + ((step * 2 + t / 2) * PAGE_KEYS + g) * 2 + t % 2;
        const U32x4 query = queries[step * 32 + lane_idx()];
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            const U32x2 keys = halves[j * 16];
            Kv::multiply(products[j / 4][j % 4], query, keys.x, keys.y);
        }
    }
}

// The key of products[b][j][i] within its page.
INLINE u32 key_of(u32 b, u32 j, u32 i) { return 32 * b + 8 * (lane_idx() % 4) + 2 * j + i % 2; }

// Products become scores; the greatest of those that rows g and g + 8 see. A NaN is not greater than anything.
INLINE void score(const AttendArgs &args, float products[2][4][4], u32 first_key, const Seen seen[2], float greatest[2]) {
    greatest[0] = greatest[1] = no_score();
#pragma unroll
    for (u32 idx = 0; idx < 32; idx++) {
        const u32 b = idx / 16, j = idx / 4 % 4, i = idx % 4, key = first_key + key_of(b, j, i);
        float value = products[b][j][i] * args.scale;
        if (args.softcap > 0.0f) value = args.softcap * tanh_of(value / args.softcap);
        products[b][j][i] = value;
        const Seen &by = seen[i / 2];
        if (key >= by.first && key < by.end) greatest[i / 2] = max_of(value, greatest[i / 2]);
    }
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
INLINE void weigh(const float scores[2][4][4], u32 first_key, const Seen seen[2], const float greatest[2],
                  U32x4 fragments[4], float sums[2]) {
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (u32 step = 0; step < 4; step++) {
        u32 words[4];
#pragma unroll
        for (u32 word = 0; word < 4; word++) {
            const u32 b = step / 2, j = step % 2 * 2 + word / 2, row = word % 2;
            u32 pair = 0;
#pragma unroll
            for (u32 odd = 0; odd < 2; odd++) {
                const u32 key = first_key + key_of(b, j, odd);
                const bool is_seen = key >= seen[row].first && key < seen[row].end;
                const u16 weight = is_seen ? Kv::of(softmax_exp(scores[b][j][row * 2 + odd] - greatest[row])) : u16(0);
                sums[row] += Kv::wide(weight);
                pair |= u32(weight) << (16 * odd);
            }
            words[word] = pair;
        }
        fragments[step] = {words[0], words[1], words[2], words[3]};
    }
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        sums[row] += shuffle_xor(sums[row], 1);
        sums[row] += shuffle_xor(sums[row], 2);
    }
}

// Eight values of one dimension; those from key `end` on are what memory held before, and become 0.
INLINE U32x4 load_values(const U32x4 *unit, u32 first_key, u32 end) {
    U32x4 out = *unit;
    if (first_key + 8 <= end) return out;
    const u32 n = first_key < end ? end - first_key : 0;
    const auto keep = [n](u32 word, u32 first) { return n > first + 1 ? word : n > first ? word & 0xffffu : 0; };
    out.x = keep(out.x, 0), out.y = keep(out.y, 2), out.z = keep(out.z, 4), out.w = keep(out.w, 6);
    return out;
}
