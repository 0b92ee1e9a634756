//! Writes an archive in which every large bf16 matrix of a checkpoint is a grid, rounded to the nearest: for measuring
//! what grids cost and how fast they run. It is no way to make a model small: nothing is measured on the way.
//!
//!     cargo run --release -p netweight-pack --example round_to_nearest -- MODEL DST STEP
//!
//! STEP is the step of every row in standard deviations of its weights: 0.26 gives about 4 bits a weight.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use netweight_container::{Checkpoint, Header, InputFile, Result};
use netweight_pack::{CompressOptions, Error, Grids, Silent, compress_grids};
use netweight_tensor::Grid;

struct Rounded {
    /// Name to file, offset, rows and columns.
    places: BTreeMap<String, (Arc<InputFile>, u64, usize, usize)>,
    step: f32,
}

impl Grids for Rounded {
    fn names(&self) -> BTreeSet<String> {
        self.places.keys().cloned().collect()
    }

    fn grid(&self, name: &str) -> Result<Arc<Grid>> {
        let (file, start, rows, cols) = &self.places[name];
        let bytes = file.read_vec(*start, 2 * (rows * cols) as u64)?;
        let bf16 = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        let weights: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(|&two| bf16(u16::from_le_bytes(two))).collect();
        let row_step = |row: &[f32]| {
            let deviation = (row.iter().map(|weight| weight * weight).sum::<f32>() / *cols as f32).sqrt();
            let largest = row.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
            let step = (deviation * self.step).max(largest / 127.0);
            f32::from_bits((step.to_bits() + 0x8000) & 0xffff_0000)
        };
        let row_steps = weights.chunks_exact(*cols).map(row_step).collect();
        Ok(Arc::new(Grid::nearest(&weights, row_steps, vec![1.0; *cols])))
    }
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}{}", error.source().map(|source| format!(": {source}")).unwrap_or_default());
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, destination, step] = arguments.as_slice() else {
        return Err(Error::invalid("arguments: MODEL DST STEP"));
    };
    let step = step.parse().map_err(|_| Error::invalid("STEP is no number"))?;
    let mut places = BTreeMap::new();
    for shard in Checkpoint::discover(Path::new(source))?.shards() {
        let file = Arc::new(InputFile::open(&shard.path)?);
        let (header, _) = Header::read(&file)?;
        for entry in header.tensors.iter().filter(|entry| entry.dtype_name == "BF16") {
            if let &[rows, cols] = entry.shape.as_slice()
                && rows >= 16
                && cols >= 32
            {
                let place = (Arc::clone(&file), header.header_bytes + entry.start, rows as usize, cols as usize);
                places.insert(entry.name.clone(), place);
            }
        }
    }
    let grids = Rounded { places, step };
    let report =
        compress_grids(Path::new(source), Path::new(destination), &grids, &CompressOptions::default(), &Silent)?;
    for (label, used) in &report.coders {
        println!(
            "{label}: {:.3} bits a weight of {}",
            16.0 * used.stored_bytes as f64 / used.bytes as f64,
            used.bytes / 2
        );
    }
    println!("{} bytes became {} in {:.1} s", report.original_bytes, report.archive_bytes, report.seconds);
    Ok(())
}
