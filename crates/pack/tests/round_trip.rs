//! Every file that safetensors allows comes back byte for byte, within the size promise.

mod common;

use common::{
    file, problems, read_folder, round_trip, safetensors, tensor, try_compress, try_restore, weights, write_folder,
};
use netweight_container::Mode;
use netweight_pack::{Archive, CompressOptions, ErrorKind, Level, Silent, VerifyOptions, compress, verify};

#[test]
fn odd_but_legal_headers() {
    let check = |name: &str, json: &str, data: &[u8]| {
        round_trip(name, &file(json, data));
    };
    check("no tensors", "{}", b"");
    check("no tensors, metadata", r#"{"__metadata__":{"a":"b"}}"#, b"");
    check("null metadata", r#"{"__metadata__":null}"#, b"");
    check("trailing spaces", r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}      "#, b"x");
    check("spaces inside", "{ \"w\" : {\n\"dtype\":\"U8\",\t\"shape\":[ 1 ],\"data_offsets\":[0,1]}}", b"x");
    check(
        "misaligned",
        r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"F64","shape":[1],"data_offsets":[3,11]}}"#,
        b"abcdefghijk",
    );
    check(
        "header not in offset order",
        r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        b"abc",
    );
    check("scalar", r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, b"abcd");
    check("zero-size", r#"{"z":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}}"#, b"");
    check(
        "zero-size between",
        r#"{"z":{"dtype":"F32","shape":[0],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"BF16","shape":[0],"data_offsets":[1,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
        b"ab",
    );
    check("unknown dtype", r#"{"u":{"dtype":"F3_NEW","shape":[7],"data_offsets":[0,5]}}"#, b"12345");
    check(
        "escaped names",
        r#"{"\u00e4\"\\/\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
        b"ab",
    );
    check("unknown keys", r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":[{}]}}"#, b"x");
    check("reserved name", r#"{"netweight.file":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, b"x");
    check(
        "reserved name of the manifest",
        r#"{"netweight.manifest":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        b"x",
    );
    check("long format", &format!(r#"{{"__metadata__":{{"format":"{}"}}}}"#, "x".repeat(20_000)), b"");
}

#[test]
fn every_dtype() {
    for row in netweight_tensor::DTYPES {
        for n in [8u64, 4096, 1 << 20] {
            let bytes = weights((n * u64::from(row.bits) / 8) as usize, n);
            round_trip(row.name, &safetensors(&[tensor("w", row.name, &[n / 8, 8], bytes)]));
        }
    }
}

#[test]
fn many_scalars_keep_the_size_promise() {
    let tensors: Vec<_> = (0..10_000).map(|i| tensor(&format!("scale.{i}"), "F32", &[], weights(4, i))).collect();
    round_trip("scalars", &safetensors(&tensors));
}

#[test]
fn random_bytes_keep_the_size_promise() {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for n in [0usize, 8, 64, 4096, 100_000, 3 << 20] {
        let bytes: Vec<u8> = (0..n / 8).flat_map(|_| next()).collect();
        for (dtype, bits) in [("U8", 8), ("BF16", 16), ("F64", 64)] {
            round_trip(dtype, &safetensors(&[tensor("noise", dtype, &[n as u64 * 8 / bits], bytes.clone())]));
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.safetensors");
    let tensors: Vec<_> =
        (0..20).map(|i| tensor(&format!("w{i}"), "BF16", &[700_001], weights(1_400_002, i % 17))).collect();
    std::fs::write(&source, safetensors(&tensors)).unwrap();
    let archive = |level, threads| {
        let path = folder.path().join(format!("{level:?}{threads}"));
        let options = CompressOptions { level, threads, ..CompressOptions::default() };
        compress(&source, &path, &options, &Silent).unwrap();
        std::fs::read(path).unwrap()
    };
    for level in [Level::Default, Level::Max] {
        let expected = archive(level, 1);
        for threads in [2, 5] {
            assert!(archive(level, threads) == expected, "{level:?}, {threads} threads");
        }
    }
}

#[test]
fn folder_with_ties_side_files_and_index() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive, back) = (folder.path().join("src"), folder.path().join("arc"), folder.path().join("back"));
    let embedding = weights(300_000, 7);
    let first = safetensors(&[
        tensor("embed", "BF16", &[150, 1000], embedding.clone()),
        tensor("again", "BF16", &[1000, 150], embedding.clone()),
        tensor("other dtype", "F16", &[150_000], embedding.clone()),
        tensor("small", "BF16", &[8], weights(16, 1)),
    ]);
    let mut almost = embedding.clone();
    almost[1] ^= 1;
    let second = safetensors(&[
        tensor("small too", "BF16", &[8], weights(16, 1)),
        tensor("almost", "BF16", &[150_000], almost),
        tensor("head", "BF16", &[150, 1000], embedding.clone()),
    ]);
    let index = r#"{"metadata": {"total_size": 123, "x": 1.50}, "weight_map": {"embed": "m-1.safetensors", "head": "m-2.safetensors"}}"#;
    write_folder(
        &source,
        &[
            ("m-1.safetensors", first.clone()),
            ("m-2.safetensors", second),
            ("model.safetensors.index.json", index.into()),
            ("config.json", b"{}".to_vec()),
            ("empty.txt", Vec::new()),
            ("sub/other.safetensors", safetensors(&[tensor("elsewhere", "BF16", &[150_000], embedding.clone())])),
            ("sub/.cache/kept.txt", b"kept".to_vec()),
            (".cache/x", b"x".to_vec()),
            (".git/HEAD", b"x".to_vec()),
        ],
    );
    let report = try_compress(&source, &archive).unwrap();
    assert_eq!((report.n_tied, report.n_tensors), (2, 8));
    assert_eq!(report.left_out, [".cache", ".git"]);
    let stored: usize = read_folder(&archive).values().map(Vec::len).sum();
    assert_eq!(report.archive_bytes, stored as u64);
    assert_eq!(problems(&archive), Vec::<String>::new());
    let against = VerifyOptions { threads: 1, against: Some(source.clone()) };
    let found = verify(&archive, &against, &Silent).unwrap();
    let extra: Vec<_> = found.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(extra, Vec::<&str>::new(), "{found:?}");
    try_restore(&archive, &back).unwrap();
    let mut expected = read_folder(&source);
    expected.retain(|path, _| !path.starts_with(".cache") && !path.starts_with(".git"));
    assert!(read_folder(&back) == expected);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(archive.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["weight_map"]["head"], "m-2.safetensors");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(archive.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "netweight");
    assert_ne!(index["metadata"]["total_size"], 123);

    let opened = Archive::open(&archive).unwrap();
    let (shard, entry) = opened.find("head").unwrap();
    let mut head = vec![0; entry.len_bytes() as usize];
    shard.read_tensor("head", &mut head).unwrap();
    assert!(head == embedding);
    let mut rows = vec![0; 3 * 2000];
    shard.read_rows("head", 20..23, &mut rows).unwrap();
    assert!(rows == embedding[40_000..46_000]);

    std::fs::remove_file(archive.join("m-1.safetensors")).unwrap();
    let found = problems(&archive);
    assert_eq!(found.len(), 2, "the shard itself and the one tied to it: {found:?}");
    assert!(try_restore(&archive, &folder.path().join("never")).is_err());
    assert!(!folder.path().join("never").exists());
}

#[test]
fn ties_never_point_into_an_opaque_shard() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive, back) = (folder.path().join("src"), folder.path().join("arc"), folder.path().join("back"));
    let shared = weights(8192, 3);
    // So many scalars that the first shard breaks the size promise with a payload for each.
    let mut scalars: Vec<_> = (0..5000).map(|i| tensor(&format!("s{i}"), "F32", &[], weights(4, i))).collect();
    scalars.push(tensor("shared", "U8", &[8192], shared.clone()));
    let tied = |name: &str| safetensors(&[tensor(name, "U8", &[8192], shared.clone())]);
    write_folder(
        &source,
        &[("a.safetensors", safetensors(&scalars)), ("b.safetensors", tied("b")), ("c.safetensors", tied("c"))],
    );
    let report = try_compress(&source, &archive).unwrap();
    let modes: Vec<_> = report.files.iter().filter_map(|file| file.mode).collect();
    assert_eq!(modes, [Mode::Opaque, Mode::Tensors, Mode::Tensors]);
    assert_eq!(report.n_tied, 1);
    assert_eq!(problems(&archive), Vec::<String>::new());
    try_restore(&archive, &back).unwrap();
    assert!(read_folder(&back) == read_folder(&source));
}

#[test]
fn ranges_decode_what_they_cover() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, tensors: &[common::Tensor]| {
        let original = safetensors(tensors);
        let (source, archive) = (folder.path().join("a"), folder.path().join(format!("{name}.safetensors")));
        let source = source.with_extension("safetensors");
        std::fs::write(&source, &original).unwrap();
        try_compress(&source, &archive).unwrap();
        let opened = Archive::open(&archive).unwrap();
        let (_, shard) = opened.shards().next().unwrap();
        let len = original.len();
        for (start, end) in [
            (0, 0),
            (0, 8),
            (0, len),
            (5, 300),
            (len - 1, len),
            (len, len),
            (len / 3, len / 2),
            (0, 2 << 20),
            (1 << 20, len),
        ] {
            let (start, end) = (start.min(len), end.min(len));
            let mut bytes = vec![0xaa; end.saturating_sub(start)];
            shard.read_range(start as u64, &mut bytes).unwrap();
            assert!(bytes == original[start..end.max(start)], "{name}: {start}..{end}");
        }
        assert_eq!(shard.read_range(len as u64, &mut [0]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    };
    check(
        "tensors",
        &[
            tensor("a", "BF16", &[1_500_001], weights(3_000_002, 1)),
            tensor("b", "F32", &[3], weights(12, 1)),
            tensor("c", "BF16", &[1_500_001], weights(3_000_002, 1)),
        ],
    );
    check(
        "opaque",
        &[tensor("netweight.x", "BF16", &[1_500_001], weights(3_000_002, 1)), tensor("b", "U8", &[0], vec![])],
    );
}
