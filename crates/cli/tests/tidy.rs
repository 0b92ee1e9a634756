//! Rules of the house, as tests: sizes of files and functions, where `unsafe` may stand, who depends on whom, and
//! that tables in docs/format.md say what the code says.

use std::path::{Path, PathBuf};

use netweight_tensor::DTYPES;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 100;
/// Crates with `unsafe` in named modules; every other crate forbids it.
const MAY_BE_UNSAFE: [&str; 7] =
    ["codec", "container", "cuda-emulator", "kernels-cpu", "kernels-cuda", "layout", "python"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folders of all crates.
fn crates() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("crates")).expect("crates");
    let folders = entries.map(|entry| entry.expect("an entry").path());
    let mut crates: Vec<PathBuf> = folders.filter(|path| path.join("Cargo.toml").exists()).collect();
    crates.push(root().join("python"));
    crates.sort();
    assert!(crates.len() >= 7, "{crates:?}");
    crates
}

/// The folder of a crate; the Python module has one of its own.
fn folder(crate_name: &str) -> PathBuf {
    root().join(if crate_name == "python" { "python".to_owned() } else { format!("crates/{crate_name}") })
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Every Rust file under a folder, with its text.
fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() && name(&path) != "target" {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), read(&path)));
        }
    }
    found
}

/// Fails with all findings at once.
fn no_findings(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut findings = Vec::new();
    for (path, text) in crates().iter().flat_map(|folder| rust_files(folder)) {
        let n_lines = text.lines().count();
        if n_lines > MAX_FILE_LINES {
            findings.push(format!("{}: {n_lines} lines", path.display()));
        }
        if path.components().any(|part| part.as_os_str() == "src") && !text.starts_with("//!") {
            findings.push(format!("{}: does not open with //!", path.display()));
        }
    }
    no_findings(&findings);
}

/// A function ends at the first `}` that stands as far in as its `fn` line.
#[test]
fn functions_are_short() {
    let (mut findings, mut n_functions) = (Vec::new(), 0);
    for (path, text) in crates().iter().flat_map(|folder| rust_files(folder)) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            n_functions += 1;
            let indent = line.len() - line.trim_start().len();
            let ends = |line: &&str| {
                line.len() - line.trim_start().len() == indent
                    && (line.trim_start().starts_with('}') || line.ends_with(';'))
            };
            let is_one_line = line.ends_with('}') || line.ends_with(';');
            let n_lines = if is_one_line { 1 } else { lines[start + 1..].iter().position(ends).map_or(1, |n| n + 2) };
            if n_lines > MAX_FUNCTION_LINES {
                findings.push(format!("{}:{}: a function of {n_lines} lines", path.display(), start + 1));
            }
        }
    }
    assert!(n_functions > 300, "functions are not found: {n_functions}");
    no_findings(&findings);
}

fn is_function(line: &str) -> bool {
    let words = line.trim_start();
    let mut before = words.split("fn ").next().unwrap_or_default().split_whitespace();
    let is_modifier =
        |word: &str| ["pub", "const", "unsafe", "async", "extern", "\"C\""].contains(&word) || word.starts_with("pub(");
    words.contains("fn ") && before.all(is_modifier)
}

#[test]
fn unsafe_stands_in_named_crates_only() {
    let mut findings = Vec::new();
    for folder in crates() {
        let opening = ["src/lib.rs", "src/main.rs"].iter().map(|file| folder.join(file)).find(|path| path.exists());
        let text = read(&opening.expect("a crate has lib.rs or main.rs"));
        let wanted = if MAY_BE_UNSAFE.contains(&name(&folder).as_str()) {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        if !text.contains(wanted) {
            findings.push(format!("{}: no {wanted}", folder.display()));
        }
    }
    no_findings(&findings);
}

/// An `unsafe` block or impl has `// SAFETY:` on its line or within three lines above it.
#[test]
fn unsafe_says_why_it_is_sound() {
    let (mut findings, mut n_blocks) = (Vec::new(), 0);
    for crate_name in MAY_BE_UNSAFE {
        for (path, text) in rust_files(&folder(crate_name).join("src")) {
            let lines: Vec<&str> = text.lines().collect();
            for (idx, line) in lines.iter().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if !(code.contains("unsafe {") || code.contains("unsafe impl")) {
                    continue;
                }
                n_blocks += 1;
                if !lines[idx.saturating_sub(3)..=idx].iter().any(|line| line.contains("SAFETY:")) {
                    findings.push(format!("{}:{}: unsafe without // SAFETY: within 3 lines", path.display(), idx + 1));
                }
            }
        }
    }
    assert!(n_blocks > 10, "blocks are not found: {n_blocks}");
    no_findings(&findings);
}

