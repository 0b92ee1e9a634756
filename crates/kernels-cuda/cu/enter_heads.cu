// What stands between the projections of a layer and its attention, at once: norms of query and key heads, their
// rotation, and keys and values into the cache. The bits are those of head_norm, rope and append. Scalar twins: theirs.
#include "kv_cache.cu"

struct EnterArgs {
    AppendArgs to;           // k and v are those of x
    float *x;                // (n_rows, to.stride): q | k | v; q is changed in place
    u16 *x_bf16;             // (n_rows, bf16_stride)
    const float *q_norm;     // (head_dim), or null for no norms
    const float *k_norm;     // (head_dim)
    const float *table;      // (table_len, 2 * half): cosines, then sines
    const u32 *table_rows;   // (n_rows)
    u32 bf16_stride, n_rows, n_heads, half, table_len;
    float eps;
};

const u32 ENTER_WARPS = 4;
const u32 ENTER_MAX_DIMS = 512;

// A warp for each head of a row, whose dimension i + 32 j is lane i's.
template <class Kv>
INLINE void enter_heads(const EnterArgs &args) {
    __shared__ float heads[ENTER_WARPS][ENTER_MAX_DIMS];
    const u32 head_dim = args.to.head_dim, n_kv_heads = args.to.n_kv_heads, n_heads = args.n_heads + 2 * n_kv_heads;
    const u32 idx = block_x() * ENTER_WARPS + warp_idx(), row = idx / n_heads, head = idx % n_heads;
    if (row >= args.n_rows) return;
    const bool is_query = head < args.n_heads, is_value = head >= args.n_heads + n_kv_heads;
    float *x = args.x + u64(row) * args.to.stride + head * head_dim, *normed = heads[warp_idx()];
    const float *weight = is_value ? nullptr : is_query ? args.q_norm : args.k_norm;
    float scale = 1.0f;
    if (weight) {
        float sum = 0.0f;
        for (u32 dim = lane_idx(); dim < head_dim; dim += 32) sum = fma(x[dim], x[dim], sum);
        scale = 1.0f / sqrtf(warp_sum(sum) / float(head_dim) + args.eps);
    }
    for (u32 dim = lane_idx(); dim < head_dim; dim += 32) normed[dim] = weight ? x[dim] * scale * weight[dim] : x[dim];
    sync_warp();

    const u32 table_row = args.table_rows[row], half = is_value || table_row >= args.table_len ? 0 : args.half;
    const float *angles = args.table + u64(table_row) * (2 * half);
    const auto rotated = [&](u32 dim) {
        if (dim < half) return normed[dim] * angles[dim] - normed[dim + half] * angles[dim + half];
        if (dim < 2 * half) return normed[dim] * angles[dim - half] + normed[dim - half] * angles[dim];
        return dim < head_dim ? normed[dim] : 0.0f;
    };
    if (is_query) {
        u16 *x_bf16 = args.x_bf16 + u64(row) * args.bf16_stride + head * head_dim;
        for (u32 dim = lane_idx(); dim < head_dim; dim += 32) {
            const float value = rotated(dim);
            x[dim] = value, x_bf16[dim] = bf16_of(value);
        }
        return;
    }
    const u32 slot = args.to.slots[row], position = args.to.positions[row], n_dims = padded_dims(head_dim);
    const KvPlace place = place_of(args.to, slot, position, (head - args.n_heads) % n_kv_heads);
    if (!place.is_there) return;
    for (u32 dim = lane_idx(); dim < n_dims; dim += 32) {
        auto *to = static_cast<typename Kv::Number *>(is_value ? args.to.values : args.to.keys);
        to[is_value ? value_at(place, dim, n_dims) : key_at(place, dim)] = Kv::of(rotated(dim));
    }
}

KERNEL(enter_heads_f16, ENTER_WARPS * 32, EnterArgs) { enter_heads<KvF16>(args); }
KERNEL(enter_heads_f32, ENTER_WARPS * 32, EnterArgs) { enter_heads<KvF32>(args); }
KERNEL(enter_heads_bf16, ENTER_WARPS * 32, EnterArgs) { enter_heads<KvBf16>(args); }
