//! Pages about hostile, empty and ordinary checkpoints.

use std::path::Path;

use netweight_pack::{CompressOptions, InspectOptions, Silent, compress, inspect};
use netweight_report::{Sensitivity, html};
use netweight_synth::{Kind, Shapes, write_file};

const HOSTILE: &str = "</script><img src=x onerror=alert(1)><!--{{data}}\u{2028}&amp;";

fn page(path: &Path) -> String {
    page_with(path, &[])
}

fn page_with(path: &Path, sensitivity: &[Sensitivity]) -> String {
    html(&inspect(path, &InspectOptions { bounds: true, ..InspectOptions::default() }, &Silent).unwrap(), sensitivity)
}

fn write_safetensors(path: &Path, json: &str, data: &[u8]) {
    std::fs::write(path, [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()).unwrap();
}

/// The JSON that a browser finds in the page, read as a browser reads it: up to the first `</script`.
fn data(page: &str) -> serde_json::Value {
    json(page, "data")
}

fn json(page: &str, id: &str) -> serde_json::Value {
    let (_, rest) = page.split_once(&format!(r#"<script type="application/json" id="{id}">"#)).unwrap();
    serde_json::from_str(rest.split_once("</script").unwrap().0).unwrap()
}

/// What holds for every page.
fn check(page: &str) {
    assert!(page.starts_with("<!doctype html>\n") && page.ends_with("</html>\n"));
    assert_eq!(page.matches("<script").count(), 3);
    assert_eq!(page.matches("</script").count(), 3);
    assert_eq!(page.matches("<img").count(), 0);
    assert!(data(page)["tensors"].is_array());
    let before_data = page.split_once("<script").unwrap().0;
    for word in ["http:", "https:", " src=", "@import", "NaN"] {
        assert!(!before_data.contains(word), "{word}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("<b>&{{data}}.safetensors"), folder.path().join("a.safetensors"));
    let name = serde_json::to_string(HOSTILE).unwrap();
    let json = format!(
        r#"{{{name}:{{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}},"x":{{"dtype":{name},"shape":[1],"data_offsets":[4,5]}}}}"#
    );
    write_safetensors(&source, &json, &[0x80, 0x3f, 0, 0x40, 1]);
    compress(&source, &archive, &CompressOptions::default(), &Silent).unwrap();
    for path in [&source, &archive] {
        let page = page(path);
        check(&page);
        assert_eq!(data(&page)["tensors"][0]["name"], HOSTILE);
        assert_eq!(data(&page)["tensors"][1]["dtype"], HOSTILE);
        assert!(!page.contains("<b>"));
    }
    assert!(page(&source).contains("<h1>&lt;b&gt;&amp;{{data}}.safetensors</h1>"));
}

#[test]
fn sensitivity_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.safetensors");
    write_file(&source, Kind::Bf16, &Shapes::TINY, 1).unwrap();
    let (heads, divergence) = (vec![1e-5, 3e-6], 2e-4);
    let matrix = Sensitivity { name: HOSTILE.into(), n_weights: 4, bits: 3.9, probe_bits: 3.5, divergence, heads };
    let page = page_with(&source, &[matrix]);
    check(&page);
    let found = json(&page, "sensitivity-data");
    assert_eq!((found[0]["name"].as_str(), found[0]["heads"][1].as_f64()), (Some(HOSTILE), Some(3e-6)));
}

#[test]
fn nothing_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.safetensors");
    for json in ["{}", r#"{"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#] {
        write_safetensors(&source, json, b"");
        let page = page(&source);
        check(&page);
        assert!(page.contains("no tensor holds anything"));
    }
}

#[test]
fn headline_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("m.safetensors"), folder.path().join("a.safetensors"));
    write_file(&source, Kind::Bf16, &Shapes::TINY, 1).unwrap();
    compress(&source, &archive, &CompressOptions::default(), &Silent).unwrap();
    let (before, after) = (page(&source), page(&archive));
    check(&before);
    check(&after);
    assert!(before.contains("of its size is the entropy bound") && before.contains("787\u{a0}kB"));
    assert!(after.contains("of the original size") && after.contains("level default"));
    assert!(after.contains("<title>stored 6"), "the bar says what it shows");
}
