//! Sums in the order in which threads, warps and blocks take them.

/// Lanes of a warp.
const LANES: usize = 32;

/// The sum over a warp: pairs 16 apart, then 8, 4, 2, 1.
pub fn warp_sum(mut lanes: [f32; LANES]) -> f32 {
    for distance in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|lane| lanes[lane] + lanes[lane ^ distance]);
    }
    lanes[0]
}

/// The sum over a block of whole warps: each warp's, then those as one warp's, the rest 0.
pub fn block_sum(threads: &[f32]) -> f32 {
    let mut of_warps = [0.0; LANES];
    for (of_warp, &lanes) in of_warps.iter_mut().zip(threads.as_chunks::<LANES>().0) {
        *of_warp = warp_sum(lanes);
    }
    warp_sum(of_warps)
}
