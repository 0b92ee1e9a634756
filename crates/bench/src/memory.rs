//! What the memory can do: copies and reads of the same buffers, in the same run.

use std::convert::Infallible;
use std::hint::black_box;

use crate::stats::{Timing, timed};

/// `src` copied to `dst`, of the same length, on `n_threads` threads, `n_repeats` times.
pub(crate) fn copy(src: &[u8], dst: &mut [u8], n_threads: usize, n_repeats: usize) -> Timing {
    let part = part_bytes(src.len(), n_threads);
    let mut sum = Timing::default();
    for _ in 0..n_repeats {
        let mut parts: Vec<(&[u8], &mut [u8])> = src.chunks(part).zip(dst.chunks_mut(part)).collect();
        let Ok(timing) = timed(&mut parts, |(from, to)| {
            to.copy_from_slice(from);
            black_box(to);
            Ok::<(), Infallible>(())
        });
        sum = sum.and(timing);
    }
    sum
}

/// `src` read on `n_threads` threads, `n_repeats` times.
pub(crate) fn read(src: &[u8], n_threads: usize, n_repeats: usize) -> Timing {
    let mut sum = Timing::default();
    for _ in 0..n_repeats {
        let mut parts: Vec<&[u8]> = src.chunks(part_bytes(src.len(), n_threads)).collect();
        let Ok(timing) = timed(&mut parts, |part| {
            black_box(add_up(part));
            Ok::<(), Infallible>(())
        });
        sum = sum.and(timing);
    }
    sum
}

fn part_bytes(len_bytes: usize, n_threads: usize) -> usize {
    len_bytes.div_ceil(n_threads).next_multiple_of(64)
}

/// Sum of the 64-bit words. Sixteen sums, so that the loop waits for memory and not for its own additions.
fn add_up(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    let (blocks, _) = bytes.as_chunks::<128>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_everything() {
        for len_bytes in [1, 63, 64, 1000] {
            for n_threads in 1..4 {
                let src = vec![3u8; len_bytes];
                let mut dst = vec![0u8; len_bytes];
                copy(&src, &mut dst, n_threads, 1);
                assert_eq!(src, dst);
                read(&src, n_threads, 2);
            }
        }
        assert_eq!(add_up(&[1; 256]), 32 * 0x0101_0101_0101_0101);
    }
}
