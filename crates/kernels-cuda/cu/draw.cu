// A token drawn by its probability, one for each row. Weights are integers, so that neither the order of additions nor that
// of atomics shows: the same token as on a host. Scalar twin: src/twin/draw.rs.
//
//     largest = the greatest logit; NONE where it is no number or infinite
//     least = the key from which on logits stay:
//         top_k < width: that of the k-th greatest logit       (eleven bits at a time, by sums of ones)
//         top_p < 1:     where weights of greater ones suffice (eleven bits at a time, by sums of weights)
//     the row is cut in 32 parts, a warp sums the weights that stay of each; the part in which their sum exceeds the
//     random share of the total is cut in 32 again, until it is one token
#include "rank.cuh"

constexpr u32 DRAW_THREADS = 1024, N_WARPS = DRAW_THREADS / 32;
constexpr u32 DIGIT_BITS = 11, N_BINS = 1 << DIGIT_BITS, BINS_OF_WARP = N_BINS / N_WARPS;

// As in src/twin/draw.rs.
struct Draw {
    u64 random, top_p, min_weight;
    float inverse_temperature;
    u32 top_k;
};

struct DrawArgs {
    const float *x;   // (n_rows, stride)
    const Draw *how;  // (n_rows)
    u32 *out;         // (n_rows)
    u32 width, stride;
};

// 2^40 e^z rounded down, of z <= 0; without a fused multiply-add, as hosts compute it.
INLINE u64 draw_weight(float logit, float largest, float inverse_temperature) {
    const float rounder = 12582912.0f;
    float z = (logit - largest) * inverse_temperature;
    z = z > -64.0f ? z : -64.0f;
    const float shifted = z * 1.44269504f + rounder;
    const float n = shifted - rounder;
    const float r = (z - n * 0.69314575f) - n * 1.4286068e-6f;
    float q = 0.0013814582f * r + 0.008368718f;
    q = q * r + 0.04166839f;
    q = q * r + 0.16666521f;
    q = q * r + 0.49999994f;
    const float power = r * r * q + r + 1.0f;
    return u64(power * float_of((bits_of(shifted) << 23) + ((127u + 40u) << 23)));
}

// Calls use(logit, column) for columns of a warp, lane by lane, four loads at a time.
template <class F>
INLINE void each_of_warp(const float *x, u32 begin, u32 end, F use) {
    u32 col = begin + lane_idx();
    for (; col + 96 < end; col += 128) {
        float values[4];
        UNROLL for (u32 i = 0; i < 4; i++) values[i] = x[col + 32 * i];
        UNROLL for (u32 i = 0; i < 4; i++) use(values[i], col + 32 * i);
    }
    for (; col < end; col += 32) use(x[col], col);
}

// The same with the columns of a row, of which a warp has one part.
template <class F>
INLINE void each_of_row(const float *x, u32 width, F use) {
    const u32 part = (width + N_WARPS - 1) / N_WARPS, begin = warp_idx() * part;
    each_of_warp(x, begin, min_of(begin + part, width), use);
}

INLINE u64 shuffle(u64 value, u32 lane) {
    return u64(shuffle(u32(value >> 32), lane)) << 32 | shuffle(u32(value), lane);
}

