//! Keys and values of all tokens so far, in pages that sequences take as they grow. Which pages a slot has is decided
//! here, on the host, and lies on the GPU as a table. Next in the flow: launch/attention.rs, which fills and reads them.

use crate::device::{Device, Memory, Pinned};
use crate::error::{Error, Result};

/// Positions of a page; `PAGE_KEYS` in cu/kv_cache.cu.
pub const PAGE_POSITIONS: usize = 64;
/// Dimensions of a head, at most.
pub const MAX_HEAD_DIM: usize = 512;
/// An entry of the table for a page that a slot does not have.
const NO_PAGE: u32 = u32::MAX;

/// What keys and values are kept as, rounded to the nearest, ties to even. Queries and weights are rounded to it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// As computed: for comparisons, without tensor cores, and so without tiles of queries.
    F32,
    /// IEEE half precision; values beyond 65504 become infinite.
    F16,
    /// The upper half of an f32.
    Bf16,
}

/// How much a cache holds, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedShape {
    /// Layers.
    pub n_layers: usize,
    /// Heads of keys and values of a layer.
    pub n_kv_heads: usize,
    /// Dimensions of a head: even, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Sequences.
    pub n_slots: usize,
    /// Positions of a sequence, at most.
    pub max_positions: usize,
    /// Pages for all sequences together.
    pub n_pages: usize,
    /// What numbers are kept as.
    pub kv_type: KvType,
}

impl KvType {
    /// Words of 16 bits that a number takes.
    pub(crate) fn words(self) -> usize {
        match self {
            KvType::F32 => 2,
            KvType::F16 | KvType::Bf16 => 1,
        }
    }
}

impl PagedShape {
    /// Bytes of a page, over all layers.
    pub fn page_bytes(&self) -> usize {
        2 * self.n_layers * self.page_len() * size_of::<u16>()
    }

    /// Pages of the longest sequence.
    pub fn max_pages(&self) -> usize {
        self.max_positions.div_ceil(PAGE_POSITIONS)
    }

    /// Words of a page's keys in one layer.
    fn page_len(&self) -> usize {
        self.n_kv_heads * self.head_dim.next_multiple_of(16) * PAGE_POSITIONS * self.kv_type.words()
    }
}

/// Keys and values of some sequences on a GPU.
#[derive(Debug)]
pub struct PagedCache {
    shape: PagedShape,
    pub(crate) keys: Vec<Memory<u16>>, // (n_layers), each (n_pages, n_kv_heads, head_dim rounded up to 16, 64), of words
    pub(crate) values: Vec<Memory<u16>>, // the same
    pub(crate) table: Memory<u32>,     // (n_slots, max_pages)
    mirror: Pinned<u32>,               // the same, on the host
    pages: Vec<Vec<u32>>,              // (n_slots): pages of each, in order of positions
    free: Vec<u32>,                    // pages that nobody has; the last is the next to go
}

impl PagedCache {
    /// Room for a shape.
    ///
    /// # Errors
    /// `InvalidArgument` where a number is 0, or heads are odd or too long; `OutOfMemory`.
    pub fn new(device: &Device, shape: PagedShape) -> Result<PagedCache> {
        let PagedShape { n_layers, n_kv_heads, head_dim, n_slots, max_positions, n_pages, .. } = shape;
        if [n_layers, n_kv_heads, head_dim, n_slots, max_positions, n_pages].contains(&0) {
            return Err(Error::InvalidArgument("a cache of keys and values is empty".to_owned()));
        }
        if head_dim > MAX_HEAD_DIM || head_dim % 2 != 0 || u32::try_from(max_positions).is_err() || n_pages >= 1 << 31 {
            return Err(Error::InvalidArgument(format!("no cache of keys and values is like {shape:?}")));
        }
        let plane = || device.zeroed::<u16>(n_pages.saturating_mul(shape.page_len()));
        let planes = || (0..n_layers).map(|_| plane()).collect::<Result<Vec<_>>>();
        let mut mirror = device.pinned(n_slots * shape.max_pages())?;
        mirror.as_mut_slice().fill(NO_PAGE);
        let table = device.upload(mirror.as_slice())?;
        let (free, pages) = ((0..n_pages as u32).rev().collect(), vec![Vec::new(); n_slots]);
        Ok(PagedCache { shape, keys: planes()?, values: planes()?, table, mirror, pages, free })
    }

    /// How much it holds.
    pub fn shape(&self) -> PagedShape {
        self.shape
    }

    /// Positions that a slot has pages for.
    pub fn reserved(&self, slot: usize) -> usize {
        (self.pages[slot].len() * PAGE_POSITIONS).min(self.shape.max_positions)
    }

    /// Positions that a slot could have with the pages that are free now.
    pub fn fitting(&self, slot: usize) -> usize {
        ((self.pages[slot].len() + self.free.len()) * PAGE_POSITIONS).min(self.shape.max_positions)
    }

    /// Gives a slot pages for positions `..n_positions`, and keeps those that it has.
    ///
    /// # Errors
    /// `CacheFull` where they do not fit, and then nothing changes; the driver's.
    ///
    /// # Panics
    /// Where there is no such slot.
    pub fn reserve(&mut self, slot: usize, n_positions: usize) -> Result<()> {
        let n_fitting = self.fitting(slot);
        if n_positions > n_fitting {
            return Err(Error::CacheFull { n_positions, n_fitting });
        }
        let n_before = self.pages[slot].len();
        let n_more = n_positions.div_ceil(PAGE_POSITIONS).saturating_sub(n_before);
        if n_more == 0 {
            return Ok(());
        }
        // Entries that no copy under way reads: those of a slot that grows, or was released, which waited.
        let more: Vec<u32> = self.free.iter().rev().take(n_more).copied().collect();
        let first = slot * self.shape.max_pages() + n_before;
        self.mirror.as_mut_slice()[first..first + n_more].copy_from_slice(&more);
        self.table.copy_from(first, &self.mirror, first, n_more)?;
        self.free.truncate(self.free.len() - n_more);
        self.pages[slot].extend(more);
        Ok(())
    }

    /// Takes all pages of a slot back.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where there is no such slot.
    pub fn release(&mut self, slot: usize) -> Result<()> {
        let (first, n_pages) = (slot * self.shape.max_pages(), self.pages[slot].len());
        self.table.device().synchronize()?;
        self.mirror.as_mut_slice()[first..first + n_pages].fill(NO_PAGE);
        self.table.copy_from(first, &self.mirror, first, n_pages)?;
        self.table.device().synchronize()?;
        self.free.extend(self.pages[slot].drain(..).rev());
        Ok(())
    }
}
