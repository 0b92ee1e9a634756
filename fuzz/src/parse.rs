//! The container's parsers: headers, manifests, chunk directories.

use netweight_container::{
    ALIGNMENT, Digest, FileKind, FolderFile, FolderManifest, Header, InputFile, Manifest, Mode, Original, Refines,
    Resident, SameAs, check_padding, check_relative_path, chunks_offset, encode_directory, padded, read_directory,
};
use netweight_tensor::{Dtype, n_bytes};
use safetensors::SafeTensors;

use crate::input::Input;
use crate::scratch::Scratch;
use crate::{forge, make};

/// Files up to this size are also given to the safetensors crate.
const MAX_COMPARED_BYTES: u64 = 1 << 20;

/// Input: size of the file (u64), then a header as it stands, length and all. Once more with the bytes taken for
/// the JSON of a header whose length and file size are right.
pub(crate) fn header(input: &[u8]) {
    let mut parts = Input::new(input);
    let file_bytes = parts.u64();
    let _ = check_header(parts.rest(), file_bytes);
    let json = Input::new(input).rest();
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json].concat();
    let file_bytes = (bytes.len() as u64).saturating_add(forge::data_bytes(json));
    let found = check_header(&bytes, file_bytes);
    if file_bytes <= MAX_COMPARED_BYTES {
        compare_with_safetensors(found, bytes, file_bytes);
    }
}

fn check_header(bytes: &[u8], file_bytes: u64) -> Result<Header, netweight_container::Error> {
    let header = Header::parse(bytes, file_bytes)?;
    let mut position = 0;
    for entry in &header.tensors {
        assert_eq!(entry.start, position);
        assert!(entry.dtype == Dtype::BYTES || n_bytes(entry.dtype, &entry.shape) == Some(entry.len_bytes()));
        position = entry.end;
    }
    assert_eq!((header.header_bytes, header.header_bytes + position), (bytes.len() as u64, file_bytes));
    Ok(header)
}

/// What one library reads, the other reads too, but for the differences that `Header` tells of.
fn compare_with_safetensors(ours: Result<Header, netweight_container::Error>, mut file: Vec<u8>, file_bytes: u64) {
    file.resize(file_bytes as usize, 0); // At most a MiB.
    match (ours, SafeTensors::deserialize(&file)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.tensors.len(), theirs.len());
            for entry in &ours.tensors {
                let tensor = theirs.tensor(&entry.name).expect("a tensor that both know");
                assert_eq!(tensor.data().len() as u64, entry.len_bytes());
            }
        }
        (Ok(ours), Err(error)) => {
            assert!(ours.tensors.iter().any(|entry| entry.dtype == Dtype::BYTES), "only we read this: {error}");
        }
        (Err(error), Ok(_)) => {
            let reasons = ["stands there twice", "does not begin with '{'"]; // The safetensors format says so, too.
            let text = error.to_string();
            assert!(reasons.iter().any(|reason| text.contains(reason)), "only they read this: {text}");
        }
        (Err(_), Err(_)) => {}
    }
}

pub(crate) fn header_seeds() -> Vec<Vec<u8>> {
    let whole = make::files()
        .into_iter()
        .zip(make::headers())
        .map(|(file, (_, data_bytes))| [&(file.len() as u64).to_le_bytes(), &file[..file.len() - data_bytes]].concat());
    whole.chain(make::headers().into_iter().map(|(json, _)| json.as_bytes().to_vec())).collect()
}

/// Input: whether the last part is a zlib stream already; then, each ended by a zero byte, the archive's header and
/// the manifest's JSON; then the original's header.
pub(crate) fn manifest(input: &[u8]) {
    let mut parts = Input::new(input);
    let is_zlib = parts.u8() % 2 == 1;
    let (archive_header, json, header) = (parts.text(), parts.text(), parts.rest());
    let mut bytes = forge::manifest_body(json, header, is_zlib);
    Manifest::seal(archive_header, &mut bytes);
    if let Ok(found) = Manifest::decode(archive_header, &bytes) {
        let mut again = found.encode().expect("what was decoded");
        Manifest::seal(archive_header, &mut again);
        assert_eq!(Manifest::decode(archive_header, &again).expect("what was encoded"), found);
    }
    assert!(Manifest::decode(archive_header, input).is_err(), "a digest out of nowhere");
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let same = SameAs { tensor: "b".to_owned(), shard: Some("other.safetensors".to_owned()) };
    let manifest = Manifest {
        writer: "w".to_owned(),
        level: "default".to_owned(),
        mode: Mode::Tensors,
        chunk_bytes: 4096,
        original: Original { bytes: 99, sha256: Digest::of(&[b"x"]), header_bytes: 10 },
        same_as: [("a".to_owned(), same)].into(),
        resident: None,
        grids: vec![],
        refines: None,
        header: b"0123456789".to_vec(),
    };
    let opaque = Manifest { mode: Mode::Opaque, same_as: Default::default(), header: vec![], ..manifest.clone() };
    let seed = |manifest: &Manifest, is_zlib: bool| {
        let body = manifest.encode().expect("a good manifest");
        let (json, zlib) = forge::split_manifest(&body);
        let last = if is_zlib { zlib } else { &manifest.header };
        [&[u8::from(is_zlib)], &b"header\0"[..], json, b"\0", last].concat()
    };
    let resident = Some(Resident { layout: "exact11".to_owned(), tensors: vec!["w".to_owned()] });
    let resident = Manifest { mode: Mode::Resident, resident, ..manifest.clone() };
    let grids = Manifest { grids: vec!["w".to_owned()], ..manifest.clone() };
    let (sha256, tensors) = (Digest::of(&[b"y"]), vec!["w".to_owned()]);
    let refines = Some(Refines { shard: "a".to_owned(), sha256, tensors });
    let refined = Manifest { mode: Mode::Refined, refines, ..manifest.clone() };
    let seeds = [
        (&manifest, false),
        (&manifest, true),
        (&opaque, false),
        (&resident, false),
        (&grids, false),
        (&refined, false),
    ];
    seeds.into_iter().map(|(manifest, is_zlib)| seed(manifest, is_zlib)).collect()
}

