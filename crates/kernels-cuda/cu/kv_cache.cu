// Keys and values in pages of 64 positions, as attention.cu reads them. Scalar twin: none, the order is seen by
// attention only. Next in the flow: attention.cu.
//
// A page of one head, D dimensions rounded up to 16, is D * 64 numbers of 16 bits:
//   keys    (D / 8, 64, 8): units of 8 dimensions of a key; keys in the order of key_place
//   values  (8, D, 8): units of 8 keys of a dimension
// so that each 16-byte load of a lane is a whole unit, which is what a lane gives to two multiplications of fragments.
#pragma once
#include "primitives.cuh"

const u32 PAGE_KEYS = 64;

// Numbers as IEEE half.
struct KvF16 {
    INLINE u16 of(float value) { return f16_of(value); }
    INLINE float wide(u16 value) { return of_f16(value); }
    INLINE void multiply(float d[4], const U32x4 &a, u32 b0, u32 b1) {
        const u32 words[4] = {a.x, a.y, a.z, a.w};
        mma_f16(d, words, b0, b1);
    }
};

// Numbers as the upper half of a float.
struct KvBf16 {
    INLINE u16 of(float value) { return bf16_of(value); }
    INLINE float wide(u16 value) { return of_bf16(value); }
    INLINE void multiply(float d[4], const U32x4 &a, u32 b0, u32 b1) {
        const u32 words[4] = {a.x, a.y, a.z, a.w};
        mma_bf16(d, words, b0, b1);
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
    u16 *keys;               // (n_pages, n_kv_heads, page)
    u16 *values;             // (n_pages, n_kv_heads, page)
    u32 stride, n_kv_heads, head_dim, n_slots, max_pages, n_pages;
};

// Block (row, 256 elements): an element of k and of v for each thread, dimensions that pad a head among them.
template <class Kv>
INLINE void append(const AppendArgs &args) {
    const u32 row = block_x(), n_dims = padded_dims(args.head_dim), idx = block_y() * n_threads() + thread_idx();
    const u32 head = idx / n_dims, dim = idx % n_dims, slot = args.slots[row], position = args.positions[row];
    const u32 page_idx = position / PAGE_KEYS, key = position % PAGE_KEYS;
    if (head >= args.n_kv_heads || slot >= args.n_slots || page_idx >= args.max_pages) return;
    const u32 page = args.block_table[u64(slot) * args.max_pages + page_idx];
    if (page >= args.n_pages) return;
    const u64 from = u64(row) * args.stride + head * args.head_dim + dim;
    const u64 to = (u64(page) * args.n_kv_heads + head) * (n_dims * PAGE_KEYS);
    const bool is_padding = dim >= args.head_dim;
    args.keys[to + (dim / 8 * PAGE_KEYS + key_place(key)) * 8 + dim % 8] = is_padding ? u16(0) : Kv::of(args.k[from]);
    args.values[to + (key / 8 * n_dims + dim) * 8 + key % 8] = is_padding ? u16(0) : Kv::of(args.v[from]);
}

KERNEL(append_f16, 256, AppendArgs) { append<KvF16>(args); }
KERNEL(append_bf16, 256, AppendArgs) { append<KvBf16>(args); }
