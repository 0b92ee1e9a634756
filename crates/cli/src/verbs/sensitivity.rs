//! `netweight inspect --sensitivity`: what each matrix of a tuned archive could bear, from its card.

use std::io::ErrorKind;
use std::path::Path;

use netweight_card::{CARD_NAME, MatrixPrecision, Signed};
use netweight_report::Sensitivity;

use crate::failure::{Failure, Kind};
use crate::table::{Column, Table};
use crate::verbs::tune::card_failed;

/// What the card of an archive says; none where there is no card, or an exact model's.
///
/// # Errors
/// `Io`; `Input` where the card cannot be read.
pub fn of_archive(path: &Path) -> Result<Vec<Sensitivity>, Failure> {
    let path = path.join(CARD_NAME);
    let bytes = match std::fs::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        bytes => bytes.map_err(|error| Failure::io(&path, error))?,
    };
    let card = Signed::decode(&bytes).and_then(|signed| signed.card());
    let card = card.map_err(|error| card_failed(error).at(&path))?;
    Ok(card.precision.into_iter().map(row).collect())
}

fn row(matrix: MatrixPrecision) -> Sensitivity {
    let MatrixPrecision { name, n_weights, bits, probe_bits, divergence, heads } = matrix;
    Sensitivity { name, n_weights, bits, probe_bits, divergence, heads }
}

/// There is none, and it was asked for.
pub fn missing(path: &Path) -> Failure {
    let hint = "`netweight tune` measures it and writes it into the card of its archive: inspect that";
    Failure::new(Kind::Input, "nothing is known of its matrices' sensitivity", hint).at(path)
}

/// A row for each matrix, in the order of the forward pass.
pub fn text(matrices: &[Sensitivity], width: Option<usize>) -> String {
    use Column::{Number, Text};
    let mut table = Table::new(vec![
        ("matrix", Text(26)),
        ("divergence", Number),
        ("at bits", Number),
        ("of a weight", Number),
        ("heads", Number),
        ("bits", Number),
    ]);
    for matrix in matrices {
        table.push(vec![
            matrix.name.clone(),
            format!("{:.2e}", matrix.divergence),
            format!("{:.2}", matrix.probe_bits),
            format!("{:.1e}", matrix.divergence / matrix.n_weights.max(1) as f64),
            spread(&matrix.heads),
            format!("{:.3}", matrix.bits),
        ]);
    }
    let left_out = width.map(|width| table.leave_out(&["heads", "at bits"], width)).unwrap_or_default();
    let mut text = table.render(width);
    if !left_out.is_empty() {
        text += &format!("left out for want of width: {}\n", left_out.join(", "));
    }
    text + "\ndivergence: what the model's predictions lose, in nats, with this matrix alone so coarse; bits: what it got\n"
}

/// The least and the most sensitive head.
fn spread(heads: &[f64]) -> String {
    let (least, most) = heads.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &head| (a.min(head), b.max(head)));
    if heads.is_empty() { String::new() } else { format!("{} of {least:.1e} to {most:.1e}", heads.len()) }
}
