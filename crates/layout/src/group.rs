//! One group of tiles in and out: the main path of this crate. Goes in: rows of weights as a checkpoint has them. Comes
//! out: the bytes of a group, and the same weights back. Next in the flow: view.rs, which checks and cuts a group.

use crate::cell::{CELL_COLS, CELL_WEIGHTS, PaddedCell, TILE_ROWS, TileRows};
use crate::escapes::write_nibbles;
use crate::exact::{DecodeExact, ESCAPE_ROOM, EncodeExact, Palette};
use crate::geometry::{MAX_COLS, tiles_per_group};
use crate::header::{self, ALIGNMENT, Entry, Header, READ_SLACK};
use crate::kernels::{self, Kernels};
use crate::palette::Histogram;
use crate::plain::{decode_bf16, decode_f16, decode_f32};
use crate::wide::is_wide;
use crate::{Error, GroupView, Layout, Result, TileView, exact11, exact12, index};

/// Encodes a group: `src` (n_rows, cols) little-endian elements of [`Layout::source_dtype`], at most
/// [`crate::Geometry::tiles_per_group`] tiles of 16 rows. `out` becomes the group, a multiple of 64 bytes; what it held
/// is lost, but reusing one saves time. The bytes are a function of the arguments alone, on every machine.
///
/// # Errors
/// [`Error::InvalidArgument`] where `cols` or `n_rows` is 0 or above the limit, or `src` has another length;
/// also where the layout has no place for an index ([`Layout::takes_index`]).
pub fn encode_group(layout: Layout, cols: usize, n_rows: usize, src: &[u8], out: &mut Vec<u8>) -> Result<()> {
    encode_with(kernels::best(), layout, cols, n_rows, src, out)
}

/// [`encode_group`] with the kernels of one row.
pub(crate) fn encode_with(
    kernels: &Kernels,
    layout: Layout,
    cols: usize,
    n_rows: usize,
    src: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    check_shape(layout, cols, n_rows, src.len())?;
    if layout.is_index() && src.iter().any(|&index| !layout.takes_index(index as i8)) {
        return Err(Error::InvalidArgument("an index that four bits cannot hold"));
    }
    let (n_tiles, n_cells) = (n_rows.div_ceil(TILE_ROWS), cols.div_ceil(CELL_COLS));
    let cells_at = header::cells_offset(layout, n_tiles);
    let nibbles_offset = cells_at + n_tiles * n_cells * layout.cell_bytes();
    let is_wide = is_wide(kernels.extremes, layout, src);
    let (palette, second) = ([0; 15], [0; 15]);
    let mut header =
        Header { layout, n_cells, n_tiles, is_wide, palette, second, nibbles_offset, raw_offset: nibbles_offset };
    let mut extra_bytes = 0;
    if layout.has_palette() {
        let mut histogram = Histogram::default();
        match layout.is_index() {
            true => histogram.count_indices(cols, n_rows, src),
            false => histogram.count(cols, n_rows, src),
        }
        let (n_palette, n_second) = (layout.n_palette(), layout.n_second_palette());
        let ranked = histogram.ranked();
        header.palette[..n_palette].copy_from_slice(&ranked[..n_palette]);
        header.second[..n_second].copy_from_slice(&ranked[n_palette..n_palette + n_second]);
        extra_bytes = room_for_escapes(&histogram, layout, n_tiles, n_cells);
    }
    // Old bytes are overwritten, not cleared first.
    out.reserve_exact((nibbles_offset + extra_bytes).saturating_sub(out.len()));
    out.resize(nibbles_offset, 0);
    out[..cells_at].fill(0);
    match layout.has_palette() {
        true => encode_exact(kernels, &mut header, cols, src, out),
        false => encode_plain(kernels, &header, cols, src, out),
    }
    header.write(out);
    Ok(())
}

/// About how many bytes follow the cells, so that a buffer need not grow on the way and end twice as large.
fn room_for_escapes(histogram: &Histogram, layout: Layout, n_tiles: usize, n_cells: usize) -> usize {
    let cells_bits = (layout.cell_bytes() * 8) as f64;
    let bits = histogram.bits_per_weight(layout) * CELL_WEIGHTS as f64 - cells_bits;
    let bytes = bits / 8.0 * (n_tiles * n_cells) as f64;
    (bytes * 1.05) as usize + n_tiles + READ_SLACK + ALIGNMENT
}

/// Decodes a group of `n_rows` rows back into `dst`, (n_rows, cols) elements of [`Layout::source_dtype`].
///
/// # Errors
/// [`Error::Truncated`] and [`Error::Corrupt`] where the bytes are not a group of that shape, or its codes and escapes
/// do not fit each other; then `dst` holds anything. [`Error::InvalidArgument`] as for [`encode_group`].
pub fn decode_group(layout: Layout, cols: usize, n_rows: usize, group: &[u8], dst: &mut [u8]) -> Result<()> {
    check_shape(layout, cols, n_rows, dst.len())?;
    let view = GroupView::parse(layout, cols, group)?;
    if view.n_tiles() != n_rows.div_ceil(TILE_ROWS) {
        return Err(Error::Corrupt("a group of another number of tiles"));
    }
    decode_tiles(&view, cols, 0, &mut Vec::new(), dst)
}

