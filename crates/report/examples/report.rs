//! Writes the page about a checkpoint or an archive: `report PATH FILE.html`.
#![forbid(unsafe_code)]

use std::path::Path;

use netweight_pack::{InspectOptions, Silent, inspect};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, file] = &arguments[..] else { return Err("usage: report PATH FILE.html".into()) };
    let options = InspectOptions { bounds: true, ..InspectOptions::default() };
    let inspection = inspect(Path::new(path), &options, &Silent)?;
    std::fs::write(file, netweight_report::html(&inspection, &[]))?;
    Ok(())
}
