//! Attention: keys and values into the cache, then queries over them.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Device, Memory};
use crate::error::{Error, Result};
use crate::kv_cache::{KvType, PagedCache, PagedShape};
use crate::runtime::Grid;

/// Positions of a span, whose results are merged; `SPAN_KEYS` in cu/attention.cu.
pub const SPAN_POSITIONS: usize = 256;
/// Queries of a tile: rows times the query heads that share a head of keys.
const TILE_QUERIES: usize = 64;

/// Where rows stand, on the GPU: so that a captured graph may run for other places. Rows of places that a cache does
/// not have are left out, and what is computed for them is any.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The sequence's slot in the cache.
    pub slots: &'a Memory<u32>, // (n_rows) or more
    /// The position in the sequence, from 0.
    pub positions: &'a Memory<u32>, // (n_rows) or more
}

/// How a layer attends. Its heads of keys and values are the cache's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Index of the layer in the cache.
    pub layer: usize,
    /// Query heads: a multiple of the heads of keys and values.
    pub n_heads: usize,
    /// What the product of query and key is multiplied with.
    pub scale: f32,
    /// `cap` of `cap * tanh(score / cap)`; more than 0.
    pub softcap: Option<f32>,
    /// Positions that a token sees, its own among them; all up to its own for `None`. 0 counts as 1.
    pub window: Option<usize>,
}

/// Memory for the results of spans before they are merged.
#[derive(Debug)]
pub struct AttendScratch {
    means: Memory<f32>, // (row and span, query head, head_dim rounded up to 16)
    stats: Memory<f32>, // (row and span, query head, 2)
}

impl AttendScratch {
    /// For up to `n_spans` spans of [`SPAN_POSITIONS`], of all rows of a launch together: more than the longest
    /// sequence has, or more rows at once. `n_heads` and `head_dim` are the most of any layer.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(device: &Device, n_spans: usize, n_heads: usize, head_dim: usize) -> Result<AttendScratch> {
        let n = n_spans.saturating_mul(n_heads);
        let means = device.zeroed(n.saturating_mul(head_dim.next_multiple_of(16)))?;
        Ok(AttendScratch { means, stats: device.zeroed(2 * n)? })
    }

    /// Rows of so many spans that fit.
    fn n_rows(&self, attend: &Attend, shape: PagedShape, n_spans: usize) -> usize {
        let per_row = n_spans * attend.n_heads.max(1);
        (self.means.len() / (per_row * shape.head_dim.next_multiple_of(16))).min(self.stats.len() / (2 * per_row))
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AppendFields {
    k: u64,
    v: u64,
    slots: u64,
    positions: u64,
    block_table: u64,
    keys: u64,
    values: u64,
    stride: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_slots: u32,
    max_pages: u32,
    n_pages: u32,
}

/// `AttendArgs` in cu/attention.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AttendFields {
    q: u64,
    slots: u64,
    positions: u64,
    block_table: u64,
    keys: u64,
    values: u64,
    means: u64,
    stats: u64,
    tiles: u64,
    out: u64,
    out_bf16: u64,
    q_stride: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    n_rows: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_slots: u32,
    max_pages: u32,
    n_pages: u32,
    n_spans: u32,
    window: u32,
    scale: f32,
    softcap: f32,
}

/// One type for each kernel.
macro_rules! kernels {
    ($($kernel:ident($fields:ident) $name:literal)*) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        struct $kernel($fields);

        impl Args for $kernel {
            const KERNEL: &'static str = $name;
        }
    )*};
}

kernels! {
    AppendF32(AppendFields) "append_f32"
    AppendF16(AppendFields) "append_f16"
    AppendBf16(AppendFields) "append_bf16"
    SpanF32(AttendFields) "attend_span_f32"
    SpanF16(AttendFields) "attend_span_f16"
    SpanBf16(AttendFields) "attend_span_bf16"
    Merge(AttendFields) "attend_merge"
    TileF16To128(AttendFields) "attend_tile_f16_128"
    TileF16To256(AttendFields) "attend_tile_f16_256"
    TileBf16To128(AttendFields) "attend_tile_bf16_128"
    TileBf16To256(AttendFields) "attend_tile_bf16_256"
}

/// Writes keys and values of rows `..n_rows` of `q | k | v` into the cache, over what was there. Slots must have pages
/// for these positions; rows whose slot has not are left out.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn append(
    qkv: &Buffer, // (n_rows, q | k | v)
    n_rows: usize,
    attend: &Attend,
    places: Places,
    cache: &mut PagedCache,
) -> Result<()> {
    let (shape, fields) = (cache.shape(), AppendFields::new(qkv, n_rows, attend, places, cache));
    let n_chunks = (shape.n_kv_heads * shape.head_dim.next_multiple_of(16)).div_ceil(256);
    let grid = Grid { blocks: [n_rows as u32, n_chunks as u32, 1], threads: 256, shared_bytes: 0 };
    let device = cache.table.device();
    // SAFETY: rows and columns were checked above; the kernel leaves out places that the cache does not have.
    unsafe {
        match shape.kv_type {
            KvType::F32 => device.launch(&AppendF32(fields), grid),
            KvType::F16 => device.launch(&AppendF16(fields), grid),
            KvType::Bf16 => device.launch(&AppendBf16(fields), grid),
        }
    }
}