/// Decodes tiles of a group of a matrix of `cols` columns, from tile `first` on, into `dst`: the rows of those tiles,
/// (n_rows, cols) elements. Only the last tile may have fewer than 16 rows; those left out are not written. `scratch` is
/// for reuse: what it holds does not matter.
///
/// # Errors
/// [`Error::Corrupt`] as for [`decode_group`]; [`Error::InvalidArgument`] where `dst` is not whole rows, or the group
/// has no such tiles or other columns.
pub fn decode_tiles(
    view: &GroupView<'_>,
    cols: usize,
    first: usize,
    scratch: &mut Vec<u8>,
    dst: &mut [u8],
) -> Result<()> {
    decode_with(kernels::best(), view, cols, first, scratch, dst)
}

/// [`decode_tiles`] with the kernels of one row.
pub(crate) fn decode_with(
    kernels: &Kernels,
    view: &GroupView<'_>,
    cols: usize,
    first: usize,
    scratch: &mut Vec<u8>,
    dst: &mut [u8],
) -> Result<()> {
    let layout = view.layout();
    let row_bytes = cols * layout.element_bytes();
    if cols.div_ceil(CELL_COLS) != view.n_cells() || row_bytes == 0 || !dst.len().is_multiple_of(row_bytes) {
        return Err(Error::InvalidArgument("weights do not fill the rows"));
    }
    let n_tiles = (dst.len() / row_bytes).div_ceil(TILE_ROWS);
    if first.checked_add(n_tiles).is_none_or(|end| end > view.n_tiles()) {
        return Err(Error::InvalidArgument("the group has no such tiles"));
    }
    let tiles = (first..first + n_tiles).map(|tile_idx| view.tile(tile_idx));
    let n_escapes = if layout.has_palette() { view.n_cells() * CELL_WEIGHTS + 2 * ESCAPE_ROOM } else { 0 };
    if scratch.len() < n_escapes {
        scratch.resize(n_escapes, 0);
    }
    for (tile, dst) in tiles.zip(dst.chunks_mut(TILE_ROWS * row_bytes)) {
        match layout.has_palette() {
            true => decode_exact(kernels, view, tile, row_bytes, scratch, dst)?,
            false => decode_plain(layout, tile, row_bytes, dst),
        }
    }
    Ok(())
}

fn check_shape(layout: Layout, cols: usize, n_rows: usize, len: usize) -> Result<()> {
    if cols == 0 || cols > MAX_COLS || n_rows == 0 || n_rows > tiles_per_group(cols) * TILE_ROWS {
        return Err(Error::InvalidArgument("no group has that shape"));
    }
    if len != n_rows * cols * layout.element_bytes() {
        return Err(Error::InvalidArgument("weights do not fill the rows"));
    }
    Ok(())
}

