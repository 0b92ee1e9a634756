//! Everything in netweight that takes bytes, each as a plain function that any bytes may be fed to and that
//! panics where netweight breaks a promise: it must refuse or accept, never panic, never leak what was in memory.
//!
//! Goes in: bytes. Comes out: nothing, or a panic. `fuzz_targets/` gives the functions to libFuzzer, `bin/smoke.rs`
//! runs them without it:
//!
//!     cargo +nightly fuzz run chunk_decode
//!     cargo run --release --no-default-features --bin smoke -- 5
//!
//! Suggested reading: `chunk.rs`, `parse.rs`, `archive.rs`, `checkpoint.rs`, `config.rs`, `group.rs`; then `mutate.rs`, the driver's dice.
#![forbid(unsafe_code)]

mod archive;
mod checkpoint;
mod chunk;
mod config;
mod forge;
mod group;
mod input;
mod make;
mod packed;
mod parse;
mod scratch;

pub mod mutate;

/// An entry point with the bytes to begin with.
pub struct Target {
    /// Its name, also that of its file in `fuzz_targets/`.
    pub name: &'static str,
    /// What the bytes are fed to.
    pub run: fn(&[u8]),
    /// Inputs that get far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("chunk_decode", chunk::decode, chunk::decode_seeds),
    target("chunk_mutate", chunk::mutate, chunk::mutate_seeds),
    target("chunk_round_trip", chunk::round_trip, chunk::round_trip_seeds),
    target("chunk_describe", chunk::describe, chunk::describe_seeds),
    target("header_parse", parse::header, parse::header_seeds),
    target("manifest_decode", parse::manifest, parse::manifest_seeds),
    target("folder_manifest_decode", parse::folder_manifest, parse::folder_manifest_seeds),
    target("directory_read", parse::directory, parse::directory_seeds),
    target("archive_read", archive::read, archive::read_seeds),
    target("archive_forged", archive::forged, archive::forged_seeds),
    target("refinement_forged", archive::refined, archive::refined_seeds),
    target("folder_restore", archive::folder_restore, archive::folder_restore_seeds),
    target("file_compress", checkpoint::file, checkpoint::file_seeds),
    target("index_compress", checkpoint::index, checkpoint::index_seeds),
    target("config_read", config::read, config::read_seeds),
    target("group_decode", group::decode, group::decode_seeds),
    target("packed_decode", packed::decode, packed::decode_seeds),
];

/// The target of that name.
///
/// # Panics
/// Where there is none.
pub fn by_name(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is named {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_seed_is_handled() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            seeds.iter().for_each(|seed| (target.run)(seed));
            (target.run)(&[]);
        }
    }

    #[test]
    fn every_target_has_its_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz_targets");
        let file_name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let found: BTreeSet<String> = std::fs::read_dir(folder).unwrap().map(file_name).collect();
        assert_eq!(found, TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect());
        let manifest = include_str!("../Cargo.toml");
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        }
    }
}
