//! Matrices that stay in the host's memory and take turns in a few slots of the GPU's, copied beside the kernels.

use crate::device::{Device, Memory};
use crate::error::Result;
use crate::matrix::{HostMatrix, View};
use crate::runtime::{EventId, Stream};

/// Some slots, all as large as the largest matrix. Matrix `idx` goes to slot `idx % n_slots`, so that neighbours, which
/// are used together or after each other, do not drive each other out.
pub struct Slots {
    device: Device,
    slots: Vec<Slot>,
}

struct Slot {
    memory: Memory<u32>,
    holds: Option<usize>,
    copied: EventId,
    used: EventId,
}

impl Slots {
    /// `n_slots` slots of `n_words`.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn new(device: &Device, n_slots: usize, n_words: usize) -> Result<Slots> {
        let slot = |_| {
            let (copied, used) = (device.runtime.event()?, device.runtime.event()?);
            Ok(Slot { memory: device.zeroed(n_words)?, holds: None, copied, used })
        };
        let slots = (0..n_slots).map(slot).collect::<Result<Vec<Slot>>>()?;
        device.synchronize()?; // Slots are zero before the first copy goes there.
        Ok(Slots { device: device.clone(), slots })
    }

    /// Slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Sees to it that matrix `idx` comes to its slot, after whatever uses what is there now.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where the matrix is larger than a slot.
    pub fn fetch(&mut self, idx: usize, matrix: &HostMatrix) -> Result<()> {
        let slot_idx = idx % self.slots.len();
        let slot = &mut self.slots[slot_idx];
        if slot.holds == Some(idx) {
            return Ok(());
        }
        let (runtime, words) = (&self.device.runtime, matrix.words().as_slice());
        let dst = slot.memory.at(0, words.len());
        runtime.wait(Stream::Copy, slot.used)?;
        // SAFETY: the slot is as large, nothing uses it any more, and pinned memory never changes once it is filled; it
        // is freed only after what was issued is done.
        unsafe { runtime.copy_in(Stream::Copy, dst, words.as_ptr().cast(), size_of_val(words)) }?;
        runtime.record(Stream::Copy, slot.copied)?;
        slot.holds = Some(idx);
        Ok(())
    }

    /// Matrix `idx` in its slot, once kernels that are issued now run; it was fetched before.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where it was not fetched.
    pub fn view<'a>(&'a self, idx: usize, matrix: &'a HostMatrix) -> Result<View<'a>> {
        let slot = &self.slots[idx % self.slots.len()];
        assert_eq!(slot.holds, Some(idx), "matrix {idx} was not fetched");
        self.device.runtime.wait(Stream::Compute, slot.copied)?;
        Ok(matrix.view(&slot.memory))
    }

    /// Says that all kernels that use matrix `idx` have been issued.
    ///
    /// # Errors
    /// The driver's.
    pub fn used(&mut self, idx: usize) -> Result<()> {
        let slot_idx = idx % self.slots.len();
        self.device.runtime.record(Stream::Compute, self.slots[slot_idx].used)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // Copies read the host's memory, which may be freed next.
        let _ = self.device.runtime.synchronize(Stream::Copy);
    }
}
