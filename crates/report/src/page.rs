//! The page: the template with its styles, scripts and data filled in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use netweight_pack::Inspection;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::escape::{json_in_script, text};
use crate::headline::{caption, headline, title};

const TEMPLATE: &str = include_str!("../assets/report.html");
const STYLES: &str = include_str!("../assets/report.css");
/// In the order in which they must run.
const SCRIPTS: [&str; 7] = [
    include_str!("../assets/data.js"),
    include_str!("../assets/histogram.js"),
    include_str!("../assets/layers.js"),
    include_str!("../assets/treemap.js"),
    include_str!("../assets/sensitivity.js"),
    include_str!("../assets/table.js"),
    include_str!("../assets/report.js"),
];

/// What a matrix can bear, and what it got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// The tensor's name.
    pub name: String,
    /// Its weights.
    pub n_weights: u64,
    /// Bits of each that it got.
    pub bits: f64,
    /// Bits of each in the probe.
    pub probe_bits: f64,
    /// Divergence that the probe caused, nats.
    pub divergence: f64,
    /// The same of each attention head, first to last; none where it has none.
    pub heads: Vec<f64>,
}

/// A self-contained HTML page about what was inspected. Inspect with `bounds` on, or the exponents are missing. With
/// `sensitivity`, it has a heat map.
pub fn html(inspection: &Inspection, sensitivity: &[Sensitivity]) -> String {
    let script = format!("\"use strict\";\n{}", SCRIPTS.concat());
    fill(TEMPLATE, |key| match key {
        "title" => text(&title(inspection)),
        "caption" => text(&caption(inspection)),
        "headline" => headline(inspection),
        "styles" => STYLES.to_owned(),
        "script" => script.clone(),
        // No script but this one runs, whatever a file might smuggle in.
        "script_hash" => STANDARD.encode(Sha256::digest(&script)),
        "data" => json_in_script(inspection),
        "sensitivity" => json_in_script(sensitivity),
        _ => String::new(),
    })
}

/// Replaces each `{{key}}` in one pass: what is filled in is not looked at again.
fn fill(template: &str, value_of: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (key, rest) = part.split_once("}}").unwrap_or((part, ""));
        filled += &value_of(key);
        filled += rest;
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_once() {
        let check = |template: &str, expected: &str| {
            assert_eq!(fill(template, |key| format!("<{key}{{{{a}}}}>")), expected);
        };
        check("", "");
        check("no key", "no key");
        check("x{{a}}y{{b}}", "x<a{{a}}>y<b{{a}}>");
    }

    #[test]
    fn template_uses_every_key_once() {
        for key in ["script_hash", "caption", "headline", "styles", "data", "sensitivity", "script"] {
            assert_eq!(TEMPLATE.matches(&format!("{{{{{key}}}}}")).count(), 1, "{key}");
        }
        assert_eq!(TEMPLATE.matches("{{").count(), 9); // The title stands in two places.
    }

    #[test]
    fn assets_reach_for_nothing_and_close_nothing() {
        for asset in SCRIPTS.iter().chain([&STYLES, &TEMPLATE]) {
            let outside = asset.replace("http://www.w3.org/2000/svg", "");
            for word in ["http:", "https:", "@import", "url(", "innerHTML", "eval("] {
                assert!(!outside.contains(word), "{word}");
            }
        }
        assert!(SCRIPTS.iter().all(|script| !script.contains("</") && !script.contains("<!--")));
    }
}