impl AppendFields {
    pub(super) fn new(
        qkv: &Buffer,
        n_rows: usize,
        attend: &Attend,
        places: Places,
        cache: &PagedCache,
    ) -> AppendFields {
        let shape = cache.shape();
        let (q_width, kv_width) = (attend.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        AppendFields {
            k: qkv.floats_at(q_width, n_rows, kv_width),
            v: qkv.floats_at(q_width + kv_width, n_rows, kv_width),
            slots: places.slots.at(0, n_rows),
            positions: places.positions.at(0, n_rows),
            block_table: cache.table.at(0, 0),
            keys: cache.keys[attend.layer].at(0, 0),
            values: cache.values[attend.layer].at(0, 0),
            stride: qkv.width as u32,
            n_kv_heads: shape.n_kv_heads as u32,
            head_dim: shape.head_dim as u32,
            n_slots: shape.n_slots as u32,
            max_pages: shape.max_pages() as u32,
            n_pages: shape.n_pages as u32,
        }
    }
}

impl AttendFields {
    /// Without partials and tiles; `rows` are of all three.
    fn new(
        qkv: &Buffer,
        rows: Range<usize>,
        attend: &Attend,
        places: Places,
        cache: &PagedCache,
        out: &Buffer,
    ) -> AttendFields {
        let shape = cache.shape();
        let width = attend.n_heads * shape.head_dim;
        assert!(attend.n_heads.is_multiple_of(shape.n_kv_heads), "query heads for each head of keys");
        let row_at = |floats: u64, stride: usize| floats + (rows.start * stride * size_of::<f32>()) as u64;
        let out_bf16 = out.halves_at(0, rows.end, width);
        AttendFields {
            q: row_at(qkv.floats_at(0, rows.end, width), qkv.width),
            slots: places.slots.at(rows.start, rows.len()),
            positions: places.positions.at(rows.start, rows.len()),
            block_table: cache.table.at(0, 0),
            keys: cache.keys[attend.layer].at(0, 0),
            values: cache.values[attend.layer].at(0, 0),
            means: 0,
            stats: 0,
            tiles: 0,
            out: row_at(out.floats_at(0, rows.end, width), out.width),
            out_bf16: out_bf16 + (rows.start * out.halves_stride() * size_of::<u16>()) as u64,
            q_stride: qkv.width as u32,
            out_stride: out.width as u32,
            out_bf16_stride: out.halves_stride() as u32,
            n_rows: rows.len() as u32,
            n_heads: attend.n_heads as u32,
            n_kv_heads: shape.n_kv_heads as u32,
            head_dim: shape.head_dim as u32,
            n_slots: shape.n_slots as u32,
            max_pages: shape.max_pages() as u32,
            n_pages: shape.n_pages as u32,
            n_spans: 0,
            window: attend.window.map_or(u32::MAX, |window| window.clamp(1, u32::MAX as usize) as u32),
            scale: attend.scale,
            softcap: attend.softcap.unwrap_or(0.0),
        }
    }
}

/// Attends with queries of `rows`, each on its own: the kernel for single steps, which spreads a long sequence over the
/// GPU. The cache has the rows' own keys. `n_spans` is an upper bound of the [`SPAN_POSITIONS`] that any row's position
/// and those before it take: it is part of a captured graph, and no result depends on it.
///
/// # Errors
/// `InvalidArgument` where `scratch` is too small for a single row; the driver's.
///
/// # Panics
/// Where memory is smaller, or the heads do not fit each other.
#[allow(clippy::too_many_arguments)] // each is another thing
pub fn attend_steps(
    qkv: &Buffer, // (n_rows, q | k | v)
    rows: Range<usize>,
    attend: &Attend,
    places: Places,
    cache: &PagedCache,
    n_spans: usize,
    scratch: &mut AttendScratch,
    out: &mut Buffer, // (n_rows, n_heads * head_dim)
) -> Result<()> {
    let shape = cache.shape();
    let n_spans = n_spans.min(shape.max_positions.div_ceil(SPAN_POSITIONS)).max(1);
    let n_at_once = scratch.n_rows(attend, shape, n_spans).min(rows.len());
    if n_at_once == 0 && !rows.is_empty() {
        return Err(Error::InvalidArgument(format!("attention over {n_spans} spans needs more scratch")));
    }
    let n_parts = (attend.n_heads / shape.n_kv_heads).div_ceil(16);
    let n_steps = shape.head_dim.div_ceil(16);
    let device = cache.table.device();
    for first in rows.clone().step_by(n_at_once.max(1)) {
        let rows = first..rows.end.min(first + n_at_once);
        let mut fields = AttendFields::new(qkv, rows.clone(), attend, places, cache, out);
        (fields.means, fields.stats) = (scratch.means.at(0, 0), scratch.stats.at(0, 0));
        fields.n_spans = n_spans as u32;
        let blocks = [rows.len() as u32, (shape.n_kv_heads * n_parts) as u32, n_spans as u32];
        // Fragments of queries and weights, then two numbers for each page and row.
        let shared_bytes = ((n_steps + 16) * 32 * 16 * shape.kv_type.words() + 2 * 64 * 4) as u32;
        let spans = Grid { blocks, threads: 128, shared_bytes };
        let merge = Grid { blocks: [rows.len() as u32, attend.n_heads as u32, 1], threads: 128, shared_bytes: 0 };
        // SAFETY: rows and columns were checked by `AttendFields::new`, the scratch above; the kernels take no page
        // that the cache does not have, and no span beyond `n_spans`.
        unsafe {
            match shape.kv_type {
                KvType::F32 => device.launch(&SpanF32(fields), spans),
                KvType::F16 => device.launch(&SpanF16(fields), spans),
                KvType::Bf16 => device.launch(&SpanBf16(fields), spans),
            }?;
            device.launch(&Merge(fields), merge)?;
        }
    }
    Ok(())
}

/// Rows that [`attend_tiles`] takes at once, or `None` where [`attend_steps`] must do: for heads beyond 256 dimensions,
/// for more than 64 query heads to a head of keys, and for [`KvType::F32`].
pub fn tile_rows(attend: &Attend, shape: PagedShape) -> Option<usize> {
    let n_rows = TILE_QUERIES / (attend.n_heads / shape.n_kv_heads).max(1);
    Some(n_rows).filter(|&n_rows| n_rows > 0 && shape.head_dim <= 256 && shape.kv_type != KvType::F32)
}

/// Cuts rows into tiles of up to `tile_rows`, each of one slot at consecutive positions: first row and rows of each.
pub fn cut_tiles(
    slots: &[u32],     // (n_rows)
    positions: &[u32], // (n_rows)
    tile_rows: usize,
) -> Vec<[u32; 2]> {
    let mut tiles: Vec<[u32; 2]> = Vec::new();
    for (row, place) in slots.iter().zip(positions).enumerate() {
        let goes_on = row > 0 && *place.0 == slots[row - 1] && positions[row - 1].checked_add(1) == Some(*place.1);
        match tiles.last_mut() {
            Some([_, n_rows]) if goes_on && (*n_rows as usize) < tile_rows => *n_rows += 1,
            _ => tiles.push([row as u32, 1]),
        }
    }
    tiles
}

/// Attends with the queries of tiles, which share what they load: the kernel for prompts. The result has the same bits
/// as that of [`attend_steps`].
///
/// # Errors
/// `InvalidArgument` where [`tile_rows`] is `None`; the driver's.
///
/// # Panics
/// Where memory is smaller, or the heads do not fit each other.
#[allow(clippy::too_many_arguments)] // each is another thing
pub fn attend_tiles(
    qkv: &Buffer, // (n_rows, q | k | v)
    n_rows: usize,
    tiles: &Memory<[u32; 2]>, // (n_tiles) or more, as `cut_tiles` cuts these rows or some of them
    n_tiles: usize,
    attend: &Attend,
    places: Places,
    cache: &PagedCache,
    out: &mut Buffer, // (n_rows, n_heads * head_dim)
) -> Result<()> {
    let shape = cache.shape();
    if tile_rows(attend, shape).is_none() {
        return Err(Error::InvalidArgument("no tiles of queries have such heads".to_owned()));
    }
    let mut fields = AttendFields::new(qkv, 0..n_rows, attend, places, cache, out);
    fields.tiles = tiles.at(0, n_tiles);
    let n_steps = shape.head_dim.div_ceil(16);
    // For each of four warps, fragments of queries, and totals of 16 queries.
    let shared_bytes = (4 * n_steps * 32 * 16 + 4 * 16 * n_steps * 16 * 4) as u32;
    let grid = Grid { blocks: [n_tiles as u32, shape.n_kv_heads as u32, 1], threads: 128, shared_bytes };
    let device = cache.table.device();
    // SAFETY: rows and columns were checked by `AttendFields::new`, the tiles above; the kernel takes no row beyond
    // `n_rows`, and no page that the cache does not have.
    unsafe {
        match (shape.kv_type, shape.head_dim <= 128) {
            (KvType::F32, _) => unreachable!("has no tiles"),
            (KvType::F16, true) => device.launch(&TileF16To128(fields), grid),
            (KvType::F16, false) => device.launch(&TileF16To256(fields), grid),
            (KvType::Bf16, true) => device.launch(&TileBf16To128(fields), grid),
            (KvType::Bf16, false) => device.launch(&TileBf16To256(fields), grid),
        }
    }
}
