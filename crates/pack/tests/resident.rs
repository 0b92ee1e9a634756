//! Archives whose weight matrices lie in a resident layout: every byte comes back, whatever is read is right, the
//! groups are where an engine looks for them, and what is not worth a layout is stored as ever.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Tensor, problems, read_folder, safetensors, tensor, try_restore, weights, write_folder};
use netweight_container::{ErrorKind, MappedFile, Mode};
use netweight_pack::{
    Archive, ArchiveShard, CompressOptions, InspectOptions, Layout, RestoreOptions, Silent, VerifyOptions, compress,
    inspect, restore_rows, verify,
};

const LAYOUTS: [Layout; 2] = [Layout::Exact11, Layout::Exact12];

fn options(layout: Layout) -> CompressOptions {
    CompressOptions { resident: Some(layout), threads: 2, ..CompressOptions::default() }
}

fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..n_bytes.div_ceil(8)).flat_map(|_| next()).take(n_bytes).collect()
}

/// A model with matrices of one group and of several, and with tensors that are no matter for a layout.
fn model() -> Vec<Tensor> {
    let (rows, cols) = (1100, 1001); // 32 tiles a group: groups of 512, 512 and 76 rows.
    let mut odd = weights(2 * 48 * 90, 3);
    for (idx, special) in [0x7f80u16, 0xff80, 0x7fc1, 0x0001, 0x8000, 0x007f, 0x2080].into_iter().enumerate() {
        odd[100 * idx..100 * idx + 2].copy_from_slice(&special.to_le_bytes());
    }
    vec![
        tensor("norm", "BF16", &[1001], weights(2002, 1)),
        tensor("large", "BF16", &[rows, cols], weights(2 * 1100 * 1001, 2)),
        tensor("odd", "BF16", &[48, 90], odd.clone()),
        tensor("noise", "BF16", &[64, 64], noise(2 * 64 * 64)),
        tensor("narrow", "BF16", &[500, 31], weights(2 * 500 * 31, 4)),
        tensor("low", "BF16", &[15, 500], weights(2 * 500 * 15, 5)),
        tensor("cube", "BF16", &[16, 32, 2], weights(2 * 1024, 6)),
        tensor("half", "F16", &[64, 64], weights(2 * 64 * 64, 7)),
        tensor("empty", "BF16", &[0, 64], vec![]),
        tensor("tied", "BF16", &[48, 90], odd.clone()),
        tensor("tied across", "BF16", &[90, 48], odd),
        tensor("bias", "F32", &[3], vec![1; 12]),
    ]
}

fn bytes_of<'a>(tensors: &'a [Tensor], name: &str) -> &'a [u8] {
    &tensors.iter().find(|tensor| tensor.name == name).unwrap().bytes
}

