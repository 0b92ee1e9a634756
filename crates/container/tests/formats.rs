//! What is written is read back, and what breaks the rules is refused.

use netweight_container::{
    ArchiveHeader, AtomicFile, Digest, ErrorKind, FileKind, FolderFile, FolderManifest, Header, Manifest, Mode,
    Original, Refined, Refines, Resident, SameAs, check_format_shown, check_relative_path,
};

#[test]
fn relative_paths() {
    let check = |path: &str, holds: bool| assert_eq!(check_relative_path(path).is_ok(), holds, "{path:?}");
    check("a", true);
    check("a/b.c/..d", true);
    check("...", true);
    check("ä ö", true);
    for path in ["", ".", "..", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a\\b", "a\0"] {
        check(path, false);
    }
}

#[test]
fn archive_headers_fit_what_was_reserved() {
    let check = |names: &[&str], format: Option<&str>, sizes: &[u64]| {
        let most = sizes.iter().sum();
        let plan = ArchiveHeader::reserve(names.to_vec(), false, format, most).unwrap();
        let bytes = plan.write(sizes).unwrap();
        assert_eq!((bytes.len() as u64, bytes.len() % 64), (plan.header_bytes(), 0));
        let header = Header::parse(&bytes, plan.header_bytes() + most).unwrap();
        assert_eq!(header.tensors.len(), sizes.len());
        assert_eq!(header.tensors.last().unwrap().name, "netweight.manifest");
        assert_eq!(header.metadata.get("format").map(String::as_str), format);
    };
    check(&[], None, &[1]);
    check(&["a", "b\"\n\u{1}ü"], Some("pt"), &[0, 1 << 50, 77]);
    check(&["a", "b", "c"], None, &[0, 0, 64, 100]);
    assert!(ArchiveHeader::reserve(vec!["a"], false, None, 9).unwrap().write(&[1]).is_err());
    assert!(ArchiveHeader::reserve(vec![&"x".repeat(100_000_000)], false, None, 9).is_none());
}

fn manifest() -> Manifest {
    let same = SameAs { tensor: "b".to_owned(), shard: Some("other.safetensors".to_owned()) };
    Manifest {
        writer: "test".to_owned(),
        level: "default".to_owned(),
        mode: Mode::Tensors,
        chunk_bytes: 4096,
        original: Original { bytes: 10, sha256: Digest::of(&[b"x"]), header_bytes: 10 },
        same_as: [("a".to_owned(), same)].into(),
        resident: None,
        grids: vec![],
        refines: None,
        header: b"0123456789".to_vec(),
    }
}

#[test]
fn manifests() {
    let check = |change: &dyn Fn(&mut Manifest), expected: Option<ErrorKind>| {
        let mut manifest = manifest();
        change(&mut manifest);
        let mut bytes = manifest.encode().unwrap();
        let sealed_bytes = Manifest::sealed_bytes(&bytes);
        Manifest::seal(b"header", &mut bytes);
        assert_eq!(bytes.len() as u64, sealed_bytes);
        match (Manifest::decode(b"header", &bytes), expected) {
            (Ok(found), None) => assert_eq!(found, manifest),
            (found, expected) => assert_eq!(found.map_err(|error| error.kind()).err(), expected, "{manifest:?}"),
        }
        assert!(Manifest::decode(b"another", &bytes).is_err());
    };
    let corrupt = Some(ErrorKind::Corrupt);
    check(&|_| {}, None);
    check(&|manifest| manifest.chunk_bytes = 16 << 20, None);
    check(&|manifest| manifest.chunk_bytes = 32 << 20, corrupt);
    check(&|manifest| manifest.chunk_bytes = 5000, corrupt);
    check(&|manifest| manifest.chunk_bytes = 0, corrupt);
    check(&|manifest| manifest.original.header_bytes = 9, corrupt);
    check(&|manifest| manifest.original.header_bytes = 11, corrupt);
    check(&|manifest| manifest.mode = Mode::Opaque, corrupt);
    check(&|manifest| manifest.header.clear(), corrupt);
    let resident = |tensors: &[&str]| {
        let tensors = tensors.iter().map(|&name| name.to_owned()).collect();
        Some(Resident { layout: "any".to_owned(), tensors })
    };
    check(&|manifest| (manifest.mode, manifest.resident) = (Mode::Resident, resident(&["w"])), None);
    check(&|manifest| (manifest.mode, manifest.resident) = (Mode::Resident, resident(&[])), corrupt);
    check(&|manifest| manifest.resident = resident(&["w"]), corrupt);
    check(&|manifest| manifest.mode = Mode::Resident, corrupt);
    check(&|manifest| manifest.grids = vec!["w".to_owned()], None);
    check(
        &|manifest| {
            (manifest.mode, manifest.resident, manifest.grids) =
                (Mode::Resident, resident(&["w"]), vec!["w".to_owned()])
        },
        corrupt,
    );
    let refines = |shard: &str| {
        let (shard, tensors) = (shard.to_owned(), vec!["w".to_owned()]);
        Some(Refines { shard, sha256: Digest::of(&[b"y"]), tensors })
    };
    check(&|manifest| (manifest.mode, manifest.refines) = (Mode::Refined, refines("x.safetensors")), None);
    check(&|manifest| (manifest.mode, manifest.refines) = (Mode::Refined, refines("../x.safetensors")), corrupt);
    check(&|manifest| manifest.refines = refines("x.safetensors"), corrupt);
    check(&|manifest| manifest.mode = Mode::Refined, corrupt);
    for shard in ["", "..", "a/b", "/a", "a\\b"] {
        let change = |manifest: &mut Manifest| manifest.same_as.get_mut("a").unwrap().shard = Some(shard.to_owned());
        check(&change, corrupt);
    }
}

