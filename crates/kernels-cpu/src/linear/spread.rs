//! Where the escapes of eight codes go, for instruction sets that cannot expand by mask. Next in the flow: avx2.rs.

/// By mask of the codes that are escapes: the shuffle that takes the next escapes, in order, to their places, and 0
/// to all others. Lowest byte first.
pub(crate) static SPREAD: [u64; 256] = spread();

const fn spread() -> [u64; 256] {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let mut idx = 0;
        let mut n_before = 0;
        while idx < 8 {
            // Both PSHUFB and TBL give 0 for an index of 128.
            let from = if mask >> idx & 1 == 1 { n_before } else { 128 };
            table[mask] |= from << (8 * idx);
            n_before += (mask >> idx & 1) as u64;
            idx += 1;
        }
        mask += 1;
    }
    table
}
