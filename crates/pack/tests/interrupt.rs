//! A verb that is told to stop stops, says so, and leaves its destination as it was.

use std::path::Path;

use netweight_pack::{
    CompressOptions, ErrorKind, EstimateOptions, InspectOptions, Progress, RestoreOptions, Result, Silent,
    VerifyOptions, compress, estimate, inspect, restore, verify,
};

struct Stop;

impl Progress for Stop {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
    fn is_interrupted(&self) -> bool {
        true
    }
}

#[test]
fn verbs_stop() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm");
    let folder = tempfile::tempdir().unwrap();
    let (archive, new) = (folder.path().join("archive"), folder.path().join("new"));
    let check = |verb: &str, result: Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Interrupted, "{verb}");
        assert!(!new.exists(), "{verb}");
    };
    compress(&source, &archive, &CompressOptions::default(), &Silent).unwrap();
    check("compress", compress(&source, &new, &CompressOptions::default(), &Stop).map(|_| ()));
    // What is finished of a folder is kept beside it: a run that is not stopped goes on from there.
    check("restore", restore(&archive, &folder.path().join("new"), &RestoreOptions::default(), &Stop).map(|_| ()));
    check("verify", verify(&archive, &VerifyOptions::default(), &Stop).map(|_| ()));
    check("inspect", inspect(&archive, &InspectOptions::default(), &Stop).map(|_| ()));
    check("inspect", inspect(&source, &InspectOptions::default(), &Stop).map(|_| ()));
    check("estimate", estimate(&source, &EstimateOptions::default(), &Stop).map(|_| ()));
    restore(&archive, &new, &RestoreOptions::default(), &Silent).unwrap();
}
