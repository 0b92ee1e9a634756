//! Random weights.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Standard deviation of a sum of eight uniform values of 16 bits, times 2.
const SUM_DEVIATION: f64 = 2.0 * 53509.0;

/// Value `idx` of the sequence of a seed, as bf16: about normal, never zero, `scale` its standard deviation.
pub fn random_half(seed: u64, idx: u64, scale: f32) -> u16 {
    let state = seed.wrapping_add(idx.wrapping_mul(2).wrapping_mul(STEP));
    let sum = sum_of_parts(mix_bits(state)) + sum_of_parts(mix_bits(state.wrapping_add(STEP)));
    half::bf16::from_f32((2 * sum + 1 - 8 * 65536) as f32 * step_of(scale)).to_bits()
}

/// What one step of the sum becomes.
pub(crate) fn step_of(scale: f32) -> f32 {
    (f64::from(scale) / SUM_DEVIATION) as f32
}

/// The finalizer of SplitMix64.
fn mix_bits(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn sum_of_parts(bits: u64) -> i32 {
    (0..4).map(|part| (bits >> (16 * part) & 0xffff) as i32).sum()
}