/// Input: the bytes of `netweight.json`, or those before its digest.
pub(crate) fn folder_manifest(input: &[u8]) {
    for bytes in [input.to_vec(), forge::folder_manifest(input)] {
        let Ok(found) = FolderManifest::decode(&bytes) else { continue };
        assert!(found.files.windows(2).all(|pair| pair[0].path < pair[1].path));
        assert!(found.files.iter().all(|file| check_relative_path(&file.path).is_ok()));
        let again = found.encode().expect("what was decoded");
        assert_eq!(FolderManifest::decode(&again).expect("what was encoded"), found);
    }
}

pub(crate) fn folder_manifest_seeds() -> Vec<Vec<u8>> {
    let text = b"{\"weight_map\":{}}";
    let file = |path: &str, kind| FolderFile {
        path: path.to_owned(),
        kind,
        bytes: text.len() as u64,
        sha256: Digest::of(&[text]),
        rewritten: matches!(kind, FileKind::Index | FileKind::Config).then(|| (Digest::of(&[b"y"]), text.to_vec())),
        refined: None,
    };
    let files = vec![
        file("a/b.json", FileKind::Side),
        file("b", FileKind::Config),
        file("c", FileKind::Index),
        file("d.safetensors", FileKind::Shard),
    ];
    let whole =
        FolderManifest { writer: "w".to_owned(), has_grids: false, files }.encode().expect("a good folder manifest");
    let body = forge::before_digest(&whole).to_vec();
    vec![whole, body]
}

/// Input: where the payload begins (u8), how many chunks it has (u16), and whether they are aligned (u8); then a file
/// whose end is the payload's.
pub(crate) fn directory(input: &[u8]) {
    let mut parts = Input::new(input);
    let (start, n_chunks) = (u64::from(parts.u8()), u64::from(parts.u16()));
    let (alignment, bytes) = (if parts.u8() % 2 == 1 { ALIGNMENT } else { 1 }, parts.rest());
    let scratch = Scratch::new();
    let input = InputFile::open(&scratch.write("payload", bytes)).expect("the file just written");
    let end = bytes.len() as u64;
    let start = start.min(end);
    let Ok(chunks) = read_directory(&input, start, end, n_chunks, alignment) else { return };
    let first = start + chunks_offset(n_chunks, alignment);
    let mut offset = first;
    for chunk in &chunks {
        assert_eq!((chunk.offset, (offset - start) % alignment), (offset, 0));
        offset += u64::from(chunk.len_bytes);
    }
    assert_eq!((chunks.len() as u64, padded(offset - start)), (n_chunks, end - start));
    let is_padded = check_padding(&input, start, &chunks, end).is_ok();
    let gap = (start + 12 * n_chunks) as usize..first as usize;
    assert_eq!(is_padded, bytes[gap].iter().chain(&bytes[offset as usize..]).all(|&byte| byte == 0));
}

pub(crate) fn directory_seeds() -> Vec<Vec<u8>> {
    let seed = |start: u8, sizes: &[u32], is_aligned: bool| {
        let mut directory =
            encode_directory(&sizes.iter().map(|&size| (size, 0x0123_4567_89ab_cdef)).collect::<Vec<_>>());
        if is_aligned {
            directory.resize(directory.len().next_multiple_of(64), 0);
        }
        let mut payload = [&directory[..], &vec![7; sizes.iter().sum::<u32>() as usize]].concat();
        payload.resize(payload.len().next_multiple_of(64), 0);
        let n_chunks = (sizes.len() as u16).to_le_bytes();
        [&[start], &n_chunks[..], &[u8::from(is_aligned)], &vec![1; usize::from(start)], &payload].concat()
    };
    vec![
        seed(0, &[], false),
        seed(0, &[1], false),
        seed(64, &[100, 0, 33], false),
        seed(5, &[52, 64], false),
        seed(3, &[128, 64], true),
    ]
}