INLINE u64 warp_sum(u64 value) {
    for (u32 mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}

// The sum of the values of this lane and those below.
INLINE u64 warp_sum_below(u64 value) {
    for (u32 delta = 1; delta < 32; delta *= 2) {
        const u64 below = u64(shuffle_up(u32(value >> 32), delta)) << 32 | shuffle_up(u32(value), delta);
        value += lane_idx() >= delta ? below : 0;
    }
    return value;
}

// The first lane with which a sum over lanes exceeds `target`, 32 if it never does; the sum before it is taken from `target`.
INLINE u32 first_beyond(u64 value, u64 &target) {
    const u64 sum = warp_sum_below(value);
    const u32 lane = trailing_zeros(ballot(sum > target));
    const u64 before = shuffle(sum - value, lane);
    target -= lane < 32 ? before : 0;
    return lane;
}

// Sums for each digit, of which the greatest comes first; in two words, for want of 64-bit additions in shared memory.
struct Bins {
    u32 low[N_BINS], high[N_BINS];
};

INLINE void add_to_bin(Bins &bins, u32 idx, u64 value) {
    const u32 old = atomic_add(&bins.low[idx], u32(value));
    const u32 high = u32(value >> 32) + (old + u32(value) < old ? 1 : 0);
    if (high > 0) atomic_add(&bins.high[idx], high);
}

INLINE u64 bin(const Bins &bins, u32 idx) { return u64(bins.high[idx]) << 32 | bins.low[idx]; }

// The greatest key such that what logits of that key and greater ones add exceeds target_of(what all add); 0 if it does not.
template <class Adds, class Target>
INLINE u32 greatest_key(const float *x, u32 width, Bins &bins, Adds adds, Target target_of) {
    __shared__ u64 of_warps[N_WARPS];
    u32 key = 0;  // whose bits from `known` on are known
    u64 target = 0;
    NO_UNROLL for (u32 known = 32, shift = 32 - DIGIT_BITS; known > 0;) {
        for (u32 idx = thread_idx(); idx < N_BINS; idx += DRAW_THREADS) bins.low[idx] = bins.high[idx] = 0;
        sync_threads();
        each_of_row(x, width, [&](float logit, u32) {
            const u32 other = key_of(logit);
            if (u64(other ^ key) >> known != 0) return;
            const u64 value = adds(logit, other);
            if (value > 0) add_to_bin(bins, N_BINS - 1 - (other >> shift & (N_BINS - 1)), value);
        });
        sync_threads();
        const u32 own = warp_idx() * BINS_OF_WARP + 2 * lane_idx();
        const u64 of_warp = warp_sum(bin(bins, own) + bin(bins, own + 1));
        if (lane_idx() == 0) of_warps[warp_idx()] = of_warp;
        sync_threads();
        if (known == 32) target = target_of(warp_sum(of_warps[lane_idx()]));
        const u32 warp = first_beyond(of_warps[lane_idx()], target);
        if (warp == 32) return 0;
        const u32 pair = warp * BINS_OF_WARP + 2 * lane_idx();
        const u64 first = bin(bins, pair);
        u32 found = first_beyond(first + bin(bins, pair + 1), target);
        const u64 of_first = shuffle(first, found);
        const bool is_second = of_first <= target;
        target -= is_second ? of_first : 0;
        found = warp * BINS_OF_WARP + 2 * found + (is_second ? 1 : 0);
        key |= (N_BINS - 1 - found) << shift;
        known = shift, shift = known > DIGIT_BITS ? known - DIGIT_BITS : 0;
        sync_threads();
    }
    return key;
}

// The key of the greatest logit, that of NaN if one is a NaN or +Inf.
INLINE u32 key_of_greatest(const float *x, u32 width) {
    __shared__ u64 of_warps[N_WARPS];
    u32 greatest = 0;
    each_of_row(x, width, [&](float logit, u32) {
        greatest = max_of(greatest, logit < float_of(0x7f800000) ? key_of(logit) : ~0u);
    });
    const u64 of_warp = warp_greatest(greatest);
    if (lane_idx() == 0) of_warps[warp_idx()] = of_warp;
    sync_threads();
    return u32(warp_greatest(of_warps[lane_idx()]));
}

// The first column with which a sum of what columns add exceeds random / 2^64 of the sum of all.
template <class Adds>
INLINE u32 draw_column(const float *x, u32 width, u64 random, Adds adds) {
    __shared__ u64 of_warps[N_WARPS];
    u32 begin = 0;
    u64 target = 0;
    for (u32 size = width; size > 1;) {
        const u32 part = (size + N_WARPS - 1) / N_WARPS, end = begin + size;
        const u32 own = min_of(begin + warp_idx() * part, end);
        u64 sum = 0;
        each_of_warp(x, own, min_of(own + part, end), [&](float logit, u32) { sum += adds(logit); });
        sum = warp_sum(sum);
        if (lane_idx() == 0) of_warps[warp_idx()] = sum;
        sync_threads();
        if (size == width) target = multiply_high(warp_sum(of_warps[lane_idx()]), random);
        begin += part * first_beyond(of_warps[lane_idx()], target);
        size = min_of(part, end - begin);
        sync_threads();
    }
    return begin;
}

// A block for each row.
KERNEL_RESIDENT(draw, DRAW_THREADS, 1, DrawArgs) {
    __shared__ Bins bins;
    const float *x = args.x + u64(block_x()) * args.stride;
    const Draw how = args.how[block_x()];
    const u32 greatest = key_of_greatest(x, args.width);
    const float largest = value_of(greatest);
    if (!(largest > float_of(0xff800000))) {  // in all threads
        if (thread_idx() == 0) args.out[block_x()] = ~0u;
        return;
    }
    const auto weight_of = [&](float logit) { return draw_weight(logit, largest, how.inverse_temperature); };
    u32 least = 0;
    if (how.top_k > 0 && how.top_k < args.width) {
        // What is impossible does not count: where fewer tokens are possible, all stay.
        const auto counts = [](float logit, u32) { return u64(logit > float_of(0xff800000) ? 1 : 0); };
        least = greatest_key(x, args.width, bins, counts, [&](u64) { return u64(how.top_k - 1); });
    }
    if (how.top_p < ~u64(0)) {
        const auto weights = [&](float logit, u32 key) { return key >= least ? weight_of(logit) : 0; };
        // Exceeds a number if it reaches the next, the share rounded up.
        const auto short_of = [&](u64 total) {
            const u64 share = how.top_p > 0 ? how.top_p : 1;
            return multiply_high(total, share) - (total * share == 0 ? 1 : 0);
        };
        least = greatest_key(x, args.width, bins, weights, short_of);
    }
    const u32 col = draw_column(x, args.width, how.random, [&](float logit) {
        if (key_of(logit) < least) return u64(0);
        const u64 weight = weight_of(logit);
        return weight >= how.min_weight ? weight : 0;
    });
    if (thread_idx() == 0) args.out[block_x()] = col;
}
