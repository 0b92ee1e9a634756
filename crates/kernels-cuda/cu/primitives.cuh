// What kernels are written in: fixed-width types, and every operation that is not plain C++, once for GPUs (inline
// PTX, no header of the toolkit) and once, in emulator.hpp, for the emulator of the tests. Next in the flow: any .cu.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

struct alignas(8) U32x2 { u32 x, y; };
struct alignas(16) U32x4 { u32 x, y, z, w; };
struct alignas(8) F32x2 { float x, y; };
struct alignas(16) F32x4 { float x, y, z, w; };

#ifdef NETWEIGHT_EMULATOR
#include "emulator.hpp"
#else

// KERNEL(name, threads, Args) { body } defines a kernel of at most `threads` threads a block, whose only parameter is
// `args`, by value. Args has the same fields, in the same order, as the struct of that kernel in src/launch.
#define KERNEL(NAME, THREADS, ARGS) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const __grid_constant__ ARGS args)
// The same with at least `blocks` blocks resident on a multiprocessor, which bounds registers.
#define KERNEL_RESIDENT(NAME, THREADS, BLOCKS, ARGS) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ARGS args)
#define INLINE static __device__ __forceinline__
#define INLINE_MEMBER __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
// The shared memory that a launch asked for.
#define DYNAMIC_SHARED(TYPE, NAME) \
    extern __shared__ U32x4 netweight_shared[]; \
    TYPE *NAME = reinterpret_cast<TYPE *>(netweight_shared)

INLINE u32 thread_idx() { return threadIdx.x; }
INLINE u32 n_threads() { return blockDim.x; }
INLINE u32 block_x() { return blockIdx.x; }
INLINE u32 block_y() { return blockIdx.y; }
INLINE u32 block_z() { return blockIdx.z; }
INLINE u32 grid_x() { return gridDim.x; }
INLINE void sync_threads() { __syncthreads(); }
INLINE void sync_warp() { __syncwarp(); }

INLINE u32 shuffle(u32 value, u32 lane) { return __shfl_sync(~0u, value, lane); }
INLINE u32 shuffle_xor(u32 value, u32 mask) { return __shfl_xor_sync(~0u, value, mask); }
// The value of the lane `delta` below; lanes under `delta` get their own.
INLINE u32 shuffle_up(u32 value, u32 delta) { return __shfl_up_sync(~0u, value, delta); }
// The sum of the value and that of the lane `delta` below, if there is one.
INLINE u32 add_from_below(u32 value, u32 delta) {
    asm volatile("{ .reg .u32 below; .reg .pred is_there; shfl.sync.up.b32 below|is_there, %0, %1, 0, 0xffffffff;"
                 " @is_there add.u32 %0, %0, below; }" : "+r"(value) : "r"(delta));
    return value;
}
INLINE u32 ballot(bool value) { return __ballot_sync(~0u, value); }
INLINE u32 atomic_add(u32 *address, u32 value) { return atomicAdd(address, value); }

// Bytes of b:a, numbered 7..0, picked by the lower four nibbles of `selector`; one whose highest bit is set gives eight
// times the highest bit of the byte that the others pick.
INLINE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    u32 out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
    return out;
}
// Bits of `a` where `mask` has ones, of `b` elsewhere.
INLINE u32 select_bits(u32 mask, u32 a, u32 b) {
    u32 out;
    asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(out) : "r"(a), "r"(b), "r"(mask));
    return out;
}
// Bits of high:low from bit `shift % 32` on.
INLINE u32 shift_pair(u32 low, u32 high, u32 shift) { return __funnelshift_r(low, high, shift); }
// By one bit.
INLINE u32 rotate_right(u32 value) { return __funnelshift_r(value, value, 1); }
INLINE u32 count_ones(u32 value) { return __popc(value); }
// The upper half of the product.
INLINE u64 multiply_high(u64 a, u64 b) { return __umul64hi(a, b); }
// Index of the lowest set bit, 32 if there is none.
INLINE u32 trailing_zeros(u32 value) { return value ? __ffs(value) - 1 : 32; }

INLINE float float_of(u32 bits) { return __uint_as_float(bits); }
INLINE u32 bits_of(float value) { return __float_as_uint(value); }
INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// To the nearest, ties to even; a NaN becomes 0x7fff.
INLINE u16 bf16_of(float value) {
    u16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(value));
    return out;
}
// IEEE half, to the nearest, ties to even; a NaN becomes 0x7fff.
INLINE u16 f16_of(float value) {
    u16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(value));
    return out;
}
INLINE float of_f16(u16 value) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value));
    return out;
}

// Weights are read once: they stay out of the first-level cache and are the first to leave the second.
INLINE U32x4 load_once(const U32x4 *from) {
    U32x4 out;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "l"(from));
    return out;
}
// Activations are read by many.
INLINE U32x4 load_cached(const U32x4 *from) {
    U32x4 out;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "l"(from));
    return out;
}
INLINE u32 load_once(const u32 *from) {
    u32 out;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(out) : "l"(from));
    return out;
}
INLINE U32x2 load_once(const U32x2 *from) {
    U32x2 out;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(out.x), "=r"(out.y) : "l"(from));
    return out;
}

// Asks for a line of memory to be brought to the second-level cache.
INLINE void prefetch(const void *address) { asm volatile("prefetch.global.L2 [%0];" : : "l"(address)); }

// d = a b + d for bf16 a (16, 16) and b (16, 8), f32 d (16, 8). Lane 4 g + t holds a[g][2t, 2t+1], a[g+8][2t, 2t+1],
// a[g][2t+8, 2t+9], a[g+8][2t+8, 2t+9]; b[2t, 2t+1][g], b[2t+8, 2t+9][g]; d[g][2t, 2t+1], d[g+8][2t, 2t+1].
INLINE void mma_bf16(float d[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same for f16.
INLINE void mma_f16(float d[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

INLINE float of_bf16(u16 value) { return float_of(u32(value) << 16); }
INLINE u32 pair_of(float low, float high) { return u32(bf16_of(low)) | u32(bf16_of(high)) << 16; }
INLINE u32 lane_idx() { return thread_idx() & 31; }
INLINE u32 warp_idx() { return thread_idx() >> 5; }
INLINE float shuffle(float value, u32 lane) { return float_of(shuffle(bits_of(value), lane)); }
INLINE float shuffle_xor(float value, u32 mask) { return float_of(shuffle_xor(bits_of(value), mask)); }
INLINE u32 min_of(u32 a, u32 b) { return a < b ? a : b; }
INLINE u32 max_of(u32 a, u32 b) { return a > b ? a : b; }
INLINE float max_of(float a, float b) { return a > b ? a : b; }

// The sum of the values of this lane and those below.
INLINE u32 warp_sum_below(u32 value) {
    UNROLL for (u32 delta = 1; delta < 32; delta *= 2) value = add_from_below(value, delta);
    return value;
}

// The sum over a warp, the same in every lane: pairs 16 apart first, then 8, 4, 2, 1.
INLINE float warp_sum(float value) {
    for (u32 mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}
INLINE float warp_max(float value) {
    for (u32 mask = 16; mask > 0; mask >>= 1) value = max_of(value, shuffle_xor(value, mask));
    return value;
}

// The sum over a block of whole warps, the same in every thread: each warp's, then those as one warp's, the rest 0.
// `scratch` has room for 32 floats and may be used again after the caller's next sync_threads().
INLINE float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    if (lane_idx() == 0) scratch[warp_idx()] = value;
    sync_threads();
    return warp_sum(lane_idx() < n_threads() / 32 ? scratch[lane_idx()] : 0.0f);
}
