//! Owned bytes that begin at a multiple of 64: memory for groups. Large ones are mapped on their own, in huge pages
//! where the system gives them, which halves what reading weights costs in address translation.

use crate::header::ALIGNMENT;
use memmap2::{MmapMut, MmapOptions};
use std::ops::{Deref, DerefMut};

/// From as many bytes on, memory is mapped; below it comes from the allocator.
const MAPPED_FROM: usize = 1 << 20;

/// Bytes at an address that is a multiple of 64, zero at first. Large ones take memory only as they are written.
#[derive(Debug)]
pub struct AlignedBytes {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Mapped(MmapMut),
    /// The bytes begin at `begin`, and there is room for them after it.
    Allocated {
        bytes: Box<[u8]>,
        begin: usize,
    },
}

impl AlignedBytes {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// Those of the system where it has no such memory.
    pub fn zeroed(len: usize) -> std::io::Result<AlignedBytes> {
        if len < MAPPED_FROM {
            let bytes = vec![0u8; len + ALIGNMENT - 1].into_boxed_slice();
            let begin = bytes.as_ptr().addr().next_multiple_of(ALIGNMENT) - bytes.as_ptr().addr();
            return Ok(AlignedBytes { memory: Memory::Allocated { bytes, begin }, len });
        }
        // Who asks for more than is there, to fill a part of it, is not refused.
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        // Without huge pages the bytes are the same, only slower to read.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(AlignedBytes { memory: Memory::Mapped(map), len })
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(map) => &map[..self.len],
            Memory::Allocated { bytes, begin } => &bytes[*begin..begin + self.len],
        }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Mapped(map) => &mut map[..self.len],
            Memory::Allocated { bytes, begin } => &mut bytes[*begin..*begin + self.len],
        }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_zero() {
        for len in [0, 1, 63, 64, 65, 4096, MAPPED_FROM - 1, MAPPED_FROM, MAPPED_FROM + 1, 3 << 21] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % ALIGNMENT), (len, 0));
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(7);
            assert!(bytes.as_ref().iter().all(|&byte| byte == 7));
        }
    }

    /// All matrices lie in one memory of their largest size, of which exact layouts fill two thirds.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    #[test]
    fn more_than_the_machine_has() {
        if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() != "2") {
            let mut bytes = AlignedBytes::zeroed(1 << 38).unwrap();
            bytes[1 << 37] = 7;
            assert_eq!((bytes[0], bytes[1 << 37]), (0, 7));
        }
    }
}
