// Keys and values in pages of 64 positions, as attention.cu reads them. Scalar twin: none, the order is seen by
// attention only. Next in the flow: attention.cu.
//
// A page of one head, D dimensions rounded up to 16, is D * 64 numbers:
//   keys    (D / 8, 64, 8): units of 8 dimensions of a key; keys in the order of key_place
//   values  (8, D, 8): units of 8 keys of a dimension
// so that each 16-byte load of a lane, of 16-bit numbers, is a whole unit, which is what it gives to two products of
// fragments.
#pragma once
#include "primitives.cuh"

const u32 PAGE_KEYS = 64;

// Numbers as IEEE half. Pairs are of two neighbours; four of them are a unit, or a lane's part of a left fragment.
struct KvF16 {
    typedef u16 Number;
    typedef u32 Pair;
    typedef U32x2 Pairs2;
    typedef U32x4 Pairs4;

    INLINE u16 of(float value) { return f16_of(value); }
    INLINE float wide(u16 value) { return of_f16(value); }
    INLINE u32 pair(u16 low, u16 high) { return u32(low) | u32(high) << 16; }
    INLINE u32 only_low(u32 pair) { return pair & 0xffff; }
    INLINE void multiply(float d[4], const U32x4 &a, u32 b0, u32 b1) {
        const u32 words[4] = {a.x, a.y, a.z, a.w};
        mma_f16(d, words, b0, b1);
    }
};

// Numbers as the upper half of a float.
struct KvBf16 : KvF16 {
    INLINE u16 of(float value) { return bf16_of(value); }
    INLINE float wide(u16 value) { return of_bf16(value); }
    INLINE void multiply(float d[4], const U32x4 &a, u32 b0, u32 b1) {
        const u32 words[4] = {a.x, a.y, a.z, a.w};
        mma_bf16(d, words, b0, b1);
    }
};

// Numbers as they are. No tensor core multiplies them: each product of fragments is a chain of fused multiply-adds,
// over the columns of lane 0, then those of lane 1 and so on. Slow, and as exact as f32 allows.
struct KvF32 {
    struct Pairs2 { F32x2 x, y; };
    struct alignas(16) Pairs4 { F32x2 x, y, z, w; };
    typedef float Number;
    typedef F32x2 Pair;

    INLINE float of(float value) { return value; }
    INLINE float wide(float value) { return value; }
    INLINE F32x2 pair(float low, float high) { return {low, high}; }
    INLINE F32x2 only_low(F32x2 pair) { return {pair.x, 0.0f}; }
    INLINE void multiply(float d[4], const Pairs4 &a, F32x2 b0, F32x2 b1) {
        const u32 g = lane_idx() / 4, t = lane_idx() % 4;
        const float low[4] = {a.x.x, a.x.y, a.z.x, a.z.y}, high[4] = {a.y.x, a.y.y, a.w.x, a.w.y};
        const float right[4] = {b0.x, b0.y, b1.x, b1.y};
#pragma unroll 1
        for (u32 owner = 0; owner < 4; owner++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const float from_low = shuffle(low[i], 4 * g + owner), from_high = shuffle(high[i], 4 * g + owner);
                const float even = shuffle(right[i], 8 * t + owner), odd = shuffle(right[i], 8 * t + 4 + owner);
                d[0] = fma(from_low, even, d[0]), d[1] = fma(from_low, odd, d[1]);
                d[2] = fma(from_high, even, d[2]), d[3] = fma(from_high, odd, d[3]);
            }
        }
    }
};

// Where a key stands in its page: of each 32, those whose positions are 2 j, 2 j + 1 modulo 8 stand together, because
// column 2 t + c of the j-th product of scores is key 8 t + 2 j + c.
INLINE u32 key_place(u32 position) {
    return (position & 32) | (position >> 1 & 3) << 3 | (position >> 3 & 3) << 1 | (position & 1);
}

INLINE u32 padded_dims(u32 head_dim) { return (head_dim + 15) & ~15u; }

struct AppendArgs {
    const float *k;          // (n_rows, stride)
    const float *v;          // (n_rows, stride)
    const u32 *slots;        // (n_rows)
    const u32 *positions;    // (n_rows)
    const u32 *block_table;  // (n_slots, max_pages)
    void *keys;              // (n_pages, n_kv_heads, page)
    void *values;            // (n_pages, n_kv_heads, page)
    u32 stride, n_kv_heads, head_dim, n_slots, max_pages, n_pages;
};

// A position of a slot in the pages, for one head.
struct KvPlace {
    u64 page;   // where the head's numbers of the page begin
    u32 index;  // of the position in the page
    bool is_there;
};

INLINE KvPlace place_of(const AppendArgs &args, u32 slot, u32 position, u32 head) {
    const u32 page_idx = position / PAGE_KEYS;
    if (slot >= args.n_slots || page_idx >= args.max_pages) return {0, 0, false};
    const u32 page = args.block_table[u64(slot) * args.max_pages + page_idx];
    const u32 page_len = padded_dims(args.head_dim) * PAGE_KEYS;
    return {(u64(page) * args.n_kv_heads + head) * page_len, position % PAGE_KEYS, page < args.n_pages};
}

INLINE u64 key_at(const KvPlace &place, u32 dim) {
    return place.page + (dim / 8 * PAGE_KEYS + key_place(place.index)) * 8 + dim % 8;
}
INLINE u64 value_at(const KvPlace &place, u32 dim, u32 n_dims) {
    return place.page + (place.index / 8 * n_dims + dim) * 8 + place.index % 8;
}

// Block (row, 256 elements): an element of k and of v for each thread, dimensions that pad a head among them.
template <class Kv>
INLINE void append(const AppendArgs &args) {
    const u32 row = block_x(), n_dims = padded_dims(args.head_dim), idx = block_y() * n_threads() + thread_idx();
    const u32 head = idx / n_dims, dim = idx % n_dims;
    if (head >= args.n_kv_heads) return;
    const KvPlace place = place_of(args, args.slots[row], args.positions[row], head);
    if (!place.is_there) return;
    const u64 from = u64(row) * args.stride + head * args.head_dim + dim;
    const bool is_padding = dim >= args.head_dim;
    typedef typename Kv::Number Number;
    static_cast<Number *>(args.keys)[key_at(place, dim)] = is_padding ? Number(0) : Kv::of(args.k[from]);
    static_cast<Number *>(args.values)[value_at(place, dim, n_dims)] = is_padding ? Number(0) : Kv::of(args.v[from]);
}

KERNEL(append_f16, 256, AppendArgs) { append<KvF16>(args); }
KERNEL(append_bf16, 256, AppendArgs) { append<KvBf16>(args); }
KERNEL(append_f32, 256, AppendArgs) { append<KvF32>(args); }
