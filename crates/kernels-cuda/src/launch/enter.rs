//! All that stands between a layer's projections and its attention, in one launch.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use super::attention::{AppendFields, Attend, Places};
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::kv_cache::{KvType, PagedCache};
use crate::runtime::Grid;

/// Norms of heads, before they are rotated.
#[derive(Clone, Copy, Debug)]
pub struct Norms<'a> {
    /// Of query heads.
    pub q: &'a Memory<f32>, // (head_dim)
    /// Of key heads.
    pub k: &'a Memory<f32>, // (head_dim)
    /// What is added to the mean square.
    pub eps: f32,
}

/// How heads are rotated: as `rope`.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Dimensions that are.
    pub rotary_dim: usize,
    /// Cosines, then sines.
    pub table: &'a Memory<f32>, // (table rows, rotary_dim)
    /// Which of them each row takes.
    pub table_rows: &'a Memory<u32>, // (n_rows) or more
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Fields {
    to: AppendFields,
    x: u64,
    x_bf16: u64,
    q_norm: u64,
    k_norm: u64,
    table: u64,
    table_rows: u64,
    bf16_stride: u32,
    n_rows: u32,
    n_heads: u32,
    half: u32,
    table_len: u32,
    eps: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct EnterF32(Fields);

impl Args for EnterF32 {
    const KERNEL: &'static str = "enter_heads_f32";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct EnterF16(Fields);

impl Args for EnterF16 {
    const KERNEL: &'static str = "enter_heads_f16";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct EnterBf16(Fields);

impl Args for EnterBf16 {
    const KERNEL: &'static str = "enter_heads_bf16";
}

/// `head_norm` of query and key heads, if there are norms, `rope` of both, and `append`, with the bits of all these one
/// after the other; but keys and values in `qkv` stay as they are: only queries are changed in place.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller, norms are not as long as a head, or `rotary_dim` is odd or more than a head has.
pub fn enter_heads(
    qkv: &mut Buffer, // (n_rows, q | k | v)
    n_rows: usize,
    attend: &Attend,
    norms: Option<Norms>,
    rotation: Rotation,
    places: Places,
    cache: &mut PagedCache,
) -> Result<()> {
    let shape = cache.shape();
    let (head_dim, rotary_dim) = (shape.head_dim, rotation.rotary_dim);
    assert!(rotary_dim <= head_dim && rotary_dim.is_multiple_of(2), "pairs of a head's dimensions");
    let norm = |of: fn(&Norms) -> u64| norms.as_ref().map_or(0, of);
    if let Some(norms) = norms {
        assert_eq!([norms.q.len(), norms.k.len()], [head_dim; 2], "a weight for each dimension");
    }
    let n_heads = attend.n_heads + 2 * shape.n_kv_heads;
    let fields = Fields {
        to: AppendFields::new(qkv, n_rows, attend, places, cache),
        x: qkv.floats_at(0, n_rows, n_heads * head_dim),
        x_bf16: qkv.halves_at(0, n_rows, n_heads * head_dim),
        q_norm: norm(|norms| norms.q.at(0, 0)),
        k_norm: norm(|norms| norms.k.at(0, 0)),
        table: rotation.table.at(0, 0),
        table_rows: rotation.table_rows.at(0, n_rows),
        bf16_stride: qkv.halves_stride() as u32,
        n_rows: n_rows as u32,
        n_heads: attend.n_heads as u32,
        half: (rotary_dim / 2) as u32,
        table_len: (rotation.table.len() / rotary_dim.max(1)) as u32,
        eps: norms.map_or(0.0, |norms| norms.eps),
    };
    let grid = Grid { blocks: [(n_rows * n_heads).div_ceil(4) as u32, 1, 1], threads: 128, shared_bytes: 0 };
    let device = cache.table.device();
    // SAFETY: all rows and columns were checked above; the kernel leaves out places that the cache does not have, and
    // rows that the table does not have.
    unsafe {
        match shape.kv_type {
            KvType::F32 => device.launch(&EnterF32(fields), grid),
            KvType::F16 => device.launch(&EnterF16(fields), grid),
            KvType::Bf16 => device.launch(&EnterBf16(fields), grid),
        }
    }
}