/// The tensor as an engine gets it: from the mapped file.
fn mapped(shard: &ArchiveShard, name: &str) -> Option<Vec<u8>> {
    let found = shard.resident(name)?;
    let memory = Arc::new(MappedFile::open(&found.path).unwrap());
    let matrix = found.matrix(memory).unwrap();
    let mut bytes = vec![0xaa; 2 * found.rows * found.cols];
    matrix.decode(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn every_byte_comes_back() {
    let (tensors, folder) = (model(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    let original = safetensors(&tensors);
    std::fs::write(path("a.safetensors"), &original).unwrap();
    for layout in LAYOUTS {
        let archive = path(layout.name());
        let report = compress(&path("a.safetensors"), &archive, &options(layout), &Silent).unwrap();
        assert_eq!(report.files[0].mode, Some(Mode::Resident));
        assert_eq!((report.coders[layout.name()].n_chunks, report.n_tied), (4, 2));
        assert!(report.archive_bytes < report.original_bytes * 4 / 5, "{}", report.archive_bytes);
        assert_eq!(problems(&archive), Vec::<String>::new());
        let against = VerifyOptions { threads: 1, against: Some(path("a.safetensors")) };
        assert!(verify(&archive, &against, &Silent).unwrap().is_ok());
        let back = path("back").with_extension(layout.name());
        try_restore(&archive, &back).unwrap();
        assert!(std::fs::read(back).unwrap() == original);

        let shard = ArchiveShard::open(&archive).unwrap();
        for tensor in &tensors {
            let expected = ["large", "odd", "tied"].contains(&tensor.name.as_str()).then_some(&tensor.bytes);
            assert!(mapped(&shard, &tensor.name).as_ref() == expected, "{}", tensor.name);
            let mut bytes = vec![0xaa; tensor.bytes.len()];
            shard.read_tensor(&tensor.name, &mut bytes).unwrap();
            assert!(bytes == tensor.bytes, "{}", tensor.name);
        }
        assert_eq!(shard.resident("no such tensor"), None);
        let large = shard.resident("large").unwrap();
        assert_eq!((large.layout, large.rows, large.cols, large.groups.len()), (layout, 1100, 1001, 3));
        assert!(large.groups.iter().all(|group| group.start % 64 == 0 && group.end % 64 == 0));
    }
}

#[test]
fn ranges_and_rows_across_groups() {
    let (tensors, folder) = (model(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    let original = safetensors(&tensors);
    std::fs::write(path("a.safetensors"), &original).unwrap();
    compress(&path("a.safetensors"), &path("b.safetensors"), &options(Layout::Exact11), &Silent).unwrap();
    let shard = ArchiveShard::open(&path("b.safetensors")).unwrap();
    let start = shard.header().header_bytes as usize + 2002;
    let group_bytes = 512 * 1001 * 2;
    for (from, to) in [
        (start - 3, start + 5),
        (start + group_bytes - 1, start + group_bytes + 1),
        (start + 7, start + 2 * group_bytes + 9),
        (start + 2 * group_bytes, start + 1100 * 2002 + 100),
        (0, original.len()),
    ] {
        let mut bytes = vec![0xaa; to - from];
        shard.read_range(from as u64, &mut bytes).unwrap();
        assert!(bytes == original[from..to], "{from}..{to}");
    }
    for rows in [0..1, 511..513, 100..1100, 1099..1100, 7..7] {
        let mut bytes = vec![0xaa; 2002 * (rows.end - rows.start) as usize];
        shard.read_rows("large", rows.clone(), &mut bytes).unwrap();
        let range = 2002 * rows.start as usize..2002 * rows.end as usize;
        assert!(bytes == bytes_of(&tensors, "large")[range], "{rows:?}");
    }
    restore_rows(
        &path("b.safetensors"),
        "tied across",
        Some(3..5),
        &path("rows.safetensors"),
        &RestoreOptions::default(),
    )
    .unwrap();
    let written = std::fs::read(path("rows.safetensors")).unwrap();
    assert!(written.ends_with(&bytes_of(&tensors, "tied across")[3 * 96..5 * 96]));
}

#[test]
fn bytes_do_not_depend_on_threads_or_checks() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.safetensors");
    std::fs::write(&source, safetensors(&model())).unwrap();
    for layout in LAYOUTS {
        let archive = |threads, check| {
            let path = folder.path().join(format!("{}{threads}{check}", layout.name()));
            compress(&source, &path, &CompressOptions { threads, check, ..options(layout) }, &Silent).unwrap();
            std::fs::read(path).unwrap()
        };
        let expected = archive(1, true);
        for (threads, check) in [(2, true), (5, true), (1, false)] {
            assert!(archive(threads, check) == expected, "{layout:?}, {threads} threads");
        }
    }
}

/// Where nothing gains from the layout, or the size promise would break, the archive is an ordinary one.
#[test]
fn falls_back() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, tensors: &[Tensor], mode: Mode| {
        let path = |end: &str| folder.path().join(format!("{name}.{end}"));
        let original = safetensors(tensors);
        std::fs::write(path("src"), &original).unwrap();
        std::fs::rename(path("src"), path("safetensors")).unwrap();
        let report = compress(&path("safetensors"), &path("arc"), &options(Layout::Exact11), &Silent).unwrap();
        assert_eq!(report.files[0].mode, Some(mode), "{name}");
        let most = original.len() + original.len() / 1000 + 4096;
        assert!(report.archive_bytes <= most as u64, "{name}: {} became {}", original.len(), report.archive_bytes);
        assert_eq!(problems(&path("arc")), Vec::<String>::new(), "{name}");
        try_restore(&path("arc"), &path("back")).unwrap();
        assert!(std::fs::read(path("back")).unwrap() == original, "{name}");
        let shard = ArchiveShard::open(&path("arc")).unwrap();
        assert_eq!(tensors.iter().any(|t| shard.resident(&t.name).is_some()), mode == Mode::Resident, "{name}");
        if mode != Mode::Resident {
            let plain = CompressOptions { resident: None, ..options(Layout::Exact11) };
            compress(&path("safetensors"), &path("plain"), &plain, &Silent).unwrap();
            assert!(std::fs::read(path("plain")).unwrap() == std::fs::read(path("arc")).unwrap(), "{name}");
        }
    };
    let matrix = |name: &str| tensor(name, "BF16", &[64, 64], weights(8192, 1));
    let scalars = |n: u64| (0..n).map(|i| tensor(&format!("scale.{i}"), "F32", &[], weights(4, i)));
    check("a matrix", &[matrix("w")], Mode::Resident);
    check("a matrix and noise", &[tensor("n", "BF16", &[600, 1000], noise(1_200_000)), matrix("w")], Mode::Resident);
    check("noise", &[tensor("w", "BF16", &[600, 1000], noise(1_200_000))], Mode::Tensors);
    check("nothing", &[], Mode::Tensors);
    check("a vector", &[tensor("w", "BF16", &[4096], weights(8192, 1))], Mode::Tensors);
    check("reserved", &[matrix("netweight.w")], Mode::Opaque);
    check("scalars", &[matrix("w")].into_iter().chain(scalars(5000)).collect::<Vec<_>>(), Mode::Opaque);
    let wide = tensor("w", "BF16", &[16, (1 << 19) + 1], vec![0; 32 * ((1 << 19) + 1)]);
    check("too wide", &[wide], Mode::Tensors);
    let limit = tensor("w", "BF16", &[17, 1 << 19], weights(34 << 19, 1));
    check("as wide as can be", &[limit], Mode::Tensors); // A second tile for one row is larger than raw.
    let limit = tensor("w", "BF16", &[32, 1 << 19], weights(64 << 19, 1));
    check("as wide, two tiles", &[limit], Mode::Resident);

    let source = folder.path().join("a matrix.safetensors");
    let error = compress(&source, &folder.path().join("x"), &options(Layout::Bf16), &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("exact11"), "{error}");
}

#[test]
fn folders_with_ties_across_shards() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let shared = weights(300_000, 7);
    let shard = |name: &str, shape: &[u64]| {
        safetensors(&[
            tensor(name, "BF16", shape, shared.clone()),
            tensor("own", "BF16", &[64, 64], weights(8192, shape[0])),
        ])
    };
    write_folder(
        &path("src"),
        &[
            ("a.safetensors", shard("embed", &[150, 1000])),
            ("b.safetensors", shard("head", &[150, 1000])),
            ("c.safetensors", shard("turned", &[1000, 150])),
            ("config.json", b"{}".to_vec()),
        ],
    );
    compress(&path("src"), &path("arc"), &options(Layout::Exact12), &Silent).unwrap();
    assert_eq!(problems(&path("arc")), Vec::<String>::new());
    try_restore(&path("arc"), &path("back")).unwrap();
    assert!(read_folder(&path("back")) == read_folder(&path("src")));
    let archive = Archive::open(&path("arc")).unwrap();
    let (shard, _) = archive.find("head").unwrap();
    assert_eq!(shard.resident("head").unwrap().path, path("arc/a.safetensors"));
    assert!(mapped(shard, "head").unwrap() == shared);
    let (shard, _) = archive.find("turned").unwrap();
    assert_eq!(shard.resident("turned"), None);
    let mut bytes = vec![0; shared.len()];
    shard.read_tensor("turned", &mut bytes).unwrap();
    assert!(bytes == shared);
}

#[test]
fn inspection_says_how_each_tensor_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    std::fs::write(&source, safetensors(&model())).unwrap();
    compress(&source, &archive, &options(Layout::Exact11), &Silent).unwrap();
    let found = inspect(&archive, &InspectOptions { threads: 2, bounds: true }, &Silent).unwrap();
    assert_eq!(found.resident.as_deref(), Some("exact11"));
    let row = |name: &str| found.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!((row("large").coder.as_str(), row("large").layout), ("exact11", Some("exact11")));
    assert!(row("large").bits_per_element.is_some_and(|bits| bits > 11.0 && bits < 12.5));
    assert!(row("noise").coder.contains("raw") && row("noise").layout.is_none());
    assert_eq!((row("tied").stored_bytes, row("tied").layout), (Some(0), Some("exact11")));
    assert_eq!((row("tied across").stored_bytes, row("tied across").layout), (Some(0), None));
    let plain = inspect(&source, &InspectOptions::default(), &Silent).unwrap();
    assert!(plain.resident.is_none() && plain.tensors.iter().all(|tensor| tensor.layout.is_none()));
}

/// An interrupted run goes on where the same is asked for, and begins anew where another layout is, or none.
#[test]
fn resumes_the_same_layout_only() {
    let (folder, layout) = (tempfile::tempdir().unwrap(), Layout::Exact11);
    let path = |name: &str| folder.path().join(name);
    let shard = |seed| safetensors(&[tensor("w", "BF16", &[100, 50], weights(10_000, seed))]);
    write_folder(&path("src"), &[("a.safetensors", shard(1)), ("b.safetensors", shard(2))]);
    let plain = CompressOptions { resident: None, ..options(layout) };
    let check = |second: &CompressOptions, resumed: bool| {
        let (arc, whole) = (path("arc"), path("whole"));
        let staged = path(".arc.netweight-partial/tree/b.safetensors");
        let blocked = Blocking(&staged); // Stops the run at the second shard.
        compress(&path("src"), &arc, &options(layout), &blocked).unwrap_err();
        std::fs::remove_dir(&staged).unwrap();
        let report = compress(&path("src"), &arc, second, &Silent).unwrap();
        assert_eq!(report.files[0].is_resumed, resumed);
        compress(&path("src"), &whole, second, &Silent).unwrap();
        assert!(read_folder(&arc) == read_folder(&whole));
        std::fs::remove_dir_all(arc).unwrap();
        std::fs::remove_dir_all(whole).unwrap();
    };
    check(&options(layout), true);
    check(&options(Layout::Exact12), false);
    check(&plain, false);
}

/// Puts a folder where a file is to be staged.
struct Blocking<'a>(&'a Path);

impl netweight_pack::Progress for Blocking<'_> {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {
        std::fs::create_dir_all(self.0).unwrap();
    }
    fn note(&self, _text: &str) {}
}
