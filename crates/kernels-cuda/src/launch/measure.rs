//! Random bf16, and memory that is read or copied and nothing else: for measurements.

use bytemuck::{Pod, Zeroable};

use crate::device::{Args, Memory};
use crate::error::Result;
use crate::runtime::Grid;
use crate::twin;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RandomArgs {
    out: u64,
    first: u64,
    len: u64,
    seed: u64,
    scale: f32,
    padding: u32,
}

impl Args for RandomArgs {
    const KERNEL: &'static str = "random_halves";
}

/// `out[i]` is value `first + i` of the sequence of `seed`, with standard deviation `scale`, for the first `len` values.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where `out` is shorter.
pub fn random_halves(out: &mut Memory<u16>, len: usize, (seed, first): (u64, u64), scale: f32) -> Result<()> {
    let scale = twin::step_of(scale);
    let args = RandomArgs { out: out.at(0, len), first, len: len as u64, seed, scale, padding: 0 };
    let grid = Grid { blocks: [len.div_ceil(2048) as u32, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: `len` values were checked.
    unsafe { out.device().launch(&args, grid) }
}

/// bf16 in 16 bytes.
const UNIT_VALUES: usize = 8;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StreamArgs {
    from: u64,
    to: u64,
    sums: u64,
    n_units: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Reading(StreamArgs);

impl Args for Reading {
    const KERNEL: &'static str = "read_memory";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Copying(StreamArgs);

impl Args for Copying {
    const KERNEL: &'static str = "copy_memory";
}

/// Reads all of `from`, whole units of eight values, on as many blocks as `sums` is long: what each block reads, summed, is added to its sum.
///
/// # Errors
/// The driver's.
pub fn read_memory(from: &Memory<u16>, sums: &mut Memory<u32>) -> Result<()> {
    let (n_units, n_blocks) = (from.len() / UNIT_VALUES, sums.len());
    let args = StreamArgs { from: from.at(0, from.len()), to: 0, sums: sums.at(0, n_blocks), n_units: n_units as u64 };
    let grid = Grid { blocks: [n_blocks as u32, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all of `from` is read, and there is a sum for each block.
    unsafe { from.device().launch(&Reading(args), grid) }
}

/// Copies all of `from`, whole units of eight values, on `n_blocks` blocks.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where `to` is shorter.
pub fn copy_memory(from: &Memory<u16>, to: &mut Memory<u16>, n_blocks: usize) -> Result<()> {
    let n_units = from.len() / UNIT_VALUES;
    let args = StreamArgs { from: from.at(0, from.len()), to: to.at(0, from.len()), sums: 0, n_units: n_units as u64 };
    let grid = Grid { blocks: [n_blocks as u32, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: both have as many units.
    unsafe { from.device().launch(&Copying(args), grid) }
}