/// Calls `encode` with runs of whole cells of a tile, `src` (at most 16 rows), and the index of the first: one run for
/// all inner cells, and one for each cell that is padded.
fn for_runs(layout: Layout, cols: usize, src: &[u8], mut encode: impl FnMut(TileRows<'_>, usize)) {
    let (row_bytes, cell_row_bytes) = (cols * layout.element_bytes(), layout.cell_row_bytes());
    let n_whole = if src.len() == TILE_ROWS * row_bytes { cols / CELL_COLS } else { 0 };
    if n_whole != 0 {
        encode(TileRows::new(src, row_bytes, cell_row_bytes, n_whole), 0);
    }
    let mut padded = PaddedCell::new(cell_row_bytes);
    for cell_idx in n_whole..cols.div_ceil(CELL_COLS) {
        encode(padded.load(src, row_bytes, cell_idx), cell_idx);
    }
}

fn encode_plain(kernels: &Kernels, header: &Header, cols: usize, src: &[u8], out: &mut [u8]) {
    let layout = header.layout;
    let encode = match layout {
        Layout::F32 => kernels.f32,
        Layout::F16 => kernels.f16,
        Layout::Index8 => index::encode8,
        Layout::Int4 => index::encode4,
        _ => kernels.bf16,
    };
    let cell_bytes = layout.cell_bytes();
    let cells = &mut out[header::cells_offset(layout, header.n_tiles)..];
    let tiles = src.chunks(TILE_ROWS * cols * layout.element_bytes());
    for (src, cells) in tiles.zip(cells.chunks_exact_mut(header.n_cells * cell_bytes)) {
        for_runs(layout, cols, src, |rows, first| {
            encode(rows, &mut cells[first * cell_bytes..][..rows.n_cells() * cell_bytes]);
        });
    }
}

/// Cells go where they belong, nibbles behind them; raw bytes are kept aside until all nibbles are there.
fn encode_exact(kernels: &Kernels, header: &mut Header, cols: usize, src: &[u8], out: &mut Vec<u8>) {
    let (layout, n_cells) = (header.layout, header.n_cells);
    let encode: EncodeExact = match layout {
        Layout::Index4 => exact12::encode_indices,
        Layout::Index3 => exact11::encode_indices,
        Layout::Exact11 => kernels.exact11,
        _ => kernels.exact12,
    };
    let palette = Palette::new(&header.palette[..layout.n_palette()]);
    let second = crate::palette::code_table(&header.second[..layout.n_second_palette()]);
    let cells_at = header::cells_offset(layout, header.n_tiles);
    let (cell_bytes, nibbles_offset) = (layout.cell_bytes(), header.nibbles_offset);
    let (mut raw, mut escapes) = (Vec::new(), vec![0; n_cells * CELL_WEIGHTS + ESCAPE_ROOM]);
    for (tile_idx, src) in src.chunks(TILE_ROWS * cols * layout.element_bytes()).enumerate() {
        let mut n_escapes = 0;
        let cells = &mut out[cells_at + tile_idx * n_cells * cell_bytes..][..n_cells * cell_bytes];
        for_runs(layout, cols, src, |rows, first| {
            let cells = &mut cells[first * cell_bytes..][..rows.n_cells() * cell_bytes];
            n_escapes += encode(rows, &palette, cells, &mut escapes[n_escapes..]);
        });
        match layout.n_second_palette() {
            1.. => write_nibbles(&escapes[..n_escapes], &second, out, &mut raw),
            _ => raw.extend_from_slice(&escapes[..n_escapes]),
        }
        let start = |len: usize| u32::try_from(len).expect("a group is smaller than 4 GiB");
        let next = Entry { nibble_start: start(out.len() - nibbles_offset), raw_start: start(raw.len()) };
        header::write_entry(out, tile_idx + 1, next);
    }
    header.raw_offset = out.len();
    out.extend_from_slice(&raw);
    out.resize((out.len() + READ_SLACK).next_multiple_of(ALIGNMENT), 0);
}

/// Decodes a tile into `dst`, at most 16 rows of `row_bytes` bytes.
fn decode_plain(layout: Layout, tile: TileView<'_>, row_bytes: usize, dst: &mut [u8]) {
    let mut padded = PaddedCell::new(layout.cell_row_bytes());
    for (cell_idx, cell) in tile.cells.chunks_exact(layout.cell_bytes()).enumerate() {
        match layout {
            Layout::F32 => decode_f32(array(cell), array_mut(padded.bytes_mut())),
            Layout::F16 => decode_f16(array(cell), array_mut(padded.bytes_mut())),
            Layout::Index8 => index::decode8(array(cell), array_mut(padded.bytes_mut())),
            Layout::Int4 => index::decode4(array(cell), array_mut(padded.bytes_mut())),
            _ => decode_bf16(array(cell), array_mut(padded.bytes_mut())),
        }
        padded.store(dst, row_bytes, cell_idx);
    }
}

/// As [`decode_plain`]. Whole cells go straight where they belong, padded ones by way of rows of their own.
fn decode_exact(
    kernels: &Kernels,
    view: &GroupView<'_>,
    tile: TileView<'_>,
    row_bytes: usize,
    escapes: &mut [u8],
    dst: &mut [u8],
) -> Result<()> {
    let layout = view.layout();
    let n_raw = tile.raw.len() - READ_SLACK;
    let decode: DecodeExact = match layout {
        Layout::Index4 => exact12::decode_indices,
        Layout::Index3 => exact11::decode_indices,
        Layout::Exact11 => kernels.decode_exact11,
        _ => kernels.decode_exact12,
    };
    let (n_least, n_most) = match layout.n_second_palette() {
        1.. => {
            let n = (kernels.read_nibbles)(tile.nibbles, tile.raw, view.second_palette(), escapes);
            let n = n.ok_or(Error::Corrupt("raw escapes do not fit their nibbles"))?;
            (n.saturating_sub(1), n)
        }
        _ => {
            escapes[..n_raw].copy_from_slice(&tile.raw[..n_raw]);
            (n_raw, n_raw)
        }
    };
    let mut palette = [0; 16];
    palette[..layout.n_palette()].copy_from_slice(view.palette());
    let n_whole = if dst.len() == TILE_ROWS * row_bytes { row_bytes / layout.cell_row_bytes() } else { 0 };
    let (whole, rest) = tile.cells.split_at(n_whole * layout.cell_bytes());
    let mut n_escapes = decode(whole, &palette, escapes, row_bytes, dst);
    let mut padded = PaddedCell::new(layout.cell_row_bytes());
    for (cell_idx, cell) in (n_whole..).zip(rest.chunks_exact(layout.cell_bytes())) {
        n_escapes += decode(cell, &palette, &escapes[n_escapes..], layout.cell_row_bytes(), padded.bytes_mut());
        padded.store(dst, row_bytes, cell_idx);
    }
    match (n_least..=n_most).contains(&n_escapes) {
        true => Ok(()),
        false => Err(Error::Corrupt("escapes do not fit their codes")),
    }
}

fn array<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.try_into().expect("a cell of that layout")
}

fn array_mut<const N: usize>(bytes: &mut [u8]) -> &mut [u8; N] {
    bytes.try_into().expect("a cell of that layout")
}