#[test]
fn ties_say_which_shard() {
    let check = |shard: &str, holds: bool| {
        let digest = Digest::of(&[b"x"]);
        let original = format!(r#"{{"bytes":0,"sha256":"{digest}","header_bytes":0}}"#);
        let same_as = format!(r#"{{"a":{{"tensor":"b"{shard}}}}}"#);
        let json = format!(
            r#"{{"format":1,"writer":"","level":"","mode":"tensors","chunk_bytes":4096,"original":{original},"same_as":{same_as}}}"#
        );
        let nothing = [0x78, 0x9c, 3, 0, 0, 0, 0, 1]; // A zlib stream of no bytes.
        let mut bytes = [&(json.len() as u32).to_le_bytes()[..], json.as_bytes(), &nothing].concat();
        Manifest::seal(b"header", &mut bytes);
        assert_eq!(Manifest::decode(b"header", &bytes).is_ok(), holds, "{shard}");
    };
    check("", false);
    check(r#","shard":null"#, true);
    check(r#","shard":"b""#, true);
    check(r#","shard":1"#, false);
}

#[test]
fn archives_show_the_format_of_their_original() {
    let check = |archive: &str, original: &str, holds: bool| {
        let header = |format: &str| {
            let json = if format.is_empty() {
                "{}".to_owned()
            } else {
                format!(r#"{{"__metadata__":{{"format":"{format}"}}}}"#)
            };
            let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
            Header::parse(&bytes, bytes.len() as u64).unwrap()
        };
        assert_eq!(check_format_shown(&header(archive), &header(original)).is_ok(), holds, "{archive} {original}");
    };
    check("", "", true);
    check("pt", "pt", true);
    check("", "pt", false);
    check("pt", "", false);
    check("mlx", "pt", false);
    check(&"x".repeat(64), &"x".repeat(64), true);
    check("", &"x".repeat(65), true);
    check(&"x".repeat(65), &"x".repeat(65), false);
}

#[test]
fn folder_manifests() {
    let file = |path: &str| FolderFile {
        path: path.to_owned(),
        kind: FileKind::Side,
        bytes: 1,
        sha256: Digest::of(&[b"x"]),
        rewritten: None,
        refined: None,
    };
    let mut index = file("b.safetensors.index.json");
    (index.kind, index.rewritten) = (FileKind::Index, Some((Digest::of(&[b"y"]), b"x".to_vec())));
    let check = |files: Vec<FolderFile>, holds: bool| {
        let manifest = FolderManifest { writer: "test \"digest\"".to_owned(), has_grids: false, files };
        let Ok(bytes) = manifest.encode() else { return assert!(!holds, "{manifest:?}") };
        assert_eq!(FolderManifest::decode(&bytes).unwrap(), manifest);
        assert!(holds);
        assert!(FolderManifest::decode(&[&bytes[..], b"\n"].concat()).is_err());
    };
    check(vec![], true);
    check(vec![file("a"), index, file("c/d")], true);
    check(vec![file("b"), file("a")], false);
    check(vec![file("a"), file("a")], false);
    check(vec![file("../a")], false);

    let mut shard = FolderFile { kind: FileKind::Shard, ..file("a.safetensors") };
    shard.refined = Some(Refined { bytes: 2, sha256: Digest::of(&[b"z"]) });
    assert_eq!(shard.refinement().as_deref(), Some("a.safetensors.refinement"));
    let is_read = |has_grids: bool, files: Vec<FolderFile>| {
        let manifest = FolderManifest { writer: "test".to_owned(), has_grids, files };
        FolderManifest::decode(&manifest.encode().unwrap()).is_ok_and(|found| found == manifest)
    };
    assert!(is_read(true, vec![shard.clone()]));
    assert!(!is_read(false, vec![shard.clone()]));
    assert!(!is_read(true, vec![shard.clone(), file("a.safetensors.refinement")]));
    assert!(!is_read(true, vec![FolderFile { kind: FileKind::Side, ..shard }]));
}

#[test]
fn unfinished_files_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    let stale = folder.path().join(".x.netweight-tmp-1-0");
    std::fs::write(&stale, b"stale").unwrap();
    let file = AtomicFile::create(&path, false).unwrap();
    file.write_all_at(3, b"abc").unwrap();
    assert!(!stale.exists() && !path.exists());
    let other = AtomicFile::create(&path, false).unwrap(); // One at work is not taken for a stale one.
    assert_eq!(names(), 2);
    drop(file);
    other.commit().unwrap();
    assert_eq!((names(), path.exists()), (1, true));
    assert_eq!(AtomicFile::create(&path, false).unwrap_err().kind(), ErrorKind::InvalidArgument);
    AtomicFile::create(&path, true).unwrap().commit().unwrap();
    assert_eq!(names(), 1);
}
