//! Checkpoints: whatever is a safetensors file can be archived within the size promise and comes back.

use netweight_container::Header;
use netweight_pack::{RestoreOptions, Silent, VerifyOptions, compress, restore, verify};

use crate::input::Input;
use crate::scratch::Scratch;
use crate::{forge, make};

const MAX_DATA_BYTES: u64 = 1 << 16;

/// Input: the number of options; the JSON of a header, ended by a zero byte; data, which is repeated or cut where the header is good
/// for another size.
pub(crate) fn file(input: &[u8]) {
    let mut parts = Input::new(input);
    let (number, json, data) = (parts.u8(), parts.text(), parts.rest());
    let n_data = forge::data_bytes(json).min(MAX_DATA_BYTES) as usize;
    let data = if data.is_empty() { &[0][..] } else { data };
    let data: Vec<u8> = data.iter().copied().cycle().take(n_data).collect();
    let original = [&(json.len() as u64).to_le_bytes()[..], json, &data].concat();
    let scratch = Scratch::new();
    let (source, archive, back) = (scratch.write("a.safetensors", &original), scratch.path("b"), scratch.path("c"));
    let compressed = compress(&source, &archive, &make::options(number), &Silent);
    let header = Header::parse(&original[..8 + json.len()], original.len() as u64);
    let is_checkpoint = header.is_ok_and(|header| !header.metadata.contains_key("netweight"));
    assert_eq!(compressed.is_ok(), is_checkpoint, "{:?}", compressed.err());
    if !is_checkpoint {
        return assert_eq!(scratch.names(), ["a.safetensors"]);
    }
    let archive_bytes = std::fs::metadata(&archive).expect("the archive").len() as usize;
    assert!(archive_bytes <= original.len() + original.len() / 1000 + 4096, "{archive_bytes} from {}", original.len());
    let verified = verify(&archive, &VerifyOptions { threads: 1, against: Some(source) }, &Silent).expect("an archive");
    assert!(verified.is_ok(), "{:?}", verified.problems);
    restore(&archive, &back, &RestoreOptions { threads: 1, ..RestoreOptions::default() }, &Silent).expect("an archive");
    assert!(std::fs::read(&back).expect("the file just written") == original, "other bytes came back");
    assert_eq!(scratch.names(), ["a.safetensors", "b", "c"]);
}

pub(crate) fn file_seeds() -> Vec<Vec<u8>> {
    let seed = |number: u8| {
        make::headers()
            .into_iter()
            .map(move |(json, n)| [&[number], json.as_bytes(), b"\0", &make::weights(n, u64::from(number))].concat())
    };
    [0, 1, 2, 4].into_iter().flat_map(seed).collect()
}

/// Input: an index of shards, which is put beside one shard.
pub(crate) fn index(input: &[u8]) {
    let scratch = Scratch::new();
    let (source, archive, back) = (scratch.path("src"), scratch.path("archive"), scratch.path("back"));
    std::fs::create_dir(&source).expect("room");
    std::fs::write(source.join("a.safetensors"), &make::files()[1]).expect("room");
    std::fs::write(source.join("a.safetensors.index.json"), input).expect("room");
    if compress(&source, &archive, &make::options(0), &Silent).is_err() {
        return assert!(!archive.exists());
    }
    let archived = std::fs::read(archive.join("a.safetensors.index.json")).expect("the index");
    assert_eq!(keys(&archived), keys(input));
    let verified = verify(&archive, &VerifyOptions { threads: 1, against: Some(source) }, &Silent).expect("an archive");
    assert!(verified.is_ok(), "{:?}", verified.problems);
    restore(&archive, &back, &RestoreOptions { threads: 1, ..RestoreOptions::default() }, &Silent).expect("an archive");
    assert!(std::fs::read(back.join("a.safetensors.index.json")).expect("the index") == input, "other bytes came back");
}

fn keys(index: &[u8]) -> Vec<String> {
    let index: serde_json::Value = serde_json::from_slice(index).expect("JSON");
    index.as_object().into_iter().flat_map(|index| index.keys().cloned()).collect()
}

pub(crate) fn index_seeds() -> Vec<Vec<u8>> {
    vec![
        br#"{"metadata":{"total_size":1200},"weight_map":{"w":"a.safetensors"}}"#.to_vec(),
        b"{ \"metadata\": {\"total_size\": 12e2, \"x\": null}, \"weight_map\": {}, \"a\": [1.0, \"\\u0000\"] }\n"
            .to_vec(),
        b"{}".to_vec(),
    ]
}
