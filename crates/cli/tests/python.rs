//! The safetensors library for Python opens an archive, and a restored tensor is the original's.

mod common;

use std::process::{Command, Stdio};

use common::{bookworm, finish, run, scratch};

const SCRIPT: &str = "
import json, sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework='np') as archive:
    names = list(archive.keys())
    assert 'netweight.manifest' in names and 'lm_head.weight' in names, names
    assert all(archive.get_slice(name).get_dtype() == 'U8' for name in names)
    assert archive.metadata()['netweight'] == '1'
    print(len(names))
with safe_open(sys.argv[2], framework='np') as rows:
    assert rows.get_slice('lm_head.weight').get_shape() == [4, 256]
";

#[test]
fn python_opens_archives() {
    let probe = Command::new("python3").args(["-c", "import numpy, safetensors"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: python3 has no safetensors and numpy here");
        return;
    }
    let work = scratch();
    let (archive, rows) = (work.path().join("archive"), work.path().join("rows.safetensors"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    run(args!["restore", archive, "-o", rows, "--tensor", "lm_head.weight", "--rows", "0..4"]).ok();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(archive.join("model.safetensors")).arg(rows);
    assert_eq!(finish(&mut python).ok().stdout, "58\n");
}
