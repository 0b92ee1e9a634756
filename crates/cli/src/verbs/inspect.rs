//! `netweight inspect`: the tensors of a checkpoint or archive, how they are stored, how small they could get.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use netweight_container::AtomicFile;
use netweight_pack::{InspectOptions, InspectedKind, Inspection, TensorReport, inspect};
use netweight_report::Sensitivity;
use serde::Serialize;

use crate::bar::Bar;
use crate::failure::{Failure, Kind, Reads};
use crate::table::{Column, Table};
use crate::ui::Ui;
use crate::units::{bytes, counted, grouped, percent};
use crate::verbs::grouping::{Group, groups, singles};
use crate::verbs::{Outcome, sensitivity};

const EXAMPLES: &str = "\
Examples:
  netweight inspect Llama-3.1-8B.nw             Tensors that differ in their layer only share a row
  netweight inspect Llama-3.1-8B.nw --all       Each tensor has its row
  netweight inspect Llama-3.1-8B.nw --html report.html
  netweight inspect Llama-3.1-8B --no-bounds    At once: headers only
  netweight inspect small --sensitivity         What each matrix of a tuned model could bear, and got

Columns: bits is what a weight takes in the archive, on average; bound is the bits with its exponent coded at
its order-0 entropy in that tensor and the rest as it is; joint is the same for its 16 most significant bits
together: what a coder could reach at best with one table for each tensor that costs nothing.";

/// Show the tensors of a checkpoint or archive, how they are stored and how small they could get
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A checkpoint or an archive, file or folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// A row for each tensor.
    #[arg(long)]
    pub all: bool,
    /// Write a page with charts too: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show what each matrix of a tuned archive could bear. A page has it as a heat map in any case.
    #[arg(long)]
    pub sensitivity: bool,
    /// Do not go through the weights: leave the bounds out.
    #[arg(long)]
    pub no_bounds: bool,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
}

/// Inspects, then prints a table.
///
/// # Errors
/// Those of [`inspect`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    args.html.as_deref().map_or(Ok(()), check_page_free)?;
    let sensitivity = sensitivity::of_archive(&args.path)?;
    if args.sensitivity && sensitivity.is_empty() {
        return Err(sensitivity::missing(&args.path));
    }
    let options = InspectOptions { threads: usize::from(args.threads), bounds: !args.no_bounds };
    let bar = Bar::new(ui, "inspect");
    let found = inspect(&args.path, &options, &bar).map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
    drop(bar);
    if let Some(page) = &args.html {
        write_page(page, &found, &sensitivity).map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
    }
    let document = Document { found: &found, sensitivity: args.sensitivity.then_some(&sensitivity) };
    ui.answer("inspect", &document, || {
        let page = args.html.iter().map(|page| format!("\n{:<12}{}", "page", page.display())).collect::<String>();
        let table = match args.sensitivity {
            true => heading(&found) + "\n" + &sensitivity::text(&sensitivity, ui.width()),
            false => text(&found, args.all, ui.width()),
        };
        table + &page
    })?;
    Ok(0)
}

/// The answer as JSON.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    found: &'a Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<&'a Vec<Sensitivity>>,
}

/// A page of ours is replaced without asking, nothing else is ever.
fn check_page_free(page: &Path) -> Result<(), Failure> {
    let start = || -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        File::open(page)?.take(PAGE_START.len() as u64).read_to_end(&mut start)?;
        Ok(start)
    };
    match start() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(start) if start == PAGE_START => Ok(()),
        _ => Err(Failure::new(Kind::Exists, "is already there, and no page of ours", "choose another file for --html")
            .at(page)),
    }
}

fn write_page(page: &Path, found: &Inspection, sensitivity: &[Sensitivity]) -> netweight_pack::Result<()> {
    let out = AtomicFile::create(page, true)?;
    out.write_all_at(0, netweight_report::html(found, sensitivity).as_bytes())?;
    out.commit()
}

/// How pages begin.
const PAGE_START: &[u8] = b"<!doctype html>";

/// Columns that a narrow terminal does without, the first first.
const NARROW: [&str; 7] = ["size", "stored", "joint", "shape", "coder", "dtype", "n"];

