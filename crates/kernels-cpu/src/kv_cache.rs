//! Keys and values of all tokens so far. Goes in: the rows that a layer computes for new tokens. Comes out: keys in
//! tiles of 16 positions and values by position, as `attention.rs` (next) reads them.

use std::ops::Range;

use half::{bf16, f16};

use crate::aligned::Aligned;
use crate::error::{Error, Result};
use crate::lanes::{Lanes, N_LANES};
use crate::ops::Rows;

/// Positions of a tile of keys: one for each lane.
pub(crate) const TILE_KEYS: usize = N_LANES;
/// Positions that attention reads at once: two tiles. Room is made in this unit.
pub(crate) const BLOCK_KEYS: usize = 2 * TILE_KEYS;
/// Dimensions of a head, at most.
pub const MAX_HEAD_DIM: usize = 512;

/// What keys and values are kept as. They are rounded to the nearest, ties to even, and widened to f32 when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// As computed.
    F32,
    /// IEEE half precision; values beyond 65504 become infinite.
    F16,
    /// The upper half of an f32.
    Bf16,
}

/// A token's place: its sequence's slot, and its position there, both from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The sequence's slot.
    pub slot: usize,
    /// The position in the sequence.
    pub position: usize,
}

/// How much a cache holds, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// Heads of keys and values of a layer.
    pub n_kv_heads: usize,
    /// Dimensions of a head, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Sequences.
    pub n_slots: usize,
    /// Positions of a sequence.
    pub max_positions: usize,
    /// What numbers are kept as.
    pub kv_type: KvType,
}

/// Room for the keys and values of some sequences, allocated once. Memory is taken as positions are first written.
///
/// Keys lie as (n_slots, n_layers, n_kv_heads, tiles of 16 positions, head_dim, 16), values as (n_slots, n_layers,
/// n_kv_heads, positions, head_dim rounded up to 16), the rest of a row zero.
pub struct KvCache {
    shape: KvShape,
    keys: Plane,
    values: Plane,
}

/// Keys or values, as one kind of word; as the other it is empty.
pub(crate) enum Plane {
    Floats(Aligned<f32>),
    Halves(Aligned<u16>),
}

impl KvCache {
    /// Room for a shape.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a number is 0, heads are too long, or the whole does not fit an address space.
    pub fn new(shape: KvShape) -> Result<KvCache> {
        let KvShape { n_layers, n_kv_heads, head_dim, n_slots, max_positions, kv_type } = shape;
        if [n_layers, n_kv_heads, head_dim, n_slots, max_positions].contains(&0) || head_dim > MAX_HEAD_DIM {
            return Err(Error::InvalidArgument("a cache of keys and values is empty, or its heads too long"));
        }
        let positions = max_positions.checked_next_multiple_of(BLOCK_KEYS);
        let n_elements = [n_layers, n_kv_heads, n_slots, head_dim.next_multiple_of(N_LANES)]
            .iter()
            .try_fold(positions.unwrap_or(usize::MAX), |product, &factor| product.checked_mul(factor))
            .filter(|&n| n < isize::MAX as usize / size_of::<f32>() - N_LANES)
            .ok_or(Error::InvalidArgument("a cache of keys and values beyond the address space"))?;
        let may_have = match kv_type {
            KvType::F32 => Aligned::<f32>::may_have(2 * n_elements),
            KvType::F16 | KvType::Bf16 => Aligned::<u16>::may_have(2 * n_elements),
        };
        if !may_have {
            return Err(Error::InvalidArgument("no memory for the keys and values of so many positions"));
        }
        let plane = |n_elements| match kv_type {
            KvType::F32 => Plane::Floats(Aligned::zeroed(n_elements)),
            KvType::F16 | KvType::Bf16 => Plane::Halves(Aligned::zeroed(n_elements)),
        };
        // Keys need no padding of head_dim, which is where they differ.
        let n_keys = n_elements / head_dim.next_multiple_of(N_LANES) * head_dim;
        Ok(KvCache { shape, keys: plane(n_keys), values: plane(n_elements) })
    }

    /// How much it holds.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Writes the keys and values of one layer for tokens at `places`, over what was there.
    ///
    /// # Panics
    /// If a place or the layer is beyond the shape, or a row is short.
    pub fn append(
        &mut self,
        layer: usize,
        places: &[Place], // (n_tokens)
        k: Rows,          // (n_tokens, n_kv_heads * head_dim)
        v: Rows,          // (n_tokens, n_kv_heads * head_dim)
    ) {
        match self.shape.kv_type {
            KvType::F32 => self.append_as::<StoredF32>(layer, places, k, v),
            KvType::F16 => self.append_as::<StoredF16>(layer, places, k, v),
            KvType::Bf16 => self.append_as::<StoredBf16>(layer, places, k, v),
        }
    }

