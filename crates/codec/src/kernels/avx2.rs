//! Bit packing for CPUs with AVX2, by the bit deposit and extract that come with them (BMI2).

use super::portable;
use crate::rans8::avx2::available;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _pdep_u64, _pext_u64};

/// The low `bits` bits of each of eight bytes.
fn fields(bits: u32) -> u64 {
    u64::from((1u32 << bits) - 1) * 0x0101_0101_0101_0101
}

/// [`super::Unpack`].
pub(super) fn unpack(bits: u32, packed: &[u8], values: &mut [u8]) {
    #[target_feature(enable = "bmi2")]
    fn blocks(bits: u32, packed: &[u8], values: &mut [u8]) -> usize {
        let mut n_done = 0;
        for (idx, eight) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let Some(bytes) = packed[idx * bits as usize..].first_chunk::<8>() else { break };
            *eight = _pdep_u64(u64::from_le_bytes(*bytes), fields(bits)).to_le_bytes();
            n_done += 8;
        }
        n_done
    }
    assert!(available());
    // SAFETY: the CPU has the feature, checked on the line above.
    let n_done = unsafe { blocks(bits, packed, values) };
    portable::unpack(bits, &packed[n_done / 8 * bits as usize..], &mut values[n_done..]);
}

/// [`super::Pack`].
pub(super) fn pack(bits: u32, values: &[u8], packed: &mut [u8]) {
    #[target_feature(enable = "bmi2")]
    fn blocks(bits: u32, values: &[u8], packed: &mut [u8]) -> usize {
        let mut n_done = 0;
        for (idx, eight) in values.as_chunks::<8>().0.iter().enumerate() {
            // Eight bytes, of which the last few are written again by the next.
            let Some(bytes) = packed[idx * bits as usize..].first_chunk_mut::<8>() else { break };
            *bytes = _pext_u64(u64::from_le_bytes(*eight), fields(bits)).to_le_bytes();
            n_done += 8;
        }
        n_done
    }
    assert!(available());
    // SAFETY: the CPU has the feature, checked on the line above.
    let n_done = unsafe { blocks(bits, values, packed) };
    portable::pack(bits, &values[n_done..], &mut packed[n_done / 8 * bits as usize..]);
}

/// [`super::Prefetch`].
pub(super) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: a prefetch reads nothing; every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}
