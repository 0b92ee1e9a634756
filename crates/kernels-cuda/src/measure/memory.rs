//! How fast memory is read and copied: what everything else is a share of.

use std::cell::RefCell;

use super::timing::{Contender, Effort, Timing, time};
use crate::device::Device;
use crate::error::Result;
use crate::launch;

/// Bytes that are read or copied, at most.
const MOST_BYTES: usize = 1 << 30;
/// Blocks of a multiprocessor.
const BLOCKS_EACH: usize = 8;

/// How fast memory is.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Bytes that were read, and that were copied.
    pub n_bytes: usize,
    /// Reading all of them.
    pub read: Timing,
    /// Copying all of them, which moves twice as many.
    pub copy: Timing,
}

impl Bandwidth {
    /// Bytes read a second.
    pub fn read_rate(&self) -> f64 {
        self.n_bytes as f64 / self.read.seconds.max(1e-12)
    }

    /// Bytes read and written a second.
    pub fn copy_rate(&self) -> f64 {
        2.0 * self.n_bytes as f64 / self.copy.seconds.max(1e-12)
    }
}

/// Measures on `n_bytes`, or, where nobody says, on as many as the cache surely does not hold.
///
/// # Errors
/// `OutOfMemory`, the driver's.
pub fn bandwidth(device: &Device, n_bytes: Option<usize>, effort: Effort) -> Result<Bandwidth> {
    let len = n_bytes.unwrap_or(MOST_BYTES).min(device.free_bytes()? / 4).next_multiple_of(4096) / 2;
    let (mut from, to) = (device.zeroed::<u16>(len)?, RefCell::new(device.zeroed::<u16>(len)?));
    launch::random_halves(&mut from, len, (1, 0), 1.0)?;
    let n_blocks = BLOCKS_EACH * device.properties().n_multiprocessors.max(1) as usize;
    let sums = RefCell::new(device.zeroed(n_blocks)?);
    let mut contenders = [
        Contender::new(1, |_| launch::read_memory(&from, &mut sums.borrow_mut())),
        Contender::new(1, |_| launch::copy_memory(&from, &mut to.borrow_mut(), n_blocks)),
    ];
    let timings = time(device, &mut contenders, effort)?;
    Ok(Bandwidth { n_bytes: 2 * len, read: timings[0], copy: timings[1] })
}