/// Our crates among the dependencies of one; those for its tests do not count.
fn our_dependencies(crate_name: &str) -> Vec<String> {
    let text = read(&folder(crate_name).join("Cargo.toml"));
    let dependencies = text.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
    let ours = dependencies.lines().filter_map(|line| line.strip_prefix("netweight-"));
    ours.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn dependencies_point_one_way() {
    let check = |crate_name: &str, allowed: &[&str]| {
        let found = our_dependencies(crate_name);
        assert!(found.iter().all(|found| allowed.contains(&found.as_str())), "{crate_name} depends on {found:?}");
    };
    check("tensor", &[]);
    check("codec", &["tensor"]);
    check("container", &["tensor"]);
    check("synth", &["tensor"]);
    check("pack", &["tensor", "codec", "container", "layout"]);
    check("report", &["pack"]);
    check("bench", &["tensor", "codec", "synth", "layout", "kernels-cuda", "model", "engine"]);
    check("layout", &["tensor"]);
    check("kernels-cpu", &["layout"]);
    check("kernels-cuda", &[]);
    check("cuda-emulator", &["kernels-cuda"]);
    check("model", &[]);
    check("engine", &["tensor", "container", "pack", "layout", "kernels-cpu", "kernels-cuda", "model"]);
    check("eval", &["engine", "model"]);
    check("tune", &["tensor", "container", "engine", "model", "eval"]);
    check("card", &["container", "engine", "eval"]);
    check("interchange", &["tensor", "container", "pack", "model"]);
    check("python", &["container", "pack", "layout", "kernels-cpu", "kernels-cuda"]);
    assert!(our_dependencies("pack").contains(&"codec".to_owned()), "dependencies are not read right");
    for folder in crates().iter().filter(|folder| name(folder) != "cli") {
        assert!(!our_dependencies(&name(folder)).iter().any(|found| found.is_empty() || found == "cli"));
    }
}

#[test]
fn one_program() {
    let is_program = |folder: &PathBuf| folder.join("src/main.rs").exists() || folder.join("src/bin").exists();
    let programs: Vec<String> =
        crates().iter().filter(|folder| is_program(folder)).map(|folder| name(folder)).collect();
    assert_eq!(programs, ["cli"], "`cargo run -- demo` works only where there is one program");
}

/// The part of docs/format.md from a heading to the next one.
fn section(heading: &str) -> String {
    let page = read(&root().join("docs/format.md"));
    let start = page.find(heading).unwrap_or_else(|| panic!("docs/format.md has no {heading:?}"));
    let body = &page[start + heading.len()..];
    body[..body.find("\n## ").unwrap_or(body.len())].to_owned()
}

#[test]
fn splits_are_those_of_the_format() {
    let code = read(&root().join("crates/codec/src/split.rs"));
    let table = code.split("const SPLITS").nth(1).and_then(|rest| rest.split("];").next()).expect("a table SPLITS");
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix('(')?.strip_suffix("),"));
    let in_code: Vec<String> =
        rows.filter_map(|row| Some(format!("{} `{}`", row.split(',').next()?, row.rsplit('"').nth(1)?))).collect();
    // The first cell of each row of the table names one split or more: "4 `half 4`, 6 `half 6` (...)".
    let page = section("## 4. Chunk");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let named = cells.flat_map(|cell| cell.split(" (").next().unwrap_or_default().split(", "));
    let in_page: Vec<String> =
        named.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned).collect();
    assert_eq!(in_code, in_page);
}

#[test]
fn coders_are_those_of_the_format() {
    let code = read(&root().join("crates/codec/src/split.rs"));
    let constants = code.split("mod coder").nth(1).expect("a module coder").lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": u8 = ")?;
        Some((value.strip_suffix(';')?.parse().ok()?, name.to_ascii_lowercase()))
    });
    let page = section("## 5. Coders");
    let headings = page.lines().filter_map(|line| {
        let (id, name) = line.strip_prefix("### ")?.split_once(' ')?;
        Some((id.parse::<u8>().ok()?, name.to_owned()))
    });
    let headings: Vec<(u8, String)> = headings.collect();
    assert_eq!(headings.len(), 4);
    assert_eq!(constants.collect::<Vec<(u8, String)>>(), headings);
}

#[test]
fn element_widths_are_those_of_the_format() {
    let page = section("## 4. Chunk");
    let line = page.lines().find(|line| line.contains("`w` follows from")).expect("the sentence on widths");
    // "8 for `F64 I64 U64`, 4 for ..., and 1 for every other dtype"
    let mut widths = std::collections::BTreeMap::new();
    let pieces: Vec<&str> = line.split('`').collect();
    for pair in pieces.windows(2) {
        let width = pair[0]
            .trim_end()
            .strip_suffix(" for")
            .and_then(|text| text.rsplit(' ').next())
            .and_then(|w| w.parse().ok());
        for dtype in width.iter().flat_map(|_| pair[1].split(' ')) {
            widths.insert(dtype, width.unwrap_or(1usize));
        }
    }
    assert_eq!(widths.len(), 3 + 4 + 4, "{widths:?}");
    for row in DTYPES {
        assert_eq!(row.element_bytes, widths.get(row.name).copied().unwrap_or(1), "{}", row.name);
    }
    assert!(widths.keys().all(|name| DTYPES.iter().any(|row| row.name == *name)), "{widths:?}");
}

#[test]
fn coding_limits_are_those_of_the_format() {
    let page = section("## 2. Manifest");
    assert!(page.contains("a power of two from 4096 to 16777216"));
    let code = rust_files(&root().join("crates/codec/src"));
    let limit = code.iter().find_map(|(_, text)| {
        text.split("const MAX_CHUNK_BYTES: usize = ").nth(1)?.split(';').next().map(str::to_owned)
    });
    assert!(matches!(limit.as_deref(), Some("16 << 20" | "1 << 24" | "16_777_216")), "{limit:?}");
}
