// Four columns of a row at a time, in 16-byte loads and stores where rows allow it.
#pragma once
#include "primitives.cuh"

INLINE bool is_aligned(const void *address) { return (u64(address) & 15) == 0; }

// Columns col..col + count of a row, the rest 0: at once where the row begins at a multiple of 16 bytes.
INLINE F32x4 load_quad(const float *row, u32 col, u32 count) {
    if (is_aligned(row) && count == 4) return *reinterpret_cast<const F32x4 *>(row + col);
    F32x4 out = {row[col], 0.0f, 0.0f, 0.0f};
    if (count > 1) out.y = row[col + 1];
    if (count > 2) out.z = row[col + 2];
    if (count > 3) out.w = row[col + 3];
    return out;
}

// The same, with the row rounded to bf16, which begins at a multiple of 8 bytes.
INLINE void store_quad(float *row, u16 *row_bf16, u32 col, u32 count, F32x4 x) {
    if (is_aligned(row) && count == 4) {
        *reinterpret_cast<F32x4 *>(row + col) = x;
        *reinterpret_cast<U32x2 *>(row_bf16 + col) = {pair_of(x.x, x.y), pair_of(x.z, x.w)};
        return;
    }
    const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (i < count) row[col + i] = values[i], row_bf16[col + i] = bf16_of(values[i]);
    }
}
