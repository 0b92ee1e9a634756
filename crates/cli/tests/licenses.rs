//! Every crate that netweight is built from may be used under a licence that asks for no more than a notice.

use std::process::Command;

use serde_json::Value;

const ALLOWED: [&str; 8] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
];

fn output(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether one choice is allowed of each part that AND joins.
fn is_allowed(license: &str) -> bool {
    let is_choice_allowed =
        |part: &str| part.replace('/', " OR ").split(" OR ").any(|choice| ALLOWED.contains(&choice.trim()));
    license.replace(['(', ')'], "").split(" AND ").all(is_choice_allowed)
}

#[test]
fn licenses_are_permissive() {
    let version = output("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let args = ["metadata", "--offline", "--format-version", "1", "--filter-platform", host];
    let metadata: Value = serde_json::from_str(&output(env!("CARGO"), &args)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "{}", packages.len());
    for package in packages {
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(license), "{}: {license}", package["name"]);
    }
}

#[test]
fn choices_and_conjunctions() {
    let check = |license: &str, expected: bool| assert_eq!(is_allowed(license), expected, "{license}");
    check("MIT OR GPL-3.0", true);
    check("Unlicense/MIT", true);
    check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
    check("(MIT OR Apache-2.0) AND GPL-3.0", false);
    check("LGPL-2.1-or-later", false);
    check("none", false);
}
