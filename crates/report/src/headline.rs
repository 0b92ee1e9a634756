//! What the page says first: the sizes, and how near they are to the bound. Readable without scripts.

use std::fmt::Write as _;

use netweight_pack::{InspectedKind, Inspection};

use crate::escape::text;
use crate::format::{bytes, count, grouped, percent, signed_percent};

/// Last part of the path.
pub(crate) fn title(inspection: &Inspection) -> String {
    let path = inspection.path.trim_end_matches(['/', '\\']);
    let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
    if matches!(last, "" | "." | "..") { inspection.path.clone() } else { last.to_owned() }
}

/// What was inspected, in a line.
pub(crate) fn caption(inspection: &Inspection) -> String {
    let mut caption = match inspection.kind {
        InspectedKind::Archive => "netweight archive".to_owned(),
        _ => "safetensors checkpoint".to_owned(),
    };
    if let Some(format) = inspection.format {
        let _ = write!(caption, ", format {format}");
    }
    if let Some(level) = &inspection.level {
        let _ = write!(caption, ", level {level}");
    }
    caption + " · " + &inspection.path
}

/// The big number, the bar, and the small numbers.
pub(crate) fn headline(inspection: &Inspection) -> String {
    let totals = &inspection.totals;
    let total = totals.bytes as f64;
    let stored = totals.stored_bytes.map(|stored| stored as f64);
    let (number, meaning) = match (stored, totals.bound_bytes) {
        _ if total == 0.0 => (bytes(0.0), "no tensor holds anything"),
        (Some(stored), _) => (percent(stored / total), "of the original size"),
        (None, Some(bound)) => (percent(bound / total), "of its size is the entropy bound"),
        (None, None) => (bytes(total), "of tensors"),
    };
    let mut html = format!("<p class=\"hero\"><strong>{number}</strong> <span>{meaning}</span></p>\n");
    if total > 0.0 {
        html += &bar(total, stored, totals.bound_bytes, totals.joint_bytes);
    }
    html += "<dl class=\"facts\">\n";
    for (term, value, note) in facts(inspection) {
        let _ = writeln!(html, "<div><dt>{term}</dt><dd>{}<small>{}</small></dd></div>", text(&value), text(&note));
    }
    html + "</dl>\n"
}

/// A bar as long as the original: how much of it is stored, and where the bounds are.
fn bar(total: f64, stored: Option<f64>, bound: Option<f64>, joint: Option<f64>) -> String {
    let x = |part: f64| 1000.0 * (part / total).clamp(0.0, 1.0);
    let mut keys = String::from("<p class=\"keys\">");
    let named = [("stored", stored), ("exponent bound", bound), ("joint bound", joint)];
    let label: Vec<String> =
        named.iter().filter_map(|(name, part)| part.map(|part| format!("{name} {}", percent(part / total)))).collect();
    let label = text(&label.join(", "));
    let mut svg = format!(
        "<svg class=\"bar\" viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\
         <title>{label}</title><rect class=\"whole\" width=\"1000\" height=\"24\"/>"
    );
    if let Some(stored) = stored {
        let _ = write!(svg, "<rect class=\"stored\" width=\"{:.1}\" height=\"24\"/>", x(stored));
    }
    for (class, part) in [("bound", bound), ("joint", joint)] {
        if let Some(part) = part {
            let at = x(part);
            let _ = write!(svg, "<line class=\"edge\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"24\"/>");
            let _ = write!(svg, "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"24\"/>");
        }
    }
    for (class, (name, part)) in ["stored", "bound", "joint"].iter().zip(named) {
        if let Some(part) = part {
            let _ = write!(keys, "<span><i class=\"{class}\"></i>{name} {}</span>", percent(part / total));
        }
    }
    svg + "</svg>\n" + &keys + "</p>\n"
}

/// (term, value, note)
fn facts(inspection: &Inspection) -> Vec<(&'static str, String, String)> {
    let totals = &inspection.totals;
    let untied = inspection.tensors.iter().filter(|tensor| tensor.same_as.is_none());
    let n_weights: f64 = untied.clone().map(|tensor| tensor.n_elements as f64).sum();
    let n_untied = untied.count();
    let bits = |part: f64| {
        if n_weights > 0.0 { format!("{:.3} bits per weight", part * 8.0 / n_weights) } else { String::new() }
    };
    let mut facts = vec![("Original", bytes(totals.bytes as f64), format!("{} bytes", grouped(totals.bytes)))];
    if let Some(stored) = totals.stored_bytes {
        facts.push(("Archive", bytes(stored as f64), bits(stored as f64)));
        if stored > 0 {
            facts.push((
                "Ratio",
                format!("{:.3}", totals.bytes as f64 / stored as f64),
                "original by archive".to_owned(),
            ));
        }
    }
    if let Some(bound) = totals.bound_bytes {
        facts.push(("Exponent bound", bytes(bound), bits(bound)));
        if let Some(stored) = totals.stored_bytes.filter(|_| bound > 0.0) {
            let gap = stored as f64 / bound - 1.0;
            facts.push((
                "Against the bound",
                signed_percent(gap),
                "bound: exponents at their entropy, the rest raw".to_owned(),
            ));
        }
    }
    if let Some(joint) = totals.joint_bytes {
        facts.push(("Joint bound", bytes(joint), bits(joint)));
    }
    let n_tied = inspection.tensors.len() - n_untied;
    let tied = if n_tied == 0 { String::new() } else { format!(", {n_tied} of them tied") };
    facts.push(("Weights", count(n_weights), format!("in {} tensors{tied}", grouped(inspection.tensors.len() as u64))));
    facts
}