fn text(found: &Inspection, all: bool, width: Option<usize>) -> String {
    let rows = if all { singles(&found.tensors) } else { groups(&found.tensors) };
    let columns =
        Columns { is_archive: found.kind == InspectedKind::Archive, bounds: found.totals.bound_bytes.is_some() };
    let mut table = Table::new(columns.headings());
    for group in &rows {
        table.push(columns.row(group));
    }
    let whole = Group {
        name: format!("all {}", counted(found.tensors.len() as u64, "tensor")),
        tensors: found.tensors.iter().collect(),
    };
    if !found.tensors.is_empty() {
        let mut row = columns.row(&whole);
        row[1..=3].fill(String::new());
        if columns.is_archive {
            row[5].clear();
        }
        table.push(row);
    }
    let left_out = width.map(|width| table.leave_out(&NARROW, width)).unwrap_or_default();
    let mut parts = vec![heading(found), table.render(width)];
    if !left_out.is_empty() {
        parts.push(format!("left out for want of width: {}\n", left_out.join(", ")));
    }
    parts.push(totals(found));
    parts.join("\n")
}

fn heading(found: &Inspection) -> String {
    let kind = match (found.kind, found.format, &found.level) {
        (InspectedKind::Archive, Some(format), Some(level)) => {
            let resident = found.resident.iter().map(|layout| format!(", resident {layout}")).collect::<String>();
            format!("archive of format {format}, level {level}{resident}")
        }
        (InspectedKind::Archive, ..) => "archive".to_owned(),
        _ => "checkpoint".to_owned(),
    };
    let refinement =
        found.refinement.map_or_else(String::new, |refinement| match (refinement.n_here, refinement.n_files) {
            (0, _) => ", its refinement left out".to_owned(),
            (here, all) if here < all => {
                format!(", {here} of {all} files of its refinement, {} bytes", grouped(refinement.bytes))
            }
            _ => format!(", and a refinement of {} bytes that gives the original back", grouped(refinement.bytes)),
        });
    let n_weights: u64 = found.tensors.iter().map(|tensor| tensor.n_elements).sum();
    let n_tensors = counted(found.tensors.len() as u64, "tensor");
    format!("{}: {kind}, {n_tensors}, {} weights{refinement}\n", found.path, grouped(n_weights))
}

fn totals(found: &Inspection) -> String {
    let totals = &found.totals;
    let whole = totals.bytes as f64;
    let line = |what: &str, n_bytes: f64| {
        format!("{what:<12}{:>20} bytes  {:>9}", grouped(n_bytes.round() as u64), percent(n_bytes, whole))
    };
    let mut lines = vec![line("tensors", whole)];
    lines.extend(totals.stored_bytes.map(|stored| line("stored", stored as f64)));
    lines.extend(totals.bound_bytes.map(|bound| line("bound", bound)));
    lines.extend(totals.joint_bytes.map(|joint| line("joint", joint)));
    if let (Some(stored), Some(bound)) = (totals.stored_bytes, totals.bound_bytes) {
        lines.push(format!("stored is {} of the bound", percent(stored as f64, bound)));
    }
    lines.join("\n")
}

/// Which columns there is something to say in.
struct Columns {
    is_archive: bool,
    bounds: bool,
}

impl Columns {
    fn headings(&self) -> Vec<(&'static str, Column)> {
        use Column::{Number, Text};
        let mut headings =
            vec![("tensor", Text(26)), ("n", Number), ("dtype", Number), ("shape", Text(10)), ("size", Number)];
        if self.is_archive {
            headings.extend([("coder", Text(12)), ("stored", Number), ("bits", Number)]);
        }
        if self.bounds {
            headings.extend([("bound", Number), ("joint", Number)]);
        }
        headings
    }

    fn row(&self, group: &Group<'_>) -> Vec<String> {
        let first = group.tensors[0];
        let shape: Vec<String> = first.shape.iter().map(u64::to_string).collect();
        let size = |field: fn(&TensorReport) -> Option<f64>| {
            group.sum(field).map_or("-".to_owned(), |n_bytes| bytes(n_bytes as u64))
        };
        let bits = |field: fn(&TensorReport) -> Option<f64>| {
            group.mean_bits(field).map_or("-".to_owned(), |bits| format!("{bits:.3}"))
        };
        let mut row = vec![
            group.name.clone(),
            group.tensors.len().to_string(),
            first.dtype.clone(),
            if shape.is_empty() { "scalar".to_owned() } else { shape.join(" x ") },
            size(|tensor| Some(tensor.bytes as f64)),
        ];
        if self.is_archive {
            let stored = size(|tensor| tensor.stored_bytes.map(|n_bytes| n_bytes as f64));
            row.extend([group.coder(), stored, bits(|tensor| tensor.bits_per_element)]);
        }
        if self.bounds {
            row.extend([bits(|tensor| tensor.bound_bits), bits(|tensor| tensor.joint_bits)]);
        }
        row
    }
}