    fn append_as<S: Stored>(&mut self, layer: usize, places: &[Place], k: Rows, v: Rows) {
        let head_dim = self.shape.head_dim;
        for (row_idx, place) in places.iter().enumerate() {
            assert!(place.position < self.shape.max_positions, "a position beyond the cache");
            for head in 0..self.shape.n_kv_heads {
                let columns = row_idx * k.stride + head * head_dim..;
                let lane = self.key_range(place.slot, layer, head).start
                    + place.position / TILE_KEYS * TILE_KEYS * head_dim
                    + place.position % TILE_KEYS;
                let tile = S::words_mut(&mut self.keys)[lane..].iter_mut().step_by(TILE_KEYS);
                tile.zip(&k.data[columns][..head_dim]).for_each(|(word, &x)| *word = S::narrow(x));

                let start = self.value_range(place.slot, layer, head).start + place.position * self.value_stride();
                let values = &v.data[row_idx * v.stride + head * head_dim..][..head_dim];
                let words = S::words_mut(&mut self.values)[start..].iter_mut();
                words.zip(values).for_each(|(word, &x)| *word = S::narrow(x));
            }
        }
    }

    /// Keys of one head: (tiles of 16 positions, head_dim, 16).
    #[inline(always)]
    pub(crate) fn keys<S: Stored>(&self, slot: usize, layer: usize, head: usize) -> &[S::Word] {
        &S::words(&self.keys)[self.key_range(slot, layer, head)]
    }

    /// Values of one head: (positions, [`KvCache::value_stride`]).
    #[inline(always)]
    pub(crate) fn values<S: Stored>(&self, slot: usize, layer: usize, head: usize) -> &[S::Word] {
        &S::words(&self.values)[self.value_range(slot, layer, head)]
    }

    /// Elements from the values of a position to those of the next.
    pub(crate) fn value_stride(&self) -> usize {
        self.shape.head_dim.next_multiple_of(N_LANES)
    }

    fn key_range(&self, slot: usize, layer: usize, head: usize) -> Range<usize> {
        let len = self.padded_positions() * self.shape.head_dim;
        let start = self.head_idx(slot, layer, head) * len;
        start..start + len
    }

    fn value_range(&self, slot: usize, layer: usize, head: usize) -> Range<usize> {
        let len = self.padded_positions() * self.value_stride();
        let start = self.head_idx(slot, layer, head) * len;
        start..start + len
    }

    fn head_idx(&self, slot: usize, layer: usize, head: usize) -> usize {
        let KvShape { n_slots, n_layers, n_kv_heads, .. } = self.shape;
        assert!(slot < n_slots && layer < n_layers && head < n_kv_heads, "a place beyond the cache");
        (slot * n_layers + layer) * n_kv_heads + head
    }

    fn padded_positions(&self) -> usize {
        self.shape.max_positions.next_multiple_of(BLOCK_KEYS)
    }
}

/// A way to keep a number: one for each [`KvType`].
pub(crate) trait Stored {
    /// What lies in memory.
    type Word: Copy + Sync;
    /// Whether widening is work.
    const NEEDS_WIDENING: bool = true;
    fn narrow(x: f32) -> Self::Word;
    fn widen<L: Lanes>(l: L, words: &[Self::Word; N_LANES]) -> L::F;
    fn words(plane: &Plane) -> &[Self::Word];
    fn words_mut(plane: &mut Plane) -> &mut [Self::Word];
}

impl Plane {
    #[inline(always)]
    fn floats(&self) -> &[f32] {
        if let Plane::Floats(floats) = self { floats } else { &[] }
    }

    #[inline(always)]
    fn halves(&self) -> &[u16] {
        if let Plane::Halves(halves) = self { halves } else { &[] }
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        if let Plane::Floats(floats) = self { floats } else { &mut [] }
    }

    fn halves_mut(&mut self) -> &mut [u16] {
        if let Plane::Halves(halves) = self { halves } else { &mut [] }
    }
}

/// [`KvType::F32`]
pub(crate) struct StoredF32;
/// [`KvType::F16`]
pub(crate) struct StoredF16;
/// [`KvType::Bf16`]
pub(crate) struct StoredBf16;

impl Stored for StoredF32 {
    type Word = f32;
    const NEEDS_WIDENING: bool = false;

    fn narrow(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn widen<L: Lanes>(l: L, words: &[f32; N_LANES]) -> L::F {
        l.load(words)
    }

    #[inline(always)]
    fn words(plane: &Plane) -> &[f32] {
        plane.floats()
    }

    fn words_mut(plane: &mut Plane) -> &mut [f32] {
        plane.floats_mut()
    }
}

impl Stored for StoredF16 {
    type Word = u16;

    fn narrow(x: f32) -> u16 {
        f16::from_f32(x).to_bits()
    }

    #[inline(always)]
    fn widen<L: Lanes>(l: L, words: &[u16; N_LANES]) -> L::F {
        l.load_f16(words)
    }

    #[inline(always)]
    fn words(plane: &Plane) -> &[u16] {
        plane.halves()
    }

    fn words_mut(plane: &mut Plane) -> &mut [u16] {
        plane.halves_mut()
    }
}

impl Stored for StoredBf16 {
    type Word = u16;

    fn narrow(x: f32) -> u16 {
        bf16::from_f32(x).to_bits()
    }

    #[inline(always)]
    fn widen<L: Lanes>(l: L, words: &[u16; N_LANES]) -> L::F {
        l.load_bf16(words)
    }

    #[inline(always)]
    fn words(plane: &Plane) -> &[u16] {
        plane.halves()
    }

    fn words_mut(plane: &mut Plane) -> &mut [u16] {
        plane.halves_mut()
    }
}
